"""What pipelines have done in a period, and how they are now: what a digest tells, by the ledger.

A ledger remembers the last failure of a table or mart. One that failed and recovered several times
in a period has recovered once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from loadsheet import answers
from loadsheet.freshness.ages import read_ages
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger

# The first version of the ledger that has verdicts; before it, nothing is told.
_OLDEST = 7
_WAITS_SINCE = 8
_DONE = """
SELECT pipeline, count(DISTINCT run_id), count(DISTINCT name) FILTER (WHERE is_table),
    count(DISTINCT name) FILTER (WHERE NOT is_table),
    coalesce(sum(inserted + updated + deleted), 0)::bigint
FROM (
    SELECT pipeline, run_id, true AS is_table, table_name AS name, inserted, updated, deleted
    FROM loadsheet.load WHERE committed_at >= %(start)s AND committed_at < %(end)s
    UNION ALL
    SELECT pipeline, run_id, false, transform, inserted, updated, deleted
    FROM loadsheet.transform_run WHERE committed_at >= %(start)s AND committed_at < %(end)s
) done
WHERE pipeline = ANY(%(pipelines)s) GROUP BY pipeline
"""
_FAILURES = """
SELECT pipeline, kind, name, target, code, message, worked_at IS NULL
FROM loadsheet.failure
WHERE pipeline = ANY(%(pipelines)s)
    AND (worked_at IS NULL OR worked_at >= %(start)s AND worked_at < %(end)s)
ORDER BY since, target
"""
_WAITS = """
SELECT pipeline, 'table', table_name, target FROM loadsheet.scope
WHERE pipeline = ANY(%(pipelines)s) AND waits_for <> '' ORDER BY target
"""
# A table that differs is told until it is found equal. The whole and a part of it have a verdict
# each, of which the worse one counts.
_VERDICTS = """
SELECT pipeline, kind, name, target,
    CASE WHEN bool_or(verdict = 'differs') THEN 'differs'
        WHEN bool_and(verdict = 'equal') THEN 'equal' ELSE 'not proven' END
FROM loadsheet.verified
WHERE pipeline = ANY(%(pipelines)s)
    AND (verdict = 'differs' OR verified_at >= %(start)s AND verified_at < %(end)s)
GROUP BY pipeline, kind, name, target ORDER BY target
"""


@dataclass(frozen=True, kw_only=True)
class Failing:
    """A table or mart that does not work."""

    target: str
    reason: str
    is_check: bool
    """Whether rows do not pass a check."""


@dataclass(kw_only=True)
class Day:
    """A pipeline in the period, and now."""

    pipeline: str
    runs: int = 0
    """Those that have loaded or built something."""
    tables: int = 0
    marts: int = 0
    rows: int = 0
    """Inserted, updated and deleted ones."""
    recovered: list[str] = field(default_factory=list)
    """The targets that had failed, and work again."""
    failing: list[Failing] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """The targets that lack rows for which an open transaction of the source is to be awaited."""
    differing: list[str] = field(default_factory=list)
    equal: int = 0
    """How many targets were compared and found equal."""
    not_proven: int = 0
    drift: list[str] = field(default_factory=list)
    """Columns that loads have followed. The ledger does not have them."""
    unknown: str = ""
    """Why nothing is known of it."""

    @property
    def troubles(self) -> int:
        """How many things are wrong now."""
        return len(self.failing) + len(self.late) + len(self.differing) + (1 if self.unknown else 0)


def last_due(at: str, now: datetime) -> datetime:
    """The last moment until `now` at which it was `at`, in UTC: `07:30`, or `07:30 Europe/Berlin`.

    Each day of the zone has one, also the day on which its clocks leave that time out.
    """
    clock, _, name = at.partition(" ")
    zone = ZoneInfo(name or "UTC")
    day = now.astimezone(zone).date()
    due = datetime.combine(day, time.fromisoformat(clock), zone).astimezone(UTC)
    if due > now:
        day -= timedelta(days=1)
        due = datetime.combine(day, time.fromisoformat(clock), zone).astimezone(UTC)
    return due


def read_days(
    session: Session, pipelines: Sequence[Pipeline], start: datetime, end: datetime
) -> list[Day]:
    """The period `[start, end)` of each pipeline; all are of this warehouse.

    Raises Refused where a newer Loadsheet has created the ledger, psycopg errors where the
    warehouse fails.
    """
    found = ledger.version(session)
    ledger.refuse_newer(found)
    days = {pipeline.name: Day(pipeline=pipeline.name) for pipeline in pipelines}
    # The next run of any of the pipelines brings an older one up to date.
    if found < _OLDEST:
        return list(days.values())
    asked = {"pipelines": list(days), "start": start, "end": end}
    for name, runs, tables, marts, rows in session.execute(_DONE, asked):
        day = answers.known(session, days, name)
        day.runs, day.tables, day.marts, day.rows = runs, tables, marts, rows
    known = {pipeline.name: pipeline for pipeline in pipelines}
    for name, kind, table, target, code, message, is_open in session.execute(_FAILURES, asked):
        if not _is_of(answers.known(session, known, name), kind, table, target):
            continue
        if is_open:
            is_check = ledger.is_of_check(code)
            failing = Failing(target=target, reason=message, is_check=is_check)
            days[name].failing.append(failing)
        else:
            days[name].recovered.append(target)
    if found >= _WAITS_SINCE:
        for name, kind, table, target in session.execute(_WAITS, asked):
            if _is_of(answers.known(session, known, name), kind, table, target):
                days[name].waiting.append(target)
    for name, kind, table, target, verdict in session.execute(_VERDICTS, asked):
        if _is_of(answers.known(session, known, name), kind, table, target):
            _add_verdict(days[name], target, verdict)
    for name, ages in read_ages(session, pipelines).items():
        days[name].late = [age.target for age in ages if age.is_late]
    return list(days.values())


def _add_verdict(day: Day, target: str, verdict: str) -> None:
    if verdict == "differs":
        day.differing.append(target)
    elif verdict == "equal":
        day.equal += 1
    else:
        day.not_proven += 1


def _is_of(pipeline: Pipeline, kind: Any, name: str, target: str) -> bool:
    """Whether the file of now still has the table or mart that the ledger knows."""
    warehouse = pipeline.warehouse
    if kind == "table":
        is_there = pipeline.has_table(name) or pipeline.pattern_of(name) is not None
        return is_there and target == str(Relation(warehouse.schema, name))
    return pipeline.has_transform(name) and target == str(Relation(warehouse.mart_schema, name))
