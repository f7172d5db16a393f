"""Days of 23 and 25 hours, clocks that are wrong, cursors from the end of the world: no gap, no
overlap."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from loadsheet.errors import HeldBack, Refused
from loadsheet.source import window
from loadsheet.source.bounds import Cursor
from tests.faults.oracle import judge, violations, watermark_violations
from tests.faults.scale import LONG, scaled
from tests.faults.tally import Tally
from tests.project import ROOT, Project

DST = "both clock changes of a year in 5 zones, by watermark and by interval"
CLOCKS = "wrong clocks and cursors from the future"
# When the zones change their clocks in 2026, in UTC: forward, back.
CHANGES = {
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "America/St_Johns": ("2026-03-08T05:30", "2026-11-01T04:30"),
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2026-04-04T15:00"),
    "Pacific/Auckland": ("2026-09-26T14:00", "2026-04-04T14:00"),
}
DAYS = [(zone, moment) for zone, moments in CHANGES.items() for moment in moments]
BACK = [(zone, back) for zone, (_, back) in CHANGES.items()]
# The cursor's type and how its table travels.
TABLES = {
    "zoned": ("timestamptz", "merge"),
    "local": ("timestamp", "merge"),
    "coarse": ("timestamp(0)", "merge"),
    "daily": ("date", "merge"),
    "local_log": ("timestamp", "append"),
    "daily_log": ("date", "append"),
}
# A row every so often, for so long before a clock change and after it. Nobody writes on the dot.
TICK, AROUND = (
    scaled(timedelta(minutes=15), timedelta(minutes=10)),
    scaled(timedelta(hours=2), timedelta(hours=3)),
)
FRACTION = timedelta(seconds=1, microseconds=234567)


@dataclass
class World:
    """A source whose clock can be set, and writers who live in `zone`."""

    project: Project
    zone: str
    begin: bool = True
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    rows: int = 0

    def __post_init__(self) -> None:
        self.database = self.project.source.rsplit("/", 1)[1]
        if not self.begin:
            self.project.in_source("TRUNCATE " + ", ".join(TABLES))
            return
        # A function of this name in the database's own catalog is what sessions find: the server's
        # clock, set by hand.
        self.project.in_source(
            "ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO real_clock; CREATE TABLE"
            " public.clock AS SELECT CAST('2026-01-01' AS timestamptz) AS now;"
            "GRANT SELECT ON public.clock TO PUBLIC; CREATE FUNCTION"
            " pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT now"
            " FROM public.clock'"
        )
        for table, (kind, _) in TABLES.items():
            self.project.in_source(
                f"CREATE TABLE {table} (id int PRIMARY KEY, v int, at {kind} NOT NULL)"
            )

    def spec(self, tables: list[str], **more: Any) -> None:
        entries = {}
        for table in tables:
            kind, mode = TABLES[table]
            cursor = {"cursor": "at", "hold_back": "0s", **more}
            if kind == "timestamptz":
                cursor.pop("time_zone", None)
            entries[table] = {"incremental": cursor, "mode": mode}
        self.project.spec(entries, **({"schedule": "@daily"} if "by" in more else {}))

    def at(self, moment: datetime) -> None:
        """Set the source's clock."""
        self.now = moment
        self.project.in_source("UPDATE clock SET now = %s", moment)

    def write(self, updates: bool = True) -> None:
        """A new row in every table, and a new version of an older one, stamped by the clock in the
        writers' zone."""
        self.rows += 1
        self.now += FRACTION
        statements = [
            f"SET TimeZone = '{self.zone}'",
            f"UPDATE clock SET now = '{self.now.isoformat()}'",
        ]
        for table, (_, mode) in TABLES.items():
            statements.append(f"INSERT INTO {table} VALUES ({self.rows}, 0, clock_timestamp())")
            if updates and mode == "merge":
                version = (
                    f"UPDATE {table} SET v = {self.rows}, at = clock_timestamp() WHERE id ="
                    f" {self.rows // 2}"
                )
                statements.append(version)
        self.project.in_source("; ".join(statements))

    @property
    def written(self) -> list[tuple[datetime, int]]:
        """When each row was written, by the writers' clock on the wall."""
        return [
            (at, row)
            for row, at in self.project.in_source("SELECT id, at FROM local_log ORDER BY id")
        ]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def declared(world: World) -> dict[str, Any]:
    """The spec names the zone of the writers, whatever the server's is."""
    return {"time_zone": world.zone}


def unknown(world: World) -> dict[str, Any]:
    """Each writing session sets its own zone, which nobody can know: an overlap makes up for it."""
    return {"lookback": "2h"}


def live_through(world: World, change: datetime, run: Callable[[], None], every: int) -> None:
    """The hours before a clock change and after it, a row at every tick, a run at every so many."""
    for tick in range(int(2 * AROUND / TICK)):
        world.at(change - AROUND + tick * TICK)
        world.write()
        if tick % every == 0:
            world.at(world.now + FRACTION)
            run()
    # Only when the day is over everywhere has the last row of a date been written.
    world.at(change + timedelta(days=2))
    run()


def lost_by_the_naive_reader(world: World, every: int) -> int:
    """Rows that `at > max(at seen)` never sees, with the same rows at the same runs."""
    written, seen, watermark = world.written, set(), datetime.min
    for tick in range(len(written)):
        if tick % every == 0 or tick == len(written) - 1:
            found = [(at, row) for at, row in written[: tick + 1] if at > watermark]
            seen |= {row for _, row in found}
            watermark = max([at for at, _ in found], default=watermark)
    return len(written) - len(seen)


@pytest.mark.parametrize("known", [declared, unknown])
@pytest.mark.timeout(scaled(600, 7200))
def test_no_row_of_a_day_with_a_clock_change_is_lost_or_read_twice(
    project: Project,
    chance: random.Random,
    tally: Callable[[str], Tally],
    known: Callable[[World], dict[str, Any]],
) -> None:
    days = DAYS if LONG else chance.sample(BACK, 1)
    tables = [table for table in TABLES if known is not unknown or TABLES[table][1] == "merge"]
    for number, (zone, moment) in enumerate(days):
        world = World(project, zone, begin=number == 0)
        world.spec(tables, **known(world))
        every = scaled(3, 2)
        live_through(world, utc(moment), project.succeed, every)
        for table in tables:
            verdict = judge(project, table)
            assert not verdict, (zone, moment, table, verdict)
            tally(DST).add(verdict)
            assert watermark_violations(project, table, "at") == []
        assert violations(project) == []
        naive = lost_by_the_naive_reader(world, every)
        assert (naive > 0) == ((zone, moment) in BACK)
        if known is declared:
            tally(DST).control(
                f"max(cursor), {zone} {moment[:10]}: lost {naive} of {world.rows} rows"
            )
        project.in_warehouse("DROP SCHEMA staging, loadsheet CASCADE")


def intervals(change: datetime, length: timedelta) -> list[tuple[datetime, datetime]]:
    """The intervals of a schedule in UTC around the change, until the day after it is over
    everywhere."""
    start = change.replace(hour=0, minute=0) - timedelta(days=1)
    return [
        (start + n * length, start + (n + 1) * length)
        for n in range(int(timedelta(days=4) / length))
    ]


@pytest.mark.timeout(scaled(600, 7200))
def test_intervals_over_a_clock_change_have_no_gap_and_no_overlap(
    project: Project,
    chance: random.Random,
    tally: Callable[[str], Tally],
) -> None:
    days = DAYS if LONG else chance.sample(BACK, 1)
    tables = [table for table in TABLES if TABLES[table][1] == "merge"]
    for number, (zone, moment) in enumerate(days):
        world = World(project, zone, begin=number == 0)
        world.spec(tables, **declared(world), by="data_interval")
        change, length = utc(moment), scaled(24, chance.choice([1, 3, 24])) * timedelta(hours=1)
        for start, end in intervals(change, length):
            world.at(max(start, change - AROUND))
            while world.now < min(end, change + AROUND):
                world.write(updates=False)
                world.at(world.now + TICK)
            world.at(end)
            project.succeed(interval_start=start.isoformat(), interval_end=end.isoformat())
        for table in tables:
            verdict = judge(project, table)
            assert not verdict, (zone, moment, table, verdict)
            tally(DST).add(verdict)
            read = project.in_warehouse(
                "SELECT sum(extracted) FROM loadsheet.load WHERE table_name = %s", table
            )
            assert read == [(world.rows,)], (zone, moment, table, read)
        project.in_warehouse("DROP SCHEMA staging, loadsheet CASCADE")


def test_an_interval_taken_in_utc_would_miss_rows_stamped_behind_it(
    project: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: New York's writers still write yesterday's evening when the day is over
    in UTC."""
    monkeypatch.setattr(Cursor, "at", lambda self, moment: f"CAST('{moment}' AS {self.type})")
    world = World(project, "America/New_York")
    world.spec(["local"], **declared(world), by="data_interval")
    start = utc("2026-11-01")
    for end in (start + timedelta(days=1), start + timedelta(days=2)):
        world.at(end - timedelta(hours=1))
        world.write(updates=False)
        world.at(end)
        project.succeed(
            interval_start=(end - timedelta(days=1)).isoformat(), interval_end=end.isoformat()
        )
        world.at(end + timedelta(hours=2))
        world.write(updates=False)
    world.at(start + timedelta(days=3))
    project.succeed(
        interval_start=(start + timedelta(days=2)).isoformat(), interval_end=world.now.isoformat()
    )
    lost = judge(project, "local").lost
    assert lost > 0
    tally(DST).control(f"intervals as wall clock in UTC: lost {lost} of {world.rows} rows")


def test_an_interval_the_source_has_not_reached_is_not_read(
    project: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler's clock is an hour ahead of the source's: only the scheduler's day is over."""
    world = World(project, "UTC")
    world.spec(["zoned"], by="data_interval")
    interval = {"interval_start": "2026-01-01T00:00:00Z", "interval_end": "2026-01-02T00:00:00Z"}
    world.at(utc("2026-01-01T23:00"))
    world.write()
    error = project.run(**interval)["extract.extract_zoned"].result
    assert isinstance(error, HeldBack) and error.retryable and "seconds away" in str(error)
    with monkeypatch.context() as patch:  # the negative control
        patch.setattr(window.Window, "_wait_for_the_clock", lambda self, end: None)
        project.succeed(**interval)
    world.at(utc("2026-01-01T23:30"))
    world.write(updates=False)
    lost = judge(project, "zoned").lost
    assert lost == 1
    tally(CLOCKS).control(f"the scheduler's clock believed: lost {lost} of {world.rows} rows")
    world.at(utc("2026-01-02T00:00"))
    project.succeed(**interval)
    verdict = judge(project, "zoned")
    assert not verdict
    tally(CLOCKS).add(verdict)


SHIFTED = """
import datetime, sys, time
SHIFT = {seconds}
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + SHIFT
time.time_ns = lambda: real_ns() + SHIFT * 10**9
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        signs = sys._getframe(1).f_globals["__name__"].startswith("minio")
        return cls.fromtimestamp(real() + (0 if signs and {lake} else SHIFT), tz)
datetime.datetime = Shifted
"""


def run_off_time(project: Project, hours: int, lake: bool) -> subprocess.CompletedProcess[str]:
    """`loadsheet run` where the clock is off; with `lake`, requests to the lake are signed at the
    right time."""
    (project.folder / "sitecustomize.py").write_text(
        SHIFTED.format(seconds=hours * 3600, lake=lake)
    )
    environment = {
        **project.environment(),
        "PYTHONPATH": os.pathsep.join([str(project.folder), str(ROOT)]),
    }
    command = project.command("run", "shop", "--json")
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("hours", scaled([1], [-1, 1]))
def test_the_clock_of_the_worker_decides_nothing(
    project: Project, tally: Callable[[str], Tally], hours: int
) -> None:
    """A worker whose clock is an hour off, as a process of its own: it reads and loads what any
    other would."""
    project.in_source(
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());"
        "CREATE TABLE log (id int, at timestamp NOT NULL DEFAULT clock_timestamp());"
    )
    project.spec({"item": {"incremental": "at"}, "log": {"incremental": "at"}})
    for number in range(scaled(2, 10)):
        with psycopg.connect(project.source) as writer:
            writer.execute("INSERT INTO item VALUES (%s)", (10 * number,))
            project.in_source(
                f"INSERT INTO item VALUES ({10 * number + 1}); INSERT INTO log VALUES ({number})"
            )
        done = run_off_time(project, hours, lake=True)
        assert done.returncode == 0, done.stdout + done.stderr
        said = datetime.fromisoformat(json.loads(done.stdout)["run_id"].removeprefix("cli__"))
        assert abs(said - datetime.now(UTC) - timedelta(hours=hours)) < timedelta(minutes=10), (
            "its clock was right"
        )
        for table in ("item", "log"):
            verdict = judge(project, table)
            assert not verdict
            tally(CLOCKS).add(verdict)
            assert watermark_violations(project, table, "at") == []


def test_a_lake_that_refuses_the_clock_of_the_worker_leaves_all_as_it_was(project: Project) -> None:
    """S3 checks the time of a signature; an hour is too much for it. A clean failure, and the next
    run is whole."""
    project.in_source(
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    project.in_source("INSERT INTO item SELECT generate_series(1, 10)")
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    state = "SELECT s.*, l.* FROM loadsheet.scope s, loadsheet.load l"
    before, objects = project.in_warehouse(state), project.objects()
    project.in_source("INSERT INTO item VALUES (11)")
    done = run_off_time(project, 1, lake=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert project.in_warehouse(state) == before and project.objects() == objects
    project.succeed()
    assert not judge(project, "item")


ODD = ("infinity", "-infinity", "9999-12-31 23:59:59", "0044-03-15 BC", "now", "tomorrow")


@pytest.mark.parametrize("table", TABLES if LONG else ["zoned", "local_log"])
def test_a_cursor_from_the_end_of_the_world_does_not_move_the_watermark(
    project: Project, tally: Callable[[str], Tally], table: str
) -> None:
    world = World(project, "UTC")
    world.spec([table])
    world.at(utc("2026-05-05T12:00:00.123456"))
    odd = [
        value.replace("now", "2026-05-05 11:00").replace("tomorrow", "2026-05-06 12:00")
        for value in ODD
    ]
    for place, value in enumerate(odd):
        project.in_source(f"INSERT INTO {table} VALUES ({1000 + place}, 0, '{value}')")
    project.succeed()
    for hour in range(1, 4):
        world.write(updates=False)
        world.at(utc("2026-05-05T12:00") + timedelta(hours=hour))
        project.succeed()
        [(stands,)] = project.in_warehouse("SELECT watermark FROM loadsheet.scope")
        assert stands is None or stands < "2026-05-05 15:00:00", stands
    world.at(utc("2026-05-08T12:00"))
    project.succeed()
    # An append takes each row once, so one from the future waits until its time has come.
    verdict = judge(
        project, table, where="at < '3000-01-01'" if TABLES[table][1] == "append" else "TRUE"
    )
    assert not verdict
    tally(CLOCKS).add(verdict, tried=len(ODD))
    assert violations(project) == []


def test_a_naive_watermark_is_poisoned_by_one_row_from_the_future(
    project: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(Cursor, "safe_upper", lambda self, mode: (self._highest(""), ""))
    monkeypatch.setattr(Cursor, "refuse_clock_set_back", lambda self, lower: None)
    world = World(project, "UTC")
    world.spec(["zoned"])
    world.at(utc("2026-05-05T12:00:00.123456"))
    project.in_source("INSERT INTO zoned VALUES (1000, 0, 'infinity')")
    project.succeed()
    for _ in range(5):
        world.write(updates=False)
        project.succeed()
    lost = judge(project, "zoned").lost
    assert lost == 5
    tally(CLOCKS).control(f"max(cursor) with an infinity: lost {lost} of 6 rows")


def test_a_source_whose_clock_was_set_back_is_noticed(
    project: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(project, "UTC")
    tables = ["zoned", "local", "local_log"]
    world.spec(tables)
    world.at(utc("2026-05-05T12:00:00.123456"))
    world.write(updates=False)
    world.at(utc("2026-05-05T12:01:00.123456"))
    project.succeed()
    world.at(utc("2026-05-05T11:00"))
    world.write(updates=False)
    results = project.run()
    for table in tables:
        error = results[f"extract.extract_{table}"].result
        assert (
            isinstance(error, Refused) and "set back" in str(error) and "full refresh" in str(error)
        )
    with monkeypatch.context() as patch:
        patch.setattr(Cursor, "refuse_clock_set_back", lambda self, lower: None)
        project.succeed()
        lost = sum(judge(project, table).lost for table in tables)
        assert lost == 3
        tally(CLOCKS).control(f"a clock set back and not noticed: lost {lost} of 6 rows")
    world.at(utc("2026-05-05T11:01"))
    project.succeed(full_refresh="all")
    world.write(updates=False)
    world.at(utc("2026-05-05T13:00"))
    project.succeed()
    for table in tables:
        verdict = judge(project, table)
        assert not verdict
        tally(CLOCKS).add(verdict)
