"""The document of `loadsheet status --json`: its keys are documented in docs/status.md and stay."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import datetime
from typing import Any

from loadsheet.source.holdback import Holder
from loadsheet.status.models import PipelineStatus, TableStatus, TargetStatus, TransformStatus

FORMAT = 1
# As servers write times for us. Python takes a number such as 20240101 for a day as well.
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?: |$)")


def document(found: PipelineStatus) -> dict[str, Any]:
    """One pipeline."""
    return {
        "pipeline": found.pipeline,
        "at": found.at.isoformat(),
        "error": None,
        "source": {"asked": not found.source_unknown, "why_not": found.source_unknown or None},
        "tables": [_table(table, found) for table in found.tables],
        "transforms": [_transform(transform, found) for transform in found.transforms],
    }


def failed_document(pipeline: str, error: str) -> dict[str, Any]:
    """A pipeline whose spec is broken or whose warehouse cannot be asked."""
    return {
        "pipeline": pipeline,
        "at": None,
        "error": error,
        "source": {"asked": False, "why_not": None},
        "tables": [],
        "transforms": [],
    }


def _table(table: TableStatus, found: PipelineStatus) -> dict[str, Any]:
    lag = table.lag
    return {
        "table": table.name,
        **_common(table, found),
        "last_load": _work(table, found),
        "cursor": table.cursor,
        "watermark": table.watermark,
        "watermark_age_seconds": watermark_age(table, found),
        "lag": None if lag is None else asdict(lag),
        "lag_unknown": table.lag_unknown or None,
        "held_back_by": _holder(table.held_back_by, found),
    }


def _transform(transform: TransformStatus, found: PipelineStatus) -> dict[str, Any]:
    return {
        "transform": transform.name,
        **_common(transform, found),
        "materialized": transform.materialized,
        "last_build": _work(transform, found),
        "due": transform.due or None,
    }


def _common(standing: TargetStatus, found: PipelineStatus) -> dict[str, Any]:
    failure = standing.failure
    return {
        "target": standing.target,
        "state": standing.state,  # type: ignore[attr-defined]
        "rows": standing.rows.number,
        "rows_exact": standing.rows.exact,
        "last_error": (
            None
            if failure is None
            else {
                "at": failure.at.isoformat(),
                "since": failure.since.isoformat(),
                "step": failure.step,
                "run_id": failure.run_id,
                "code": failure.code or None,
                "message": failure.message,
            }
        ),
    }


def _work(standing: TargetStatus, found: PipelineStatus) -> dict[str, Any] | None:
    if standing.last is None:
        return None
    fields = asdict(standing.last)
    at = fields.pop("at")
    del fields["name"], fields["target"]
    if isinstance(standing, TransformStatus):
        for key in ("extracted", "bytes", "held_by"):
            del fields[key]
    return {"at": at.isoformat(), "age_seconds": (found.at - at).total_seconds(), **fields}


def _holder(holder: Holder | None, found: PipelineStatus) -> dict[str, Any] | None:
    return None if holder is None else {**asdict(holder), "age_seconds": open_for(holder, found)}


def open_for(holder: Holder, found: PipelineStatus) -> float | None:
    """Seconds the transaction has been open, by the source's clock; None where that cannot be
    known."""
    if holder.since is None or found.source_clock is None:
        return None
    return (found.source_clock - datetime.fromisoformat(holder.since)).total_seconds()


def watermark_age(table: TableStatus, found: PipelineStatus) -> float | None:
    """How old the newest loaded row is, by the source's clock or else the warehouse's; None for
    other cursors."""
    if not _TIME.match(table.watermark or ""):
        return None
    try:
        newest = datetime.fromisoformat(table.watermark or "")
    except ValueError:  # a time Python cannot hold
        return None
    clock = found.source_clock or found.at
    return (
        clock - (newest if newest.tzinfo else newest.replace(tzinfo=clock.tzinfo))
    ).total_seconds()
