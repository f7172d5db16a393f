"""`loadsheet verify`: each damaged row is found and named."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.comparison.digest import BUCKETS, Side, Value
from loadsheet.sql.text import Relation
from tests.core.verifying import CREATE, counts
from tests.project import Project

MODES = {"merge": {"incremental": "at"}, "replace": None}


# What is done to row `id`, and what must be found: the kind and the columns.
DAMAGES: list[tuple[str, int, str, list[str]]] = [
    ("DELETE FROM staging.item WHERE id = 7", 7, "missing", []),
    ("INSERT INTO staging.item (id, part, _load_id) VALUES (9999, 0, 1)", 9999, "extra", []),
    ("UPDATE staging.item SET name = 'name 8 ' WHERE id = 8", 8, "different", ["name"]),
    ("UPDATE staging.item SET name = NULL WHERE id = 8", 8, "different", ["name"]),
    ("UPDATE staging.item SET price = 1.0 WHERE id = 7", 7, "different", ["price"]),
    ("UPDATE staging.item SET weight = '-0' WHERE id = 7", 7, "different", ["weight"]),
    ("UPDATE staging.item SET doc = '{\"a\": 1.00}' WHERE id = 7", 7, "different", ["doc"]),
    ("UPDATE staging.item SET at = now(), name = '' WHERE id = 9", 9, "different", ["name", "at"]),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hash", ["server", "md5"])
def test_one_damaged_row_is_found_and_named(
    project: Project, mode: str, hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadsheet.comparison.pairs.shared_hash", lambda *servers: hash)
    project.in_source(CREATE)
    project.spec({"item": MODES[mode]})
    project.succeed()
    assert project.verify()["item"].state == "equal"
    for damage, id, kind, columns in DAMAGES:
        with psycopg.connect(project.warehouse) as session:
            session.execute("CREATE TABLE before AS SELECT * FROM staging.item")
            assert session.execute(damage).rowcount == 1
            session.commit()
            verdict = project.verify()["item"]
            session.execute("TRUNCATE staging.item; INSERT INTO staging.item SELECT * FROM before")
            session.execute("DROP TABLE before")
        assert verdict.state == "differs", damage
        assert counts(verdict) == {kind: 1}, damage
        [row] = verdict.named[kind]  # type: ignore[index]
        assert row.key == {"id": str(id), "part": str(id % 3)}
        assert [change.column for change in row.changes] == columns
    assert project.verify()["item"].state == "equal"


def test_tables_of_key_columns_alone_are_compared_by_two_hashes() -> None:
    key = Value("id", "integer")
    two = Side(Relation("public", "item"), (key,), (0,), "server")
    one = Side(Relation("public", "item"), (key,), (0,), "server", keys_only=True)
    assert "'0'" in one.digests(range(BUCKETS))
    assert "'0'" in one.total()
    assert two.digests(range(BUCKETS)).count("sum(hashint4extended") == 2
    assert two.total().count("sum(hashint4extended") == 2


SCANS: dict[str, dict[str, Any]] = {
    "merge": {"incremental": "at"},
    "replace": {"mode": "replace"},
    "some rows are never loaded": {"incremental": {"cursor": "at", "initial_value": "2026-01-01"}},
}


@pytest.mark.parametrize("how", SCANS)
def test_equal_tables_are_summed_once_and_others_once_more(
    project: Project, how: str, looks: list[str]
) -> None:
    """By buckets, and at once where the source has rows that the target need not have: there,
    totals of all rows would differ in every look."""
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, name text, at timestamptz)")
    is_by_buckets = "never" in how
    project.in_source(
        "INSERT INTO item SELECT i, 'a', timestamptz '2026-02-01' FROM generate_series(1, 9) i"
        + " UNION ALL SELECT 10, 'a', '2025-01-01'" * is_by_buckets
    )
    project.spec({"item": SCANS[how]})
    project.succeed()
    assert project.verify()["item"].state == "equal"
    assert looks == ["buckets" if is_by_buckets else "total"] * 2
    looks.clear()
    project.in_warehouse("UPDATE staging.item SET name = 'b' WHERE id = 7")
    assert counts(project.verify()["item"]) == {"different": 1}
    assert looks == ["total"] * 2 * (not is_by_buckets) + ["buckets"] * 2
    looks.clear()
    project.in_source("UPDATE item SET name = 'b', at = '2026-02-02' WHERE id = 7")
    assert project.verify()["item"].newer == 1 + is_by_buckets
    assert looks == ["buckets"] * 2


def test_two_rows_that_have_swapped_their_values_are_both_named(project: Project) -> None:
    """The negative control compares what a checklist compares: count, sum, minimum and maximum."""
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_warehouse(
        "UPDATE staging.item SET price = CASE id WHEN 7 THEN 8 / 7.0 ELSE 7 / 7.0 END"
        " WHERE id IN (7, 8)"
    )
    aggregates = "SELECT count(*), sum(price), min(price), max(price) FROM {}.item"
    in_source = project.in_source(aggregates.format("public"))
    assert in_source == project.in_warehouse(aggregates.format("staging"))
    verdict = project.verify()["item"]
    assert counts(verdict) == {"different": 2}
    assert {row.key["id"] for row in verdict.named["different"]} == {"7", "8"}


def test_what_no_increment_will_ever_read_is_a_difference(project: Project) -> None:
    """Rows that came late with an old cursor, an update without a new cursor, and a deleted row."""
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_source(
        "INSERT INTO item (id, part, at) VALUES (8000, 0, '2020-01-01');"
        "UPDATE item SET name = 'silent' WHERE id = 4; DELETE FROM item WHERE id = 5"
    )
    project.succeed()
    verdict = project.verify()["item"]
    assert counts(verdict) == {"missing": 1, "extra": 1, "different": 1}
    assert verdict.named["missing"][0].key["id"] == "8000"
    project.succeed(full_refresh=["item"])
    assert project.verify()["item"].state == "equal"


def test_a_dot_in_the_name_of_the_schema_is_no_separator(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": None}, warehouse={"conn_id": "warehouse", "schema": "sta.ging"})
    project.succeed()
    assert project.verify()["item"].state == "equal"


@pytest.mark.parametrize("length", [2_000, 2_001, 5_000_000])
def test_long_values_are_told_apart_and_never_fetched(project: Project, length: int) -> None:
    """100 rows with documents of 5 MB took 1.5 GB."""
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, name text, doc text, n int)")
    project.in_source(f"INSERT INTO item SELECT 1, repeat('é', {length}), repeat('x', {length}), 1")
    project.spec({"item": None})
    project.succeed()
    project.in_warehouse("UPDATE staging.item SET n = NULL, doc = left(doc, -1) || 'y'")
    [row] = project.verify()["item"].named["different"]
    changes = {change.column: (change.source, change.target) for change in row.changes}
    assert list(changes) == ["doc", "n"] and changes["n"] == ("1", None)
    source, target = changes["doc"]
    if length > 2_000:
        assert str(source).startswith(f"{length} characters, SHA-256 ") and len(str(source)) < 100
    else:
        assert (source, target) == ("x" * length, "x" * (length - 1) + "y")
