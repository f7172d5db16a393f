"""The data intervals of a table that were read completely: `scope.intervals` in the ledger.

A multirange joins those that adjoin, so a year of days is one entry. A load records its interval in
its own transaction; an extraction that finds no row in its interval has no load, and records it
itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loadsheet.lake.manifest import Manifest
from loadsheet.plan.gaps import Interval, is_read_by_interval, moment_of
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation

SELECTED = "(to_jsonb(scope) ->> 'intervals')::tstzmultirange AS intervals"
"""SQL for the intervals, which ledgers before version 6 do not have."""
ADVANCED = """
    CASE WHEN %(builds)s THEN intervals ELSE '{}' END
    + CASE WHEN %(read_to)s::text IS NULL THEN '{}'
        ELSE tstzmultirange(tstzrange(%(read_from)s::timestamptz, %(read_to)s::timestamptz)) END
"""
"""SQL for the intervals after a load."""
# What is known already is not written again.
_RECORD = """
UPDATE loadsheet.scope SET intervals = intervals + tstzmultirange(tstzrange(%(start)s, %(end)s))
WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND target = %(target)s
  AND NOT intervals @> tstzrange(%(start)s, %(end)s)
"""


@dataclass(frozen=True, kw_only=True)
class Read:
    """An interval that a run has read; `start` is None where it has read all rows before `end`."""

    start: datetime | None
    end: datetime


def read_by(table: Table, action: str, lower: str | None, upper: str | None) -> Read | None:
    """What a run has read that loads with this action between these bounds.

    None for a table with a watermark, and for bounds that are no times.
    """
    end = moment_of(upper)
    if not is_read_by_interval(table) or end is None:
        return None
    if action == "replace":
        return Read(start=None, end=end)
    start = moment_of(lower)
    if start is None or start >= end:
        return None
    return Read(start=start, end=end)


def advanced(table: Table, manifest: Manifest) -> dict[str, Any]:
    """The parameters of ADVANCED for the manifest's load."""
    read = None
    if not manifest.moves_watermark:
        read = read_by(table, manifest.action, manifest.lower, manifest.upper)
    return {
        # Rows that are replaced take their history with them, and a watermark leaves no gaps.
        "builds": manifest.builds_on_target and not manifest.moves_watermark,
        "read_from": read and read.start,
        "read_to": read and read.end,
    }


def record(session: Session, pipeline: str, target: Relation, read: Read) -> None:
    """Record an interval in which there was nothing to load."""
    names = {"pipeline": pipeline, "table": target.name, "target": str(target)}
    session.execute(_RECORD, {**names, "start": read.start, "end": read.end})


def as_list(found: Iterable[Any] | None) -> list[Interval]:
    """The value of SELECTED, in order; empty for None."""
    listed: list[Interval] = []
    for one in found or ():
        if one.upper is not None:
            listed.append((one.lower, one.upper))
    return listed
