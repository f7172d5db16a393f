"""Which data intervals no run has read, by those that were read, the schedule and the clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loadsheet.plan.gaps import Gap, airflow_command, gaps_between, gaps_until, sentences
from loadsheet.spec.models import Lake, Pipeline, Source, Warehouse


def pipeline(schedule: str | None, catchup: bool = False) -> Pipeline:
    return Pipeline(
        name="shop",
        file=Path("pipelines/shop/pipeline.yml"),
        source=Source(conn_id="shop_db"),
        lake=Lake(conn_id="lake", bucket="lake"),
        warehouse=Warehouse(conn_id="warehouse"),
        schedule=schedule,
        catchup=catchup,
    )


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days(*bounds: tuple[int | None, int]) -> list[tuple[datetime | None, datetime]]:
    """Intervals by their days in January 2026."""
    first = at("2026-01-01")
    return [
        (None if start is None else first + timedelta(days=start - 1), first + timedelta(end - 1))
        for start, end in bounds
    ]


@pytest.mark.parametrize(
    ("read", "now", "expected"),
    [
        ([], "2026-01-20", []),  # before the first run nothing is known to be missing
        ([(1, 5)], "2026-01-05 00:10", []),
        ([(1, 5)], "2026-01-06 00:10", []),  # the scheduled run of the 5th may be under way
        ([(1, 5)], "2026-01-06 23:59", []),
        ([(1, 5)], "2026-01-07 00:00", [(5, 6)]),  # it never came
        ([(1, 5)], "2026-01-09 12:00", [(5, 8)]),
        ([(1, 3), (4, 5), (8, 9)], "2026-01-09 12:00", [(3, 4), (5, 8)]),
        ([(None, 5), (6, 9)], "2026-01-09 12:00", [(5, 6)]),  # after a full refresh
        ([(1, 15)], "2026-01-09 12:00", []),  # a person has read what is to come
    ],
)
def test_gaps_of_a_daily_schedule(
    read: list[tuple[int | None, int]], now: str, expected: list[tuple[int, int]]
) -> None:
    found = gaps_until(pipeline("@daily"), days(*read), at(now))
    assert [(gap.start, gap.end) for gap in found] == days(*expected)
    # A gap is shown in UTC, whatever offset the start has.
    assert all(gap.start.utcoffset() == timedelta(0) for gap in found)


@pytest.mark.parametrize(
    ("schedule", "now", "end"),
    [
        ("@hourly", "2026-01-09 12:30", "2026-01-09 11:00"),
        ("@weekly", "2026-01-21 12:00", "2026-01-11"),
        ("@monthly", "2026-03-02", "2026-02-01"),
        ("@quarterly", "2026-07-02", "2026-04-01"),
        ("30 5 * * MON-FRI", "2026-01-12 05:30", "2026-01-09 05:30"),  # a Monday
        ("30 5 * * MON-FRI", "2026-01-12 05:29:59.9", "2026-01-08 05:30"),
    ],
)
def test_the_last_gap_ends_where_the_latest_scheduled_run_begins(
    schedule: str, now: str, end: str
) -> None:
    [gap] = gaps_until(pipeline(schedule), days((1, 2)), at(now))
    assert (gap.start, gap.end) == (at("2026-01-02"), at(end))


def test_what_the_schedule_makes_up_for_is_not_missing() -> None:
    read = days((1, 2), (3, 4))
    for one in (pipeline("@daily", catchup=True), pipeline(None)):
        assert gaps_until(one, read, at("2026-01-20")) == gaps_between(one, read)
        assert len(gaps_between(one, read)) == 1


def test_an_interval_between_two_gaps_parts_them_in_any_order() -> None:
    read = days((1, 2), (9, 10))
    parted = days((2, 5), (6, 9))
    one = pipeline("@daily")
    [also, all_of_it] = days((5, 6), (1, 20))
    assert [(gap.start, gap.end) for gap in gaps_between(one, read, also)] == parted
    assert gaps_between(one, read, all_of_it) == []


@pytest.mark.parametrize(
    ("start_date", "expected"),
    [
        ("2026-01-03", [(3, 4), (5, 8)]),
        ("2026-01-06T00:00:00+00:00", [(6, 8)]),
        ("2026-01-07T02:00:00+02:00", [(7, 8)]),
        ("2026-01-09", []),
    ],
)
def test_nothing_is_missing_before_the_start_date(
    start_date: str, expected: list[tuple[int, int]]
) -> None:
    """A person has read a day of long ago."""
    read = days((1, 2), (4, 5))
    one = replace(pipeline("@daily"), start_date=start_date)
    found = gaps_until(one, read, at("2026-01-09 12:00"))
    assert [(gap.start, gap.end) for gap in found] == days(*expected)


@pytest.mark.parametrize(
    ("schedule", "start", "end", "first", "last"),
    [
        ("@daily", "2026-01-02", "2026-01-05", "2026-01-02", "2026-01-04"),
        # a full refresh in the middle of a day: that day's run reads the rest
        ("@daily", "2026-01-02 10:00", "2026-01-03", "2026-01-02", "2026-01-02"),
        ("@hourly", "2026-01-02", "2026-01-02 02:00", "2026-01-02", "2026-01-02 01:00"),
    ],
)
def test_airflow_is_asked_for_the_runs_whose_intervals_touch_the_gap(
    schedule: str, start: str, end: str, first: str, last: str
) -> None:
    command = airflow_command(pipeline(schedule), Gap(start=at(start), end=at(end)))
    assert command and f"--from-date {at(first).isoformat()} " in command
    assert f"--to-date {at(last).isoformat()} " in command


def test_without_a_schedule_only_the_command_line_is_named() -> None:
    gap = Gap(start=at("2026-01-02"), end=at("2026-01-05"))
    assert airflow_command(pipeline(None), gap) is None
    [text] = sentences(pipeline(None), ["orders", "lines"], [gap])
    assert text == (
        "no run has read 2026-01-02 00:00 to 2026-01-05 00:00 UTC; to read it: `loadsheet run shop"
        " --tables orders,lines --from 2026-01-02T00:00:00+00:00 --to 2026-01-05T00:00:00+00:00`"
    )


def test_of_many_gaps_the_rest_are_counted() -> None:
    gap = Gap(start=at("2026-01-02"), end=at("2026-01-05"))
    assert sentences(pipeline("@daily"), ["orders"], [gap] * 5)[3:] == [
        "2 more intervals were not read"
    ]
