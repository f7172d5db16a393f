"""Data intervals that no run has read, and the commands that read them.

A watermark leaves no gap: the next run reads what the last one has left. By data interval each run
reads its own, and a run that never started (the DAG was paused, the scheduler was down) leaves its
rows out. Airflow then starts only the latest run, unless the pipeline has `catchup`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loadsheet.spec.models import Pipeline, Table
from loadsheet.spec.schedule import last_fire

Interval = tuple[datetime | None, datetime]
"""Start (None: no rows are earlier) and end, which is not part of it; in UTC."""
_INSTANT = timedelta(microseconds=1)
_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Times `[start, end)` whose rows no run has read."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


def moment_of(text: str | None) -> datetime | None:
    """The time with its offset in `text`, in UTC; None for other text, such as a number."""
    try:
        moment = datetime.fromisoformat(text or "")
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):  # in UTC it may be before the year 1 or after 9999
        return None


def is_read_by_interval(table: Table) -> bool:
    """Whether the table can have gaps."""
    return table.incremental is not None and table.incremental.by == "data_interval"


def gaps_between(
    pipeline: Pipeline, read: Sequence[Interval], also: Interval | None = None
) -> list[Gap]:
    """The gaps between the intervals that were `read`, and `also` this one. Nothing is missing
    before the pipeline's `start_date`."""
    gaps: list[Gap] = []
    so_far: datetime | None = None
    for start, end in sorted([*read, also] if also else read, key=_by_start):
        if so_far is not None and start is not None and start > so_far:
            gaps.append(Gap(start=so_far, end=start))
        so_far = max(end, so_far or end)
    return _since_start(pipeline, gaps)


def _since_start(pipeline: Pipeline, gaps: Iterable[Gap]) -> list[Gap]:
    if pipeline.start_date is None:
        return list(gaps)
    begin = datetime.fromisoformat(pipeline.start_date)
    if begin.tzinfo is None:
        begin = begin.replace(tzinfo=UTC)
    begin = begin.astimezone(UTC)
    since: list[Gap] = []
    for gap in gaps:
        start = max(gap.start, begin)
        if start < gap.end:
            since.append(Gap(start=start, end=gap.end))
    return since


def _by_start(interval: Interval) -> tuple[bool, datetime]:
    start, end = interval
    return start is not None, start or end


def gaps_until(pipeline: Pipeline, read: Sequence[Interval], now: datetime) -> list[Gap]:
    """The gaps between the intervals that were `read`, and the one up to the interval that the next
    scheduled run reads. Before the first interval nothing is known."""
    gaps = gaps_between(pipeline, read)
    if not read or pipeline.schedule is None or pipeline.catchup:
        return gaps
    # Without `catchup`, Airflow starts the run of the last interval that is over, and no earlier.
    latest_end = last_fire(pipeline.schedule, now)
    latest_start = last_fire(pipeline.schedule, latest_end - _INSTANT)
    end_of_read = read[-1][1]
    if end_of_read < latest_start:
        gaps += _since_start(pipeline, [Gap(start=end_of_read, end=latest_start)])
    return gaps


def airflow_command(pipeline: Pipeline, gap: Gap) -> str | None:
    """The command that lets Airflow run the gap's intervals; None without a schedule.

    It also repeats a run that failed, or that has read another table or warehouse. One run at a
    time, because runs that overtake each other read twice.
    """
    if pipeline.schedule is None:
        return None
    # Airflow names an interval by its start.
    first = last_fire(pipeline.schedule, gap.start)
    last = last_fire(pipeline.schedule, gap.end - _INSTANT)
    return (
        f"airflow backfill create --dag-id {pipeline.name} --from-date {first.isoformat()}"
        f" --to-date {last.isoformat()} --max-active-runs 1 --reprocess-behavior completed"
    )


def command_line(pipeline: Pipeline, tables: Iterable[str], gap: Gap) -> str:
    """The command that reads the gap's rows of `tables` without Airflow."""
    return (
        f"loadsheet run {pipeline.name} --tables {','.join(tables)}"
        f" --from {gap.start.isoformat()} --to {gap.end.isoformat()}"
    )


def sentences(pipeline: Pipeline, tables: Sequence[str], gaps: Sequence[Gap]) -> list[str]:
    """One sentence per gap of the tables, with the commands that read it. Of many, the last are
    counted."""
    found: list[str] = []
    for gap in gaps[:_MOST_NAMED]:
        commands = f"`{command_line(pipeline, tables, gap)}`"
        in_airflow = airflow_command(pipeline, gap)
        if in_airflow:
            commands = f"`{in_airflow}` or {commands}"
        found.append(f"no run has read {gap}; to read it: {commands}")
    if len(gaps) > _MOST_NAMED:
        found.append(f"{len(gaps) - _MOST_NAMED} more intervals were not read")
    return found
