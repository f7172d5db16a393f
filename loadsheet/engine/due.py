"""Which tables the step `verify` compares in a run."""

from __future__ import annotations

from datetime import UTC, datetime

from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.spec.schedule import last_fire, number_of_runs
from loadsheet.warehouse import ledger, verified
from loadsheet.warehouse.verified import Verified

# A run has ended with its last load. One that has loaded nothing has no row, and does not count.
_ENDS_OF_RUNS = """
SELECT max(committed_at) FROM loadsheet.load WHERE pipeline = %s AND load_no > %s GROUP BY run_id
"""


def due_tables(
    session: Session, pipeline: Pipeline, frequency: str, more_runs: int = 0
) -> set[str]:
    """The tables that are to be compared now: those without a verdict on all of their rows, those
    whose last verdict was that they differ, and those whose last verdict is as old as `frequency`
    says, a schedule or a number of runs. `more_runs` count as if they had been.

    By the warehouse's clock, which stamps the verdicts.
    """
    names = {table.name for table in pipeline.tables}
    if ledger.version(session) < ledger.VERSION:
        return names
    schemas = pipeline.warehouse
    verdicts = verified.read(session, pipeline.name, schemas.schema, schemas.mart_schema)
    verdicts = [verdict for verdict in verdicts if verdict.kind == "table"]
    differing = {verdict.name for verdict in verdicts if verdict.verdict == "differs"}
    whole = [verdict for verdict in verdicts if verdict.is_whole]
    runs = number_of_runs(frequency)
    if runs is None:
        recent = _since_schedule(session, whole, frequency)
    else:
        recent = _within_runs(session, pipeline.name, whole, runs - more_runs)
    return names - (recent - differing)


def _since_schedule(session: Session, verdicts: list[Verified], schedule: str) -> set[str]:
    """The tables with a verdict since the schedule last fired."""
    row = session.execute("SELECT clock_timestamp()").fetchone()
    assert row
    now: datetime = row[0]
    fired = last_fire(schedule, now.astimezone(UTC))
    return {verdict.name for verdict in verdicts if verdict.verified_at >= fired}


def _within_runs(session: Session, pipeline: str, verdicts: list[Verified], runs: int) -> set[str]:
    """The tables with a verdict after which fewer than `runs` have loaded something."""
    oldest = min((verdict.through for verdict in verdicts), default=0)
    ends = [end for (end,) in session.execute(_ENDS_OF_RUNS, (pipeline, oldest))]
    recent: set[str] = set()
    for verdict in verdicts:
        later = sum(end > verdict.verified_at for end in ends)
        if later < runs:
            recent.add(verdict.name)
    return recent
