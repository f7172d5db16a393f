"""An empty or shrunk answer of the source never empties the warehouse, also where nobody has set a
limit."""

from __future__ import annotations

from typing import Any

import pytest

from loadsheet.warehouse import apply
from tests.project import Project

ROWS = 3_000
MERGED = {"incremental": "at"}
TABLES: dict[str, Any] = {
    "swapped": None,
    "in_place": None,
    "keyless": None,
    "whole_hard": {"mode": "merge", "deletes": "hard"},
    "whole_soft": {"mode": "merge", "deletes": "soft"},
    "merged": {"incremental": "at"},
    "merged_hard": MERGED | {"deletes": "hard"},
    "merged_soft": MERGED | {"deletes": "soft"},
}
SHRINK = {"empty": "TRUNCATE {}", "a tenth": "DELETE FROM {} WHERE id > 300"}


def begin(project: Project) -> None:
    for name in TABLES:
        key = "" if name == "keyless" else "PRIMARY KEY"
        project.in_source(
            f"CREATE TABLE {name} (id int {key}, at timestamptz DEFAULT clock_timestamp());"
            f"INSERT INTO {name} SELECT i FROM generate_series(1, {ROWS}) i"
        )
    project.spec(TABLES, tasks={"retries": 0})
    project.succeed()
    project.in_warehouse("CREATE TABLE public.referring (id int REFERENCES staging.in_place)")


def live_rows(project: Project) -> dict[str, int]:
    found = {}
    for name in TABLES:
        where = " WHERE _deleted_at IS NULL" if name.endswith("soft") else ""
        [(found[name],)] = project.in_warehouse(f"SELECT count(*) FROM staging.{name}{where}")
    return found


@pytest.mark.parametrize("answer", SHRINK)
def test_no_table_without_options_loses_its_rows_at_once(project: Project, answer: str) -> None:
    begin(project)
    left = 0 if answer == "empty" else 300
    for name in TABLES:
        project.in_source(SHRINK[answer].format(name))
    for request in ({}, {"full_refresh": "all"}):
        results = project.run(**request)
        failed = {name for name, result in results.items() if result.state == "failed"}
        # Without `deletes`, an increment removes nothing.
        stay = {"merged"} if not request else set()
        assert {name.split("_", 1)[1] for name in failed} == TABLES.keys() - stay
        assert live_rows(project) == dict.fromkeys(TABLES, ROWS)
        for name in failed & {f"load.load_{table}" for table in TABLES}:
            assert "Check the source; if the rows are right, set a higher max_shrink" in str(
                results[name].result
            )
    planned = " ".join(project.cli("plan", "shop", "--connect").stdout.split())
    assert f"staging.swapped would shrink from 3,000 to {left:,} rows" in planned
    # The control, and the way on.
    project.spec({name: {**(table or {}), "max_shrink": 1} for name, table in TABLES.items()})
    project.succeed(full_refresh="all")
    assert live_rows(project) == dict.fromkeys(TABLES, left)


def test_a_short_table_may_lose_most_of_its_rows_and_a_long_one_half(project: Project) -> None:
    for name, rows in (("short", 1_000), ("long", 9_000)):
        project.in_source(f"CREATE TABLE {name} AS SELECT i FROM generate_series(1, {rows}) i")
    project.spec({"short": None, "long": None}, tasks={"retries": 0})
    project.succeed()
    project.in_source("DELETE FROM short WHERE i > 1; DELETE FROM long WHERE i > 4500")
    project.succeed()
    project.in_source("DELETE FROM short; DELETE FROM long WHERE i > 2249")
    results = project.run()
    assert "from 1 to 0 rows" in str(results["load.load_short"].result)
    assert "from 4,500 to 2,249 rows" in str(results["load.load_long"].result)
    # The source answers as before.
    project.in_source("INSERT INTO short VALUES (1); INSERT INTO long VALUES (2250)")
    project.succeed()
    assert apply.DEFAULT_MAX_SHRINK == 0.5


@pytest.mark.parametrize(("left", "share"), [(3, 0.7), (9, 0.1), (7, 0.3), (71, 0.29)])
def test_max_shrink_is_the_share_as_it_is_written(
    project: Project, left: int, share: float
) -> None:
    """Of 10 rows 3 are left where 0.7 allows it, though `10 * (1 - 0.7)` is more than 3."""
    rows = 10 if left < 10 else 100
    project.in_source(f"CREATE TABLE item AS SELECT i FROM generate_series(1, {rows}) i")
    project.spec({"item": {"max_shrink": share}}, tasks={"retries": 0})
    project.succeed()
    project.in_source(f"DELETE FROM item WHERE i > {left}")
    project.succeed()
    project.in_source(f"DELETE FROM item WHERE i > {left - max(1, int(left * share) + 1)}")
    assert project.run()["load.load_item"].state == "failed"
