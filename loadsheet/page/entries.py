"""The state of one table or mart, as an entry of the overview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadsheet.status.document import freshness_entry, open_for, watermark_age
from loadsheet.status.models import PipelineStatus, TableStatus, TargetStatus, TransformStatus

Document = dict[str, Any]


def targets_of(status: PipelineStatus) -> list[TargetStatus]:
    """The tables, then the marts."""
    return [*status.tables, *status.transforms]


def kind_of(one: TargetStatus) -> str:
    """`table` or `transform`."""
    return "table" if isinstance(one, TableStatus) else "transform"


def unknown_entry(kind: str, name: str, target: str) -> Document:
    """A table or mart of which only the name is known."""
    return {
        "kind": kind,
        "name": name,
        "target": target,
        "state": "unknown",
        "loaded_at": None,
        "age_seconds": None,
        "run_id": None,
        "lag": None,
        "lag_unknown": None,
        "watermark": None,
        "watermark_age_seconds": None,
        "rows": None,
        "rows_exact": False,
        "history": [],
        "blocker": None,
        "due": None,
        "in_spec": True,
        "error": None,
        "verified": None,
        "unverified": False,
        "freshness": None,
    }


def target_entry(
    one: TargetStatus, status: PipelineStatus, recent: Mapping[tuple[str, str], list[int]]
) -> Document:
    """The state of a table or mart; `recent` are the rows that its last loads have changed."""
    kind = kind_of(one)
    entry = unknown_entry(kind, one.name, one.target)
    entry |= {
        "state": one.state,
        "rows": one.rows.number,
        "rows_exact": one.rows.exact,
        "history": recent.get((kind, one.name), []),
        "verified": _verified_entry(one, status),
        "unverified": one.proof is not None and one.proof.is_late and not one.proof.differs,
        "freshness": freshness_entry(one.age),
    }
    if one.last:
        entry["loaded_at"] = one.last.at
        entry["age_seconds"] = (status.at - one.last.at).total_seconds()
        entry["run_id"] = one.last.run_id
    if one.failure:
        entry["error"] = {
            "at": one.failure.at,
            "since": one.failure.since,
            "step": one.failure.step,
            "run_id": one.failure.run_id,
            "code": one.failure.code or None,
            "message": one.failure.message,
        }
    if isinstance(one, TransformStatus):
        entry["materialized"] = one.materialized
        entry["due"] = one.due or None
    if isinstance(one, TableStatus):
        entry |= {
            "watermark": one.watermark,
            "cursor": one.cursor,
            "watermark_age_seconds": watermark_age(one, status),
            "lag_unknown": one.lag_unknown or None,
            "blocker": _blocker(one, status),
            "in_spec": one.in_spec,
        }
        if one.lag:
            entry["lag"] = {
                "newest": one.lag.newest,
                "ahead": one.lag.ahead,
                "seconds": one.lag.seconds,
                "distance": one.lag.distance,
            }
    return entry


def _verified_entry(one: TargetStatus, status: PipelineStatus) -> Document | None:
    look = one.verdict
    if look is None:
        return None
    return {
        "at": look.verified_at,
        "age_seconds": (status.at - look.verified_at).total_seconds(),
        "verdict": look.verdict,
        "part": look.part or None,
        "missing": look.missing,
        "extra": look.extra,
        "different": look.different,
        "through": look.through,
        "loaded_since": one.is_loaded_since(look),
    }


def _blocker(table: TableStatus, status: PipelineStatus) -> Document | None:
    """What holds the table back now, or held back its last load if it has not caught up since."""
    if table.held_back_by:
        open_seconds = open_for(table.held_back_by, status)
        return {"who": table.held_back_by.who, "now": True, "open_seconds": open_seconds}
    has_caught_up = table.lag is not None and not table.lag.ahead
    if table.last and table.last.held_by and not has_caught_up:
        return {"who": table.last.held_by, "now": False, "open_seconds": None}
    return None
