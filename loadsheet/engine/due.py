"""Which tables and marts the step `verify` compares in a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from loadsheet.plan.steps import verified_marts
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.spec.schedule import last_fire, number_of_runs
from loadsheet.warehouse import ledger, verified
from loadsheet.warehouse.verified import Verified

# A run has ended with its last load. One that has loaded nothing has no row, and does not count.
_ENDS_OF_RUNS = """
SELECT max(committed_at) FROM loadsheet.load
WHERE pipeline = %s AND committed_at > %s GROUP BY run_id
"""


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is to be compared now. A table and a mart may have the same name."""

    tables: frozenset[str]
    marts: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.tables or self.marts)


def due_now(session: Session, pipeline: Pipeline, frequency: str, more_runs: int = 0) -> Due:
    """The tables and marts that are to be compared now: those without a verdict on all of their
    rows, those whose last verdict was that they differ, and those whose last verdict is as old as
    `frequency` says, a schedule or a number of runs. `more_runs` count as if they had been. Marts
    are those of `verified_marts`.

    By the warehouse's clock, which stamps the verdicts.
    """
    tables = frozenset(table.name for table in pipeline.tables)
    marts = frozenset(verified_marts(pipeline))
    if ledger.version(session) < ledger.VERSION:
        return Due(tables=tables, marts=marts)
    schemas = pipeline.warehouse
    verdicts = verified.read(session, pipeline.name, schemas.schema, schemas.mart_schema)
    whole = [verdict for verdict in verdicts if verdict.is_whole]
    runs = number_of_runs(frequency)
    if runs is None:
        recent = _since_schedule(session, whole, frequency)
    else:
        recent = _within_runs(session, pipeline.name, whole, runs - more_runs)
    differing = [verdict for verdict in verdicts if verdict.verdict == "differs"]
    return Due(
        tables=tables - (_names(recent, "table") - _names(differing, "table")),
        marts=marts - (_names(recent, "transform") - _names(differing, "transform")),
    )


def _names(verdicts: Iterable[Verified], kind: ledger.Kind) -> frozenset[str]:
    return frozenset(verdict.name for verdict in verdicts if verdict.kind == kind)


def _since_schedule(session: Session, verdicts: list[Verified], schedule: str) -> list[Verified]:
    """The verdicts since the schedule last fired."""
    row = session.execute("SELECT clock_timestamp()").fetchone()
    assert row
    now: datetime = row[0]
    fired = last_fire(schedule, now.astimezone(UTC))
    return [verdict for verdict in verdicts if verdict.verified_at >= fired]


def _within_runs(
    session: Session, pipeline: str, verdicts: list[Verified], runs: int
) -> list[Verified]:
    """The verdicts after which fewer than `runs` have loaded something."""
    if not verdicts:
        return []
    oldest = min(verdict.verified_at for verdict in verdicts)
    ends = [end for (end,) in session.execute(_ENDS_OF_RUNS, (pipeline, oldest))]
    return [
        verdict for verdict in verdicts if sum(end > verdict.verified_at for end in ends) < runs
    ]
