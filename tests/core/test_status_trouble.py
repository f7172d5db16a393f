"""`loadsheet status` where something is not as it should be: odd values, tables gone or locked, a
broken file."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from loadsheet.sql.text import ident
from loadsheet.status import source
from tests.core.test_status import cli, states, status, watched
from tests.project import Project

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
EVIL = "z\x1b]0;owned\x07\u202e\x9b2J\norders  0s ago  1  all is fine"


def lines(project: Project) -> list[str]:
    return list(cli(project, project.name).stdout.splitlines())


def line_of(project: Project, table: str) -> str:
    return next(line for line in lines(project) if line.startswith(table))


@pytest.fixture
def evil(project: Project) -> Project:
    """A table, a row and a failure whose texts steer a screen and look like lines of their own."""
    project.in_source("CREATE TABLE notes (id int PRIMARY KEY); INSERT INTO notes VALUES (1)")
    table = ident(f"log_{EVIL[:20]}")
    project.in_source(
        f"CREATE TABLE {table} (id text PRIMARY KEY); CREATE TABLE {ident('unfit_' + EVIL[:20])} ()"
    )
    project.spec(
        {
            "notes": {"incremental": "id", "mode": "append"},
            "log_*": None,
            "unfit_*": {"incremental": "at"},
        },
        tasks={"retries": 0},
    )
    assert project.cli("run", project.name).returncode == 1
    # A watermark that an earlier version has read from a text column.
    project.in_warehouse("UPDATE loadsheet.scope SET watermark = %s WHERE watermark = '1'", EVIL)
    assert (
        EVIL
        in project.in_warehouse("SELECT watermark FROM loadsheet.scope WHERE table_name = 'notes'")[
            0
        ]
    )
    return project


def test_values_and_names_of_the_source_neither_steer_a_screen_nor_look_like_lines(
    evil: Project,
) -> None:
    shown = cli(evil, evil.name).stdout
    assert not STEERING.search(shown) and "\\x1b]0;owned\\x07\\u202e" in shown
    assert re.search(r"^log_z\\x1b", shown, re.MULTILINE) and not re.search(
        "^orders", shown, re.MULTILINE
    )
    assert "extract of unfit_z\\x1b" in shown
    assert STEERING.search(EVIL)  # the control


def test_a_watch_as_json_is_as_harmless(evil: Project) -> None:
    command = evil.command("status", evil.name, "--watch", "60", "--json")
    with subprocess.Popen(command, env=evil.environment(), stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout
        line = p.stdout.readline()
        p.send_signal(signal.SIGINT)
    assert not STEERING.search(line.rstrip("\n"))
    assert EVIL in [table["watermark"] for table in json.loads(line)["pipelines"][0]["tables"]]


def test_a_long_watermark_leaves_room_for_the_names(project: Project) -> None:
    project.in_source("CREATE TABLE a_name_that_matters (id numeric PRIMARY KEY)")
    project.in_source("INSERT INTO a_name_that_matters VALUES (repeat('9', 300)::numeric)")
    project.spec({"a_name_that_matters": {"incremental": "id", "mode": "append"}})
    project.succeed()
    assert len(line_of(project, "a_name_that_matters")) < 90
    assert status(project)["tables"]["a_name_that_matters"]["watermark"] == "9" * 300


def test_a_number_that_reads_as_a_day_is_a_number(project: Project) -> None:
    project.in_source(
        "CREATE TABLE events (id int PRIMARY KEY); INSERT INTO events VALUES (20240101)"
    )
    project.in_source(
        "CREATE TABLE days (day date PRIMARY KEY); INSERT INTO days VALUES ('2024-01-01')"
    )
    project.spec({"events": {"incremental": "id"}, "days": {"incremental": "day"}})
    project.succeed()
    found = status(project)["tables"]
    assert found["events"]["watermark_age_seconds"] is None
    assert found["days"]["watermark_age_seconds"] > 86_400  # the control


@pytest.mark.parametrize(("kind", "newest"), [("numeric", "NaN"), ("float8", "Infinity")])
def test_a_distance_that_is_no_number_is_unknown_and_the_document_stays_json(
    project: Project, kind: str, newest: str
) -> None:
    project.in_source(f"CREATE TABLE n (v {kind} PRIMARY KEY); INSERT INTO n VALUES (5)")
    project.spec({"n": {"incremental": "v"}})
    project.succeed()
    project.in_source(f"INSERT INTO n VALUES ('{newest}')")
    text = cli(project, project.name, "--json").stdout
    (table,) = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))[
        "pipelines"
    ][0]["tables"]
    assert (table["state"], table["lag"]["newest"], table["lag"]["distance"]) == (
        "behind",
        newest,
        None,
    )
    assert line_of(project, "n ").endswith(" ahead")


@pytest.fixture
def pair(project: Project) -> Iterator[Project]:
    """Two loaded tables and a mart."""
    project.in_source(
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b AS TABLE a"
    )
    project.spec({"a": None, "b": None}, {"m": "SELECT id FROM a"}, tasks={"retries": 0})
    project.succeed()
    yield project


def test_a_table_that_has_left_the_spec_is_said_to_have_and_its_failure_is_settled(
    pair: Project,
) -> None:
    pair.in_source("DROP TABLE b")
    pair.run()
    assert states(pair)["b"] == "failed"
    pair.spec({"a": None})
    b = status(pair)["tables"]["b"]
    assert (b["state"], b["last_error"], b["rows"]) == ("loaded", None, 1)
    assert line_of(pair, "b ").endswith("not in the spec") and not any(
        "failed" in line for line in lines(pair)
    )


def test_a_table_that_is_gone_from_the_warehouse_is_said_to_be_until_the_next_run(
    pair: Project,
) -> None:
    pair.in_warehouse("DROP TABLE staging.a CASCADE; ALTER TABLE mart.m RENAME TO other")
    found = status(pair)
    assert (found["tables"]["a"]["state"], found["tables"]["b"]["state"]) == ("gone", "loaded")
    assert found["transforms"]["m"]["due"] == "its table is gone"
    assert line_of(pair, "a ").endswith("its table is gone")
    pair.succeed()
    assert (states(pair)["a"], pair.differences("a")) == ("loaded", 0)


def test_a_locked_table_has_its_rows_unknown_and_hides_no_other(pair: Project) -> None:
    with psycopg.connect(pair.warehouse) as session:
        session.execute("LOCK TABLE staging.a IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        found = status(pair)["tables"]
        assert time.monotonic() - began < 4
    assert [(found[name]["state"], found[name]["rows"]) for name in "ab"] == [
        ("loaded", None),
        ("loaded", 1),
    ]


def test_a_source_that_takes_too_long_is_said_to(
    pair: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_SOURCE_TIMEOUT", timedelta(seconds=0))
    found = status(pair)
    assert found["source"] == {"asked": False, "why_not": "it did not answer within 0 s"}
    assert found["tables"]["a"]["rows"] == 1


def test_the_trouble_of_one_named_pipeline_is_in_its_document(pair: Project) -> None:
    pair.warehouse = "postgresql://nobody:secret@127.0.0.1:1/none"
    done = cli(pair, pair.name, "--json")
    (found,) = json.loads(done.stdout)["pipelines"]
    assert (done.exit_code, found["pipeline"], found["tables"]) == (1, "shop", [])
    assert "connection failed" in found["error"] and "secret" not in done.stdout
    text = cli(pair, pair.name)
    assert (text.exit_code, text.stdout) == (1, "") and text.stderr.startswith(
        "error: the warehouse (connection 'warehouse'): connection failed"
    )


def test_a_watch_outlives_a_file_that_is_broken_for_a_moment(pair: Project) -> None:
    spec = pair.folder / "pipelines" / "shop" / "pipeline.yml"
    good = spec.read_text()
    command = pair.command("status", "shop", "--watch", "0.2", "--json")
    with subprocess.Popen(command, env=pair.environment(), stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout

        def until(is_broken: bool) -> str:
            while True:
                (found,) = json.loads(p.stdout.readline())["pipelines"]
                if bool(found["error"]) == is_broken:
                    return str(found["error"])

        until(False)
        spec.write_text("version: 2\n")
        assert "pipeline.yml:1:10 version" in until(True)
        spec.unlink()
        until(True)
        spec.write_text(good)
        until(False)
        p.send_signal(signal.SIGINT)
        assert p.wait(30) == 0


@pytest.mark.parametrize(("height", "left_out"), [(40, False), (16, True)])
def test_a_watch_on_a_low_terminal_shows_what_is_wrong(
    project: Project, height: int, left_out: bool
) -> None:
    project.in_source("".join(f"CREATE TABLE t{i} (id int PRIMARY KEY);" for i in range(20)))
    project.spec({f"t{i}": None for i in range(20)}, tasks={"retries": 0})
    project.succeed()
    project.in_source("DROP TABLE t7")
    project.run()
    screen = watched(project, columns=100, lines=height)
    assert (
        b"extract of t7 failed" in screen
        and (b"(left out: 19 without a problem)" in screen) is left_out
    )
    assert (b"t19 " in screen) is not left_out
