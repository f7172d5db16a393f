"""Data intervals that no run has read are known, named, and read by the command that is shown."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.outcome import Outcome
from tests.project import Project

DAY = timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
SOURCE = """
CREATE TABLE reading (at timestamptz PRIMARY KEY, value int DEFAULT 1);
INSERT INTO reading
SELECT i FROM generate_series(date_trunc('day', now(), 'UTC') - interval '9 d', now(), '6 h') i;
CREATE TABLE other (LIKE reading INCLUDING ALL);
INSERT INTO other TABLE reading;
"""
BY_INTERVAL = {"incremental": {"cursor": "at", "by": "data_interval"}}
TABLES = {"defaults": BY_INTERVAL, "tables": {"reading": None, "other": None}}


@pytest.fixture
def daily(project: Project) -> Project:
    """Two tables that are read by interval, every day."""
    project.in_source(SOURCE)
    project.spec(**TABLES, schedule="@daily")
    return project


def read_days(project: Project, *days: int, length: int = 1) -> str:
    """The scheduled runs of these days, which are counted from today; the last one's message."""
    for day in days:
        results = project.run(
            interval_start=(TODAY + day * DAY).isoformat(),
            interval_end=(TODAY + (day + length) * DAY).isoformat(),
        )
        assert {result.state for result in results.values()} <= {"done", "skipped"}, results
    outcome = results["extract.extract_reading"].result
    assert isinstance(outcome, Outcome)
    return outcome.message


def cli(project: Project, *arguments: str) -> str:
    done = CliRunner().invoke(
        app,
        ["--project", str(project.folder), *arguments],
        env=project.environment() | {"COLUMNS": "1000"},
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def missing(project: Project, table: str = "reading") -> list[dict[str, Any]]:
    (status,) = json.loads(cli(project, "status", project.name, "--json"))["pipelines"]
    (found,) = (entry for entry in status["tables"] if entry["table"] == table)
    intervals: list[dict[str, Any]] = found["missing_intervals"]
    return intervals


def days_of(found: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """The bounds in days from today."""
    return [
        (
            (datetime.fromisoformat(one["start"]) - TODAY) / DAY,
            (datetime.fromisoformat(one["end"]) - TODAY) / DAY,
        )
        for one in found
    ]


def ranges(project: Project) -> int:
    [(count,)] = project.in_warehouse(
        "SELECT count(*) FROM loadsheet.scope, unnest(intervals) WHERE table_name = 'reading'"
    )
    return int(count)


def test_what_runs_have_left_out_is_named_and_read_by_the_command_that_is_shown(
    daily: Project,
) -> None:
    assert "no run has read" not in read_days(daily, -8, -7)
    assert ranges(daily) == 1  # days that adjoin are one entry
    # Not read yet either, but the next scheduled run will: yesterday.
    assert days_of(missing(daily)) == [(-6, -1)]
    # The DAG was paused for three days. Airflow starts the latest run only.
    message = read_days(daily, -3, -2)
    since, until = (f"{TODAY + day * DAY:%Y-%m-%d} 00:00" for day in (-6, -3))
    assert f"no run has read {since} to {until} UTC" in message
    [gap] = missing(daily)
    assert days_of([gap]) == [(-6, -3)]
    first, last = ((TODAY + day * DAY).isoformat() for day in (-6, -4))
    assert gap["airflow"] == (
        f"airflow backfill create --dag-id shop --from-date {first} --to-date {last}"
        " --max-active-runs 1 --reprocess-behavior completed"
    )
    assert gap["airflow"] in message and gap["command_line"] in message
    # Both tables share the sentence.
    assert f"reading, other: no run has read {since} to {until}" in cli(daily, "status", "shop")
    assert daily.differences("reading") > 0
    cli(daily, *shlex.split(gap["command_line"])[1:])
    assert missing(daily) == [] and days_of(missing(daily, "other")) == [(-6, -3)]
    assert ranges(daily) == 1
    assert "no run has read" not in read_days(daily, -1)


def test_an_interval_without_rows_was_read_too(daily: Project) -> None:
    read_days(daily, -5)
    daily.in_source("DELETE FROM reading")
    assert "nothing new" in read_days(daily, -4, -3, -2)
    assert missing(daily) == [] and ranges(daily) == 1
    before = daily.in_warehouse(
        "SELECT xmin::text FROM loadsheet.scope WHERE table_name = 'reading'"
    )
    read_days(daily, -3)
    # What is known is not written again: an idle run writes nothing.
    assert (
        daily.in_warehouse("SELECT xmin::text FROM loadsheet.scope WHERE table_name = 'reading'")
        == before
    )


def test_an_interval_that_failed_was_not_read(
    daily: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_days(daily, -5)
    monkeypatch.setenv("LOADSHEET_FAILPOINT", "load.advanced:raise")
    with pytest.raises(AssertionError):
        read_days(daily, -4)
    monkeypatch.delenv("LOADSHEET_FAILPOINT")
    read_days(daily, -3, -2)
    assert (-4, -3) in days_of(missing(daily)) + days_of(missing(daily, "other"))


def test_a_full_refresh_leaves_no_gap(daily: Project) -> None:
    read_days(daily, -8, -3)
    with psycopg.connect(daily.source) as writer:
        # It was open before the refresh looks, and may write a row that the refresh does not see.
        writer.execute("CREATE TEMPORARY TABLE busy ()")
        [(began,)] = writer.execute("SELECT now()").fetchall()
        daily.succeed(full_refresh="all")
    [(start, end)] = daily.in_warehouse(
        "SELECT lower_inf(intervals), upper(intervals) FROM loadsheet.scope"
        " WHERE table_name = 'reading'"
    )
    # A second before, because a cursor's type may round down.
    assert start and end == began - timedelta(seconds=1)
    assert missing(daily) == []


def test_an_interval_that_ends_in_the_future_was_read_until_now(daily: Project) -> None:
    bounds = ("--from", f"{TODAY - DAY:%Y-%m-%d}", "--to", f"{TODAY + 5 * DAY:%Y-%m-%d}")
    cli(daily, "run", "shop", "--tables", "reading", *bounds)
    [(end, now)] = daily.in_warehouse(
        "SELECT upper(intervals), now() FROM loadsheet.scope WHERE table_name = 'reading'"
    )
    assert now - timedelta(minutes=5) < end < now


def test_with_catchup_what_the_schedule_will_read_is_not_missing(daily: Project) -> None:
    read_days(daily, -8)
    assert days_of(missing(daily)) == [(-7, -1)]
    daily.spec(**TABLES, schedule="@daily", start_date="2026-01-01", catchup=True)
    assert missing(daily) == []
    read_days(daily, -6)
    assert days_of(missing(daily)) == [(-7, -6)]


def test_a_ledger_of_version_5_knows_of_no_gap(daily: Project) -> None:
    read_days(daily, -8, -6)
    daily.in_warehouse("ALTER TABLE loadsheet.scope DROP COLUMN intervals")
    daily.in_warehouse("COMMENT ON SCHEMA loadsheet IS 'ledger version 5'")
    assert missing(daily) == []  # only a run brings it up to date
    read_days(daily, -3, -1)
    assert days_of(missing(daily)) == [(-2, -1)]


ZONELESS = "ALTER TABLE reading ALTER at TYPE timestamp"


@pytest.mark.parametrize(
    ("first", "then", "change", "refused"),
    [
        ("at", "at", "SELECT 1", ""),
        ("at", "stamp", "ALTER TABLE reading RENAME at TO stamp", ""),
        ("at", "made", "SELECT 1", "cursor made is not the column at that increments were read by"),
        (
            "made",
            "made",
            "ALTER TABLE reading DROP made, ADD made timestamptz NOT NULL DEFAULT now()",
            "cursor made is not the column made that increments were read by",
        ),
        (
            "made",
            "made",
            "ALTER TABLE reading ALTER made TYPE timestamp",
            "cursor made was timestamp with time zone and is timestamp without time zone now",
        ),
    ],
)
def test_what_was_read_by_another_cursor_does_not_count_as_read(
    project: Project, first: str, then: str, change: str, refused: str
) -> None:
    """It went on, and `status` told of no gap where rows had never been read."""
    project.in_source(SOURCE)
    # By `made`, each row is in another interval than by `at`.
    project.in_source("ALTER TABLE reading ADD made timestamptz NOT NULL DEFAULT now(), ADD id int")
    project.in_source(
        "UPDATE reading SET made = at - interval '2 days', id = extract(epoch FROM at)"
    )

    def spec(cursor: str) -> None:
        table = {"primary_key": "id", "incremental": {"cursor": cursor, "by": "data_interval"}}
        project.spec({"reading": table}, schedule="@daily")

    spec(first)
    read_days(project, -5, -4)
    project.in_source(change)
    spec(then)
    interval = {
        "interval_start": (TODAY - 3 * DAY).isoformat(),
        "interval_end": (TODAY - 2 * DAY).isoformat(),
    }
    planned = project.cli("plan", "shop", "--connect")
    if not refused:
        assert planned.returncode == 0, planned.stdout
        project.succeed(**interval)
        return
    assert planned.returncode == 1 and refused in " ".join(planned.stdout.split())
    assert refused in str(project.run(**interval)["extract.extract_reading"].result)
    if first != then:
        text = cli(project, "status", "shop")
        assert f"its intervals were read by {first}, not by {then}" in text
        assert missing(project) == []
    project.succeed(full_refresh="all")
    assert project.differences("reading") == 0
    assert "its intervals were read by" not in cli(project, "status", "shop")
    project.succeed(**interval)


def test_intervals_without_rows_have_their_cursor_recorded_too(project: Project) -> None:
    """After a watermark, the intervals of one cursor were taken for those of the next."""
    project.in_source(SOURCE)
    project.in_source("ALTER TABLE reading ADD made timestamptz NOT NULL DEFAULT now()")
    project.in_source("DELETE FROM reading")
    project.in_source("INSERT INTO reading (at, made) VALUES ('2026-01-10', '2026-01-02 12:00')")

    def spec(cursor: str, by: str) -> None:
        table = {"incremental": {"cursor": cursor, "by": by}}
        project.spec({"reading": table}, schedule="@daily", start_date="2026-01-01")

    spec("at", "watermark")
    project.succeed()
    spec("at", "data_interval")
    day = {"interval_start": "2026-01-02T00:00:00Z", "interval_end": "2026-01-03T00:00:00Z"}
    project.succeed(**day)
    assert project.succeed(**day)["extract.extract_reading"] == "skipped"
    spec("made", "data_interval")
    found = project.run(**day)["extract.extract_reading"].result
    assert "cursor made is not the column at" in str(found)


def test_an_interval_of_another_zone_is_refused_also_with_a_lookback(project: Project) -> None:
    """Without a zone, and with a lookback, the bounds moved by hours and no run told."""
    project.in_source(f"{SOURCE} {ZONELESS}")

    def spec(**zone: str) -> None:
        cursor = {"cursor": "at", "by": "data_interval", "lookback": "1h", **zone}
        project.spec({"reading": {"incremental": cursor}}, schedule="@daily")

    spec(time_zone="America/New_York")
    read_days(project, -5)
    spec()
    result = project.run(
        interval_start=(TODAY - 4 * DAY).isoformat(), interval_end=(TODAY - 3 * DAY).isoformat()
    )["extract.extract_reading"].result
    assert "the cursor's time zone America/New_York -> UTC" in str(result)


def read_hours(project: Project, *hours: int) -> None:
    """The scheduled runs of 6 hours each, from these hours of the day before yesterday on: all have
    ended, at any time of today."""
    for hour in hours:
        project.succeed(
            interval_start=(TODAY - 2 * DAY + timedelta(hours=hour)).isoformat(),
            interval_end=(TODAY - 2 * DAY + timedelta(hours=hour + 6)).isoformat(),
        )


STAMPED = """
CREATE TABLE stamped (id int PRIMARY KEY, at timestamptz NOT NULL);
CREATE FUNCTION stamp(text, text) RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT date_trunc(
        $2, date_trunc('day', now(), 'UTC') - interval '2 days' + $1::interval, 'UTC') $$;
"""


@pytest.mark.parametrize("unit", ["day", "hour", "minute", "microsecond"])
def test_a_row_whose_time_is_cut_off_below_its_interval_is_read(
    project: Project, unit: str
) -> None:
    """date_trunc('day', now()) at 14:00 is 00:00, in an interval that was read at 06:00."""
    project.in_source(STAMPED)
    project.spec(
        {"stamped": {"incremental": {"cursor": "at", "by": "data_interval"}}}, schedule="@daily"
    )
    project.in_source(
        f"INSERT INTO stamped SELECT i, stamp(i || ' h', '{unit}') FROM generate_series(-48, 5) i"
    )
    before = {
        "interval_start": (TODAY - 5 * DAY).isoformat(),
        "interval_end": (TODAY - 2 * DAY).isoformat(),
    }
    project.succeed(**before, explicit_interval=True)
    for number, start in enumerate((0, 6, 12, 18)):
        read_hours(project, start)
        # Written while the next interval lasts.
        for minute in (5, 200, 355):
            at = f"stamp('{start + 6} h {minute} min 1.5 s', '{unit}')"
            project.in_source(f"INSERT INTO stamped VALUES ({1000 * number + 100 + minute}, {at})")
    read_hours(project, 24)
    assert project.differences("stamped") == 0


@pytest.mark.parametrize(("lookback", "lost"), [("2h", 0), ("30m", 1), (None, 1)])
def test_an_interval_reads_the_rows_of_the_lookback_before_it(
    project: Project, lookback: str | None, lost: int
) -> None:
    """The lookback had no effect."""
    project.in_source(STAMPED)
    cursor = {"cursor": "at", "by": "data_interval", "lookback": lookback}
    project.spec({"stamped": {"incremental": cursor}}, schedule="@daily")
    project.in_source(
        "INSERT INTO stamped SELECT i, stamp(i || ' h 1 s', 'microsecond') FROM"
        " generate_series(0, 5) i"
    )
    read_hours(project, 0)
    # An application gives the time, an hour late.
    project.in_source("INSERT INTO stamped VALUES (100, stamp('5 h 0.123456 s', 'microsecond'))")
    read_hours(project, 6)
    assert project.differences("stamped") == lost


def test_readings_at_regular_times_are_read_with_their_interval_only(project: Project) -> None:
    """The bucket of the last one before the interval ends where the interval begins."""
    project.in_source(STAMPED)
    project.spec(
        {"stamped": {"incremental": {"cursor": "at", "by": "data_interval"}}}, schedule="@daily"
    )
    project.in_source(
        "INSERT INTO stamped SELECT i, stamp(i || ' h', 'hour') FROM generate_series(-48, 30) i"
    )
    read_hours(project, 6)
    assert project.in_warehouse("SELECT array_agg(id ORDER BY id) FROM staging.stamped") == [
        ([6, 7, 8, 9, 10, 11],)
    ]
