"""Cursors that change: initial values that are moved, sequences that are set back, other columns,
and runs that read by interval in between."""

from __future__ import annotations

import psycopg
import pytest

from loadsheet.errors import Refused
from tests.core.cursors import refusal
from tests.faults.oracle import judge
from tests.project import Project


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_an_initial_value_that_was_moved_back_brings_the_rows_between(
    project: Project, mode: str
) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL UNIQUE)")
    project.in_source("INSERT INTO t SELECT i, i FROM generate_series(1, 100) i")

    def start(value: int | None) -> None:
        cursor = {"cursor": "n", **({} if value is None else {"initial_value": value})}
        project.spec({"t": {"incremental": cursor, "mode": mode}})

    for value, rows in ((61, 40), (31, 70), (80, 70), (31, 70), (21, 80), (None, 100), (50, 100)):
        start(value)
        project.succeed()
        assert project.in_warehouse("SELECT count(*) FROM staging.t") == [(rows,)], value
    start(1)
    project.in_source("INSERT INTO t VALUES (101, 101)")
    project.succeed()
    assert not judge(project, "t")


def test_the_plan_counts_the_rows_that_an_initial_value_moved_back_brings(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE t (n int PRIMARY KEY)")
    project.in_source("INSERT INTO t SELECT generate_series(1, 100)")
    project.spec({"t": {"incremental": {"cursor": "n", "initial_value": 61}}})
    project.succeed()
    project.spec({"t": {"incremental": {"cursor": "n", "initial_value": 31}}})
    assert "30 rows" in project.cli("plan", "shop", "--connect").stdout


SET_BACK = {
    "setval": "SELECT setval('t_id_seq', 5)",
    "restart": "ALTER SEQUENCE t_id_seq RESTART WITH 3",
    "truncate": "TRUNCATE t RESTART IDENTITY; INSERT INTO t DEFAULT VALUES",
    "a number of its own": "INSERT INTO t VALUES (1000)",
}


@pytest.mark.parametrize("mode", ["merge", "append"])
@pytest.mark.parametrize("name", SET_BACK)
def test_a_sequence_that_is_behind_the_watermark_is_refused(
    project: Project, name: str, mode: str
) -> None:
    project.in_source("CREATE TABLE t (id bigserial PRIMARY KEY)")
    project.in_source("INSERT INTO t SELECT FROM generate_series(1, 20)")
    project.spec({"t": {"incremental": "id", "mode": mode}})
    project.succeed()
    project.in_source(SET_BACK[name])
    if name == "a number of its own":
        project.succeed()
    error = refusal(project)
    assert isinstance(error, Refused)
    assert "sequence public.t_id_seq has counted to" in str(error)
    assert "SELECT setval('public.t_id_seq'," in str(error)
    project.in_source("SELECT setval('t_id_seq', greatest(20, (SELECT max(id) FROM t)))")
    if name != "truncate":
        project.succeed()
    project.succeed(full_refresh="all")
    project.in_source("INSERT INTO t DEFAULT VALUES")
    project.succeed()
    assert not judge(project, "t")


@pytest.mark.parametrize("type_name", ["date", "timestamp", "timestamptz"])
def test_a_lookback_beyond_the_first_day_of_its_type_reads_all_rows(
    project: Project, type_name: str
) -> None:
    """It was an error of the server: timestamp out of range."""
    project.in_source(f"CREATE TABLE t (id int PRIMARY KEY, at {type_name} NOT NULL)")
    project.in_source("INSERT INTO t VALUES (1, '4700-01-01 BC')")
    project.spec({"t": {"incremental": {"cursor": "at", "lookback": "99999d"}}})
    project.succeed()
    project.in_source("INSERT INTO t VALUES (2, '4712-01-01 BC'), (3, '-infinity')")
    project.succeed()
    assert not judge(project, "t")


def test_a_sequence_is_compared_as_the_cursors_type_holds_its_numbers(project: Project) -> None:
    """A real rounds 16777221 up: the sequence seemed to be behind the watermark."""
    project.in_source(
        "CREATE TABLE t (id int PRIMARY KEY, at real NOT NULL);"
        " CREATE SEQUENCE numbers START 16777227; CREATE FUNCTION give() RETURNS trigger"
        " LANGUAGE plpgsql AS $$ BEGIN NEW.at := nextval('numbers'); RETURN NEW; END $$;"
        " CREATE TRIGGER give BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION give();"
        " INSERT INTO t VALUES (1)"
    )
    project.spec({"t": {"incremental": "at"}})
    project.succeed()
    project.succeed()
    assert not judge(project, "t")


def test_numbers_that_a_trigger_takes_in_blocks_are_refused(project: Project) -> None:
    project.in_source(
        "CREATE TABLE t (id bigint PRIMARY KEY, other int); CREATE SEQUENCE numbers CACHE 20;"
        " CREATE FUNCTION give() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.id := nextval('numbers'); RETURN NEW; END $$;"
        " CREATE TRIGGER give BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION give()"
    )
    project.spec({"t": {"incremental": "id"}})
    assert "in blocks of 20" in str(refusal(project))
    # A trigger that fills another column says nothing about the cursor.
    project.in_source("ALTER SEQUENCE numbers CACHE 1; DROP TRIGGER give ON t")
    project.succeed()


DAY = {"interval_start": "2026-08-01T00:00:00Z", "interval_end": "2026-08-02T00:00:00Z"}
BY_INTERVAL = {"by": "data_interval"}
# How a table is read before its columns change, and in the runs in between.
BETWEEN: dict[str, tuple[dict[str, str], list[tuple[dict[str, str], dict[str, object]]]]] = {
    "no run": ({}, []),
    "an interval that a person gives": ({}, [({}, {**DAY, "explicit_interval": True})]),
    "another way to read": ({}, [(BY_INTERVAL, DAY)]),
    "a full refresh by interval": ({}, [(BY_INTERVAL, {**DAY, "full_refresh": "all"})]),
    "an interval of a table with a watermark": (
        BY_INTERVAL,
        [({}, {**DAY, "explicit_interval": True})],
    ),
}


def read_by(project: Project, cursor: str = "at", **more: str) -> None:
    project.spec({"t": {"incremental": {"cursor": cursor, **more}}}, schedule="@daily")


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("forgets", [False, True])
def test_no_run_hides_that_the_cursor_is_another_column(
    project: Project, between: str, forgets: bool
) -> None:
    """A run of an interval recorded the new columns, and the next increment read by one of them
    above the watermark of another. An older ledger records no place of the cursor."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, other timestamptz)")
    project.in_source(
        "INSERT INTO t VALUES (1, '2026-08-01 12:00', '2026-08-01 12:00'),"
        " (2, now(), '2026-08-01 12:00')"
    )
    how, runs = BETWEEN[between]
    read_by(project, **how)
    project.succeed(**(DAY if how else {}))
    if forgets:
        project.in_warehouse(
            "UPDATE loadsheet.scope SET source = source - 'watermark_place' - 'interval_place'"
        )
    project.in_source("ALTER TABLE t RENAME at TO old; ALTER TABLE t RENAME other TO at")
    for more, request in runs:
        read_by(project, **more)
        project.succeed(**request)
    project.in_source("INSERT INTO t VALUES (3, '2026-01-01', '2026-01-01')")
    read_by(project, **how)
    found = refusal(project, **(DAY if how else {}))
    assert "cursor at is not the column at that increments were read by" in str(found)
    project.succeed(full_refresh="all")
    project.succeed(**(DAY if how else {}))
    assert not judge(project, "t")


def test_a_cursor_may_be_renamed_before_an_interval_is_read(project: Project) -> None:
    """The next increment was refused: it is the same column."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
    project.in_source("INSERT INTO t VALUES (1, now())")
    read_by(project)
    project.succeed()
    project.in_source("ALTER TABLE t RENAME at TO stamp")
    read_by(project, "stamp")
    project.in_source("INSERT INTO t VALUES (2, '2026-08-01 12:00')")
    project.succeed(**DAY, explicit_interval=True)
    project.in_source("INSERT INTO t VALUES (3, now())")
    project.succeed()
    assert not judge(project, "t")


def test_an_interval_of_another_cursor_keeps_the_watermarks_zone(project: Project) -> None:
    """A load by a cursor with a time zone forgot it."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamp, other timestamptz)")
    project.in_source("INSERT INTO t VALUES (1, '2026-01-01', '2026-08-01 12:00')")
    read_by(project, time_zone="Europe/Berlin")
    project.succeed()
    read_by(project, "other", **BY_INTERVAL)
    project.succeed(**DAY)
    read_by(project, time_zone="America/New_York")
    assert "the cursor's time zone Europe/Berlin -> America/New_York" in str(refusal(project))


@pytest.mark.parametrize("then", [{}, {"lookback": "1s"}])
def test_a_lookback_that_goes_is_kept_for_one_more_run(
    project: Project, then: dict[str, str]
) -> None:
    """A row of a transaction that the last run could not see was below its watermark, and the first
    run without a lookback left it out."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
    project.in_source("INSERT INTO t VALUES (1, now())")
    read_by(project, lookback="1h")
    project.in_source(f"REVOKE pg_read_all_stats FROM {project.extractor}")
    project.succeed()
    with psycopg.connect(project.source) as late:
        late.execute("INSERT INTO t VALUES (2, now() - interval '1 min')")
        project.in_source("INSERT INTO t VALUES (3, clock_timestamp())")
        project.succeed()
    project.in_source(f"GRANT pg_read_all_stats TO {project.extractor}")
    read_by(project, **then)
    project.succeed()
    assert not judge(project, "t")
    if not then:
        # Once is enough.
        assert project.succeed()["extract.extract_t"] == "skipped"
