"""`loadsheet verify` of a part of the rows (`--since`, `--sample`), and in ranges (`--gentle`)."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.comparison import ranges
from loadsheet.comparison.digest import BUCKETS
from loadsheet.verify.look import Look
from loadsheet.verify.models import TableVerdict
from tests.core.verifying import CREATE, counts
from tests.project import Project

DAYS = """
CREATE TABLE visit (id int PRIMARY KEY, at timestamptz NOT NULL, place text);
INSERT INTO visit SELECT i, '2026-01-01'::timestamptz + i * interval '1 h', 'here'
FROM generate_series(0, 239) i;
"""
SINCE = "2026-01-06 00:00:00+00"  # of the row with the id 120


@pytest.fixture
def visits(project: Project) -> Project:
    project.in_source(DAYS)
    project.spec({"visit": {"incremental": "at"}})
    project.succeed()
    return project


def recent(project: Project) -> TableVerdict:
    return project.verify(since=SINCE)["visit"]


def test_since_compares_the_rows_from_a_cursor_on(visits: Project) -> None:
    visits.in_warehouse("UPDATE staging.visit SET place = 'there' WHERE id IN (7, 130)")
    found = recent(visits)
    assert (found.state, found.source_rows, found.target_rows) == ("differs", 120, 120)
    assert [row.key for row in found.named["different"]] == [{"id": "130"}]
    visits.in_warehouse("UPDATE staging.visit SET place = 'here' WHERE id = 130")
    assert recent(visits).state == "equal"
    assert visits.verify()["visit"].state == "differs"


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("UPDATE staging.visit SET at = '2026-01-02' WHERE id = 130", "different"),
        ("UPDATE staging.visit SET at = '2026-01-09' WHERE id = 7", "different"),
        ("DELETE FROM staging.visit WHERE id = 130", "missing"),
        ("INSERT INTO staging.visit VALUES (900, '2026-01-09', 'x', 1)", "extra"),
    ],
)
def test_a_row_whose_cursor_differs_is_neither_missing_nor_extra(
    visits: Project, damage: str, kind: str
) -> None:
    """On one side it is among the rows to compare, on the other it is not."""
    visits.in_warehouse(damage)
    found = recent(visits)
    assert counts(found) == {kind: 1}
    if kind == "different":
        [row] = found.named["different"]
        assert [change.column for change in row.changes] == ["at"]


def test_a_row_that_has_left_the_rows_to_compare_in_the_source_is_newer(visits: Project) -> None:
    visits.in_source("UPDATE visit SET at = '2026-03-01' WHERE id = 7")
    visits.in_source("INSERT INTO visit VALUES (901, '2026-03-01', 'new')")
    found = recent(visits)
    assert (found.state, found.newer) == ("equal", 2)


def test_without_a_cursor_since_is_refused_and_so_is_what_is_none(project: Project) -> None:
    project.in_source(DAYS + "CREATE TABLE code (id int PRIMARY KEY)")
    project.spec({"visit": {"incremental": "at"}, "code": None})
    project.succeed()
    found = project.verify(since=SINCE)
    assert found["visit"].state == "equal"
    assert (found["code"].state, found["code"].why) == (
        "not compared",
        "public.code has no cursor, so --since cannot choose its rows",
    )
    # Where nothing is left to compare, the input is wrong.
    wrong = cli(project, "--since", "yesterday's")
    assert wrong.exit_code == 2
    assert " ".join(wrong.stderr.split()) == (
        "error: --since yesterday's: nothing was compared. public.visit: --since yesterday's is no"
        " timestamp with time zone, the type of its cursor at"
    )
    wrong = cli(project, "code", "--since", SINCE, "--json")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "public.code has no cursor" in wrong.stderr


def test_a_name_that_there_is_not_is_wrong_input_before_anything_is_asked(
    project: Project,
) -> None:
    """As of `status --json`: a message, and no document."""
    project.spec({"visit": {"incremental": "at"}})
    for name in ("visits", "visits --json"):
        wrong = cli(project, *name.split())
        assert (wrong.exit_code, wrong.stdout) == (2, "")
        assert wrong.stderr == (
            "error: shop has no table or transform 'visits' (did you mean 'visit'?)\n"
        )


@pytest.mark.parametrize("table", [{"mode": "append", "incremental": "at"}])
def test_rows_without_a_key_are_counted_from_a_cursor_on(
    project: Project, table: dict[str, Any]
) -> None:
    project.in_source(
        "CREATE TABLE line (at timestamptz, name text); INSERT INTO line"
        " SELECT '2026-01-01'::timestamptz + i / 3 * interval '1 h', 'x'"
        " FROM generate_series(0, 239) i; INSERT INTO line VALUES ('2026-02-01', 'last')"
    )
    project.spec({"line": table})
    project.succeed()
    since = "2026-01-03 00:00:00+00"
    assert project.verify(since=since)["line"].state == "equal"
    project.in_warehouse(
        "DELETE FROM staging.line WHERE at IN ('2026-01-02', '2026-01-03 01:00:00+00')"
    )
    assert counts(project.verify(since=since)["line"]) == {"missing": 3}
    assert counts(project.verify()["line"]) == {"missing": 6}


def test_a_sample_finds_what_is_in_its_buckets_and_nothing_else(project: Project) -> None:
    """Each of 12 looks finds one of the 60 rows with 95 %: that fewer than 6 do has a chance of one
    in two million."""
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    assert Look(share=0.05).enough_rows == 59
    assert project.verify(share=0.05)["item"].state == "equal"
    project.in_warehouse("UPDATE staging.item SET name = 'x' WHERE id % 50 = 0")  # 60 rows
    looks = [project.verify(share=0.05)["item"] for _ in range(12)]
    assert sum(found.state == "differs" for found in looks) >= 6
    for found in looks:
        assert found.source_rows < 450  # of 3,000
        assert counts(found).keys() <= {"different"}
        for row in found.named["different"]:
            assert int(row.key["id"]) % 50 == 0


def test_the_stated_probability_is_right_and_looks_see_other_rows_each_time() -> None:
    assert Look(share=1.0).enough_rows == 1
    rows = Look(share=0.01).enough_rows
    assert rows == 298  # of 41 of 4,096 buckets
    chance = random.Random(17)
    found = 0
    for _ in range(2000):
        chosen = set(Look(share=0.01).buckets)
        assert len(chosen) == 41
        found += any(chance.randrange(BUCKETS) in chosen for _ in range(rows))
    assert 0.92 < found / 2000 < 0.98
    assert Look(share=0.01).buckets != Look(share=0.01).buckets


def test_a_look_at_a_part_hides_no_difference(visits: Project) -> None:
    verdicts = "SELECT is_whole, verdict, part FROM loadsheet.verified ORDER BY 1"
    part = f"rows from {SINCE} on"
    visits.in_warehouse("UPDATE staging.visit SET place = 'there' WHERE id = 7")
    visits.verify()
    recent(visits)
    assert visits.in_warehouse(verdicts) == [(False, "equal", part), (True, "differs", "")]
    visits.in_warehouse("UPDATE staging.visit SET place = 'there' WHERE id = 130")
    recent(visits)
    visits.in_warehouse("UPDATE staging.visit SET place = 'here'")
    assert recent(visits).state == "equal"
    assert visits.in_warehouse(verdicts) == [(False, "differs", part), (True, "differs", "")]
    visits.verify()
    assert visits.in_warehouse(verdicts) == [(True, "equal", "")]


@pytest.fixture
def ranged(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Ranges of a page or two; the pauses that were made."""
    pauses: list[float] = []
    monkeypatch.setattr(ranges, "_LEAST_BYTES", 1 << 14)
    monkeypatch.setattr(ranges.time, "sleep", pauses.append)
    return pauses


@pytest.mark.parametrize("hash", ["server", "md5"])
def test_gentle_reads_ranges_with_pauses_and_finds_the_same(
    project: Project, ranged: list[float], hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadsheet.comparison.pairs.shared_hash", lambda *servers: hash)
    project.in_source(CREATE + "CREATE TABLE line (name text, at timestamptz)")
    project.in_source(
        "INSERT INTO line SELECT 'line ' || i % 100, '2026-01-01' FROM generate_series(1, 3000) i;"
        "CREATE TABLE part (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);"
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (500);"
        "CREATE TABLE part_2 PARTITION OF part DEFAULT;"
        "INSERT INTO part SELECT i, 'part ' || i FROM generate_series(1, 3000) i"
    )
    project.spec({"item": {"incremental": "at"}, "line": {"mode": "replace"}, "part": None})
    project.succeed()
    found = project.verify(gentle=True)
    assert {verdict.state for verdict in found.values()} == {"equal"}
    assert {verdict.source_rows for verdict in found.values()} == {3000}
    assert len(ranged) > 30
    project.in_warehouse(
        "UPDATE staging.item SET name = 'x' WHERE id IN (1, 1500, 3000);"
        "DELETE FROM staging.part WHERE id IN (7, 2999)"
    )
    project.in_warehouse(
        "DELETE FROM staging.line WHERE ctid IN"
        " (SELECT ctid FROM staging.line WHERE name = 'line 7' LIMIT 20)"
    )
    gently, at_once = project.verify(gentle=True), project.verify()
    for name, verdict in at_once.items():
        assert verdict.counts == gently[name].counts
    assert counts(gently["item"]) == {"different": 3}
    assert counts(gently["part"]) == {"missing": 2}
    assert counts(gently["line"]) == {"missing": 20}


def test_gentle_refuses_what_has_no_pages(project: Project) -> None:
    project.in_source(CREATE + "CREATE VIEW v AS SELECT * FROM item")
    project.spec({"v": {"primary_key": ["id", "part"], "mode": "replace"}})
    project.succeed()
    found = project.verify(gentle=True)["v"]
    assert found.state == "not compared"
    assert "only plain and partitioned tables have those" in found.why


def test_a_pause_is_as_long_as_the_work_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    pauses: list[float] = []
    monkeypatch.setattr(ranges.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(ranges.time, "sleep", pauses.append)
    for seconds in ranges.with_pauses([0.5, 2.0, 1.0]):
        clock[0] += seconds
    assert pauses == [0.5, 2.0]


def cli(project: Project, *arguments: str) -> Result:
    """`loadsheet verify shop` in this process, which is faster than one of its own."""
    command = ["--project", str(project.folder), "verify", "shop", *arguments]
    return CliRunner().invoke(app, command, env=project.environment())


def test_the_command_says_what_was_compared(visits: Project) -> None:
    assert cli(visits, "--since", SINCE, "--gentle").stdout == (
        "visit: equal, 120 rows\n1 table: 1 equal\ncompared: rows from 2026-01-06 00:00:00+00 on\n"
    )
    assert cli(visits, "--sample", "5%").stdout.endswith(
        "1 table: 1 equal\ncompared: 5% of the rows\n"
        "if 59 rows or more of a table differ, one of them is found with a probability of 95%\n"
    )
    [table] = json.loads(cli(visits, "--sample", "5%", "--json").stdout)["tables"]
    assert table["part"] == "5% of the rows"
    wrong = cli(visits, "--sample", "5")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: --sample 5 is no share, such as 5% or 0.1%\n",
    )
