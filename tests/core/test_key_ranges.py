"""A search for deleted rows compares ranges of an integer key by index, where that is known to be
cheap and right, and buckets of hashes where it is not."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from loadsheet.comparison import key_ranges
from tests.faults.oracle import judge
from tests.project import Project

ROWS = 5_000
CREATE = f"""
CREATE TABLE item (
    id bigint PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item (id, name) SELECT i, 'n' || i FROM generate_series(1, {ROWS}) i;
"""
# Far apart, with a stretch where they are close, below and above what an integer holds.
SKEWED = "UPDATE item SET id = CASE WHEN id % 2 = 0 THEN -id * 1000000007 ELSE id END"
KEYS = {
    "bigint": CREATE,
    "integer": CREATE.replace("id bigint", "id integer"),
    "smallint": CREATE.replace("id bigint", "id smallint"),
    "skewed": CREATE + SKEWED,
    "of two columns": CREATE.replace("id bigint PRIMARY KEY, name text", "id bigint, name text")
    + "ALTER TABLE item ADD PRIMARY KEY (id, name)",
}
UNKNOWN = {
    "a key of another type": CREATE.replace("id bigint", "id numeric(9)"),
    "a key that no index begins with": CREATE.replace(
        "id bigint PRIMARY KEY, name text", "id bigint, name text, PRIMARY KEY (name, id)"
    ),
    "a partitioned table": CREATE.replace(");", ") PARTITION BY RANGE (id);", 1).replace(
        "INSERT", "CREATE TABLE leaf PARTITION OF item DEFAULT; INSERT", 1
    ),
}
DAMAGE = """
DELETE FROM item WHERE name IN ('n7', 'n8', 'n3000', 'n5000');
UPDATE item SET id = 7000 WHERE name = 'n6';
UPDATE item SET at = clock_timestamp() WHERE name = 'n11';
INSERT INTO item VALUES (5001, 'new'), (5002, 'new');
"""
VACUUM = "VACUUM ANALYZE item"


def opened(project: Project, create: str = CREATE, **table: Any) -> None:
    project.in_source(create)
    project.spec({"item": {"incremental": "at", "deletes": "hard", **table}})
    project.succeed()
    project.in_source(VACUUM)
    project.as_loader("VACUUM ANALYZE staging.item")


def way_of(project: Project, caplog: pytest.LogCaptureFixture) -> str:
    """How the next run compares keys."""
    with caplog.at_level(logging.INFO, "loadsheet.engine.key_search"):
        caplog.clear()
        project.succeed()
    (line,) = [text for text in caplog.messages if "keys of the source by" in text]
    return line.partition(" by ")[2].partition(";")[0]


@pytest.fixture
def few_keys_in_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_ranges, "_KEYS_IN_A_RANGE", 100)


@pytest.mark.usefixtures("few_keys_in_a_range")
@pytest.mark.parametrize("key", KEYS)
def test_ranges_find_what_differs(
    project: Project, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    opened(project, KEYS[key])
    assert way_of(project, caplog) == "ranges"
    project.in_source(DAMAGE)
    project.as_loader("DELETE FROM staging.item WHERE name = 'n4000'")
    assert way_of(project, caplog) == "ranges"
    assert not judge(project, "item")
    effect = "SELECT inserted, updated, deleted FROM loadsheet.load ORDER BY load_no DESC LIMIT 1"
    # The key that was changed is one that went and one that came.
    assert project.in_warehouse(effect) == [(4, 1, 5)]


def test_a_table_may_have_the_name_that_the_query_gives_its_ranges(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    name = "_loadsheet_range"
    project.in_source(CREATE.replace("item", name))
    project.spec({name: {"incremental": "at", "deletes": "hard"}})
    project.succeed()
    project.in_source(f"VACUUM ANALYZE {name}")
    project.as_loader(f"VACUUM ANALYZE staging.{name}")
    project.in_source(f"DELETE FROM {name} WHERE id = 7")
    assert way_of(project, caplog) == "ranges"
    assert not judge(project, name)


def test_the_lowest_and_the_highest_key_of_all_may_divide_ranges(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_ranges, "_KEYS_IN_A_RANGE", 1)  # every key begins a range
    ends = [-(2**63), 2**63 - 1]
    opened(project, CREATE + "".join(f"INSERT INTO item VALUES ({end}, 'end');" for end in ends))
    for gone in (7, *ends):
        project.in_source(f"DELETE FROM item WHERE id = {gone}")
        assert way_of(project, caplog) == "ranges"
        assert not judge(project, "item")


@pytest.mark.parametrize("case", UNKNOWN)
def test_other_tables_are_compared_by_buckets(
    project: Project, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    opened(project, UNKNOWN[case])
    project.in_source("DELETE FROM item WHERE name IN ('n7', 'n3000')")
    assert way_of(project, caplog) == "buckets"
    assert not judge(project, "item")


def test_rows_that_are_never_loaded_are_compared_by_buckets(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """They would make most ranges differ."""
    nullable = CREATE.replace("at timestamptz NOT NULL", "at timestamptz")
    leave_out = {"cursor": "at", "nulls": "exclude"}
    opened(project, f"{nullable}UPDATE item SET at = NULL WHERE id % 2 = 1", incremental=leave_out)
    project.in_source("DELETE FROM item WHERE name IN ('n8', 'n3000')")
    assert way_of(project, caplog) == "buckets"
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(ROWS / 2 - 2,)]


def test_an_index_that_vacuum_has_not_put_in_order_is_not_read(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    opened(project)
    project.in_source("UPDATE pg_class SET relallvisible = 0 WHERE oid = 'item'::regclass")
    project.in_source("DELETE FROM item WHERE id = 8")
    assert way_of(project, caplog) == "buckets"
    assert not judge(project, "item")


def test_ranges_next_to_each_other_are_one_span() -> None:
    low, high = -(2**63), 2**63 - 1
    bounds = [10, 20, 30]
    assert key_ranges._spans([], bounds) == []
    assert key_ranges._spans([0], bounds) == [(low, 9)]
    assert key_ranges._spans([1, 2], bounds) == [(10, 29)]
    assert key_ranges._spans([0, 2, 3], bounds) == [(low, 9), (20, high)]
    assert key_ranges._spans([0], []) == [(low, high)]
