"""The document of `loadsheet status --json`: its keys are documented in docs/status.md and stay."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import datetime
from typing import Any

from loadsheet.freshness.models import Age
from loadsheet.source.holdback import Holder
from loadsheet.status.models import (
    MissingInterval,
    PipelineStatus,
    Search,
    TableStatus,
    TargetStatus,
    TransformStatus,
)
from loadsheet.warehouse.verified import Verified

FORMAT = 1
# How servers write times for us. Without it, Python would read a number such as 20240101 as a day.
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?: |$)")
_LOAD_ONLY = ("extracted", "bytes", "held_by")


def document(status: PipelineStatus) -> dict[str, Any]:
    """The entry of one pipeline."""
    return {
        "pipeline": status.pipeline,
        "at": status.at.isoformat(),
        "error": None,
        "source": {"asked": not status.source_unknown, "why_not": status.source_unknown or None},
        "tables": [_table_entry(table, status) for table in status.tables],
        "transforms": [_transform_entry(transform, status) for transform in status.transforms],
    }


def failed_document(pipeline: str, error: str) -> dict[str, Any]:
    """The entry of a pipeline whose file is broken or whose warehouse cannot be asked."""
    return {
        "pipeline": pipeline,
        "at": None,
        "error": error,
        "source": {"asked": False, "why_not": None},
        "tables": [],
        "transforms": [],
    }


def _table_entry(table: TableStatus, status: PipelineStatus) -> dict[str, Any]:
    entry = {
        "table": table.name,
        **_common_entry(table, status),
        "last_load": _commit_entry(table, status),
        "cursor": table.cursor,
        "watermark": table.watermark,
        "watermark_age_seconds": watermark_age(table, status),
        "missing_intervals": [_missing_entry(missing) for missing in table.gaps],
        "unfilled": table.unfilled,
        "deletes_search": _search_entry(table, status),
        "lag": None,
        "lag_unknown": table.lag_unknown or None,
        "held_back_by": None,
    }
    if table.lag:
        entry["lag"] = asdict(table.lag)
    if table.held_back_by:
        holder = table.held_back_by
        entry["held_back_by"] = {**asdict(holder), "age_seconds": open_for(holder, status)}
    return entry


def _search_entry(table: TableStatus, status: PipelineStatus) -> dict[str, Any] | None:
    if table.search is None:
        return None
    return {
        "at": table.search.at.isoformat(),
        "age_seconds": search_age(table.search, status),
        "gone": table.search.gone,
    }


def _missing_entry(missing: MissingInterval) -> dict[str, Any]:
    return {
        "start": missing.gap.start.isoformat(),
        "end": missing.gap.end.isoformat(),
        "airflow": missing.airflow,
        "command_line": missing.command_line,
    }


def _transform_entry(transform: TransformStatus, status: PipelineStatus) -> dict[str, Any]:
    return {
        "transform": transform.name,
        **_common_entry(transform, status),
        "materialized": transform.materialized,
        "last_build": _commit_entry(transform, status),
        "due": transform.due or None,
    }


def _common_entry(target: TargetStatus, status: PipelineStatus) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "target": target.target,
        "state": target.state,
        "rows": target.rows.number,
        "rows_exact": target.rows.exact,
        "last_error": None,
        "freshness": freshness_entry(target.age),
        "proof": _proof_entry(target.proof),
        "verified": _verified_entry(target, target.verified, status),
        "verified_in_part": _verified_entry(target, target.verified_in_part, status),
    }
    if failure := target.failure:
        entry["last_error"] = {
            "at": failure.at.isoformat(),
            "since": failure.since.isoformat(),
            "step": failure.step,
            "run_id": failure.run_id,
            "code": failure.code or None,
            "message": failure.message,
        }
    return entry


def freshness_entry(age: Age | None) -> dict[str, Any] | None:
    """How old a table or mart is compared with its limits; None for one without."""
    if age is None:
        return None
    warn, fail = age.limits.warn, age.limits.fail
    return {
        "level": age.level,
        "as_of": age.as_of.isoformat() if age.as_of else None,
        "age_seconds": age.age.total_seconds() if age.age is not None else None,
        "warn_seconds": warn.total_seconds() if warn else None,
        "fail_seconds": fail.total_seconds() if fail else None,
        "late": age.is_late,
        "cause": age.cause.text if age.cause else None,
    }


def _proof_entry(proof: Age | None) -> dict[str, Any] | None:
    """How old the last comparison is, where `fresh_within.verified` limits that."""
    if proof is None or proof.limits.fail is None:
        return None
    return {
        "age_seconds": proof.age.total_seconds() if proof.age is not None else None,
        "limit_seconds": proof.limits.fail.total_seconds(),
        "late": proof.is_late,
        "cause": proof.cause.text if proof.cause and proof.is_late else None,
    }


def _verified_entry(
    target: TargetStatus, verified: Verified | None, status: PipelineStatus
) -> dict[str, Any] | None:
    if verified is None:
        return None
    fields = asdict(verified)
    at = fields.pop("verified_at")
    # The entry around it has these.
    for key in ("kind", "name", "target", "is_whole"):
        del fields[key]
    return {
        "at": at.isoformat(),
        "age_seconds": (status.at - at).total_seconds(),
        **fields,
        "loaded_since": target.is_loaded_since(verified),
    }


def _commit_entry(target: TargetStatus, status: PipelineStatus) -> dict[str, Any] | None:
    if target.last is None:
        return None
    fields = asdict(target.last)
    at = fields.pop("at")
    # The entry around it has both.
    del fields["name"], fields["target"]
    if isinstance(target, TransformStatus):
        for key in _LOAD_ONLY:
            del fields[key]
    return {"at": at.isoformat(), "age_seconds": (status.at - at).total_seconds(), **fields}


def open_for(holder: Holder, status: PipelineStatus) -> float | None:
    """Seconds the transaction has been open, by the source's clock; None if that is not known."""
    if holder.since is None or status.source_clock is None:
        return None
    return (status.source_clock - datetime.fromisoformat(holder.since)).total_seconds()


def search_age(search: Search, status: PipelineStatus) -> float:
    """Seconds since a search for deleted rows, by the source's clock or else the warehouse's."""
    return ((status.source_clock or status.at) - search.at).total_seconds()


def watermark_age(table: TableStatus, status: PipelineStatus) -> float | None:
    """The age in seconds of the newest loaded row, by the source's clock or else the warehouse's;
    None for a cursor that is not a time."""
    if not _TIME.match(table.watermark or ""):
        return None
    try:
        newest = datetime.fromisoformat(table.watermark or "")
    except ValueError:  # a time that Python cannot hold
        return None
    clock = status.source_clock or status.at
    # A timestamp without a zone; the session's zone is that of the clock.
    if newest.tzinfo is None:
        newest = newest.replace(tzinfo=clock.tzinfo)
    return (clock - newest).total_seconds()
