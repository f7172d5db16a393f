"""The keys of the rows that `deletes: hard` has removed stay in a table next to it."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
from tests.core.deleting import CREATE, opened
from tests.faults.oracle import judge
from tests.project import Project


def test_the_keys_of_deleted_rows_stay_in_a_table_next_to_it(project: Project) -> None:
    opened(project)
    tombstones = "SELECT id, _load_id > 1, _deleted_at <= now() FROM staging.item__deleted"
    assert project.in_warehouse(tombstones) == []
    project.in_source("DELETE FROM item WHERE id = 7; ALTER TABLE item ALTER id TYPE bigint")
    project.succeed()
    assert project.in_warehouse(tombstones) == [(7, True, True)]


PAIR = CREATE.replace("id int PRIMARY KEY", "id int, part int DEFAULT 5, PRIMARY KEY (id, part)")
# How a table's key changes, the table, whether a full refresh reads it then, and which keys are in
# the tombstones when rows 7 and, after the change, 8 have been deleted.
CHANGED_KEYS = {
    "renamed": (CREATE, "RENAME id TO number", False, "number = 7", "number = 8"),
    "renamed and widened": (
        CREATE,
        "RENAME id TO number; ALTER TABLE item ALTER number TYPE bigint",
        False,
        "number = 7",
        "number = 8",
    ),
    "names exchanged": (
        PAIR,
        "RENAME id TO x; ALTER TABLE item RENAME part TO id; ALTER TABLE item RENAME x TO part",
        False,
        "(part, id) = (7, 5)",
        "(part, id) = (8, 5)",
    ),
    "to integer": (
        CREATE.replace("id int", "id text"),
        "ALTER id TYPE int USING id::int",
        True,
        None,
        "id = 8",
    ),
    "to text": (CREATE, "ALTER id TYPE text", True, None, "id = '8'"),
    "another key": (
        CREATE.replace("name text", "name text NOT NULL"),
        "DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (name)",
        True,
        None,
        "name = 'n8'",
    ),
}


@pytest.mark.parametrize("how", CHANGED_KEYS)
def test_the_keys_of_deleted_rows_follow_the_key(project: Project, how: str) -> None:
    """A transform that has failed since row 7 was deleted reads its key later. A full refresh lets
    transforms be built in full, so the keys of before may go."""
    create, change, is_full, before, after = CHANGED_KEYS[how]
    opened(project, create)
    project.in_source("DELETE FROM item WHERE name = 'n7'")
    project.succeed()
    project.in_source(f"ALTER TABLE item {change}")
    if is_full:
        project.succeed(full_refresh="all")
    project.in_source("DELETE FROM item WHERE name = 'n8'")
    project.succeed()
    assert not judge(project, "item")
    expected = [key for key in (before, after) if key]
    tombstones = "SELECT count(*) FROM staging.item__deleted"
    assert project.in_warehouse(tombstones) == [(len(expected),)]
    for key in expected:
        assert project.in_warehouse(f"{tombstones} WHERE {key}") == [(1,)], key


THREE = CREATE.replace(
    "id int PRIMARY KEY",
    "id int, part int DEFAULT 5, place int DEFAULT 6, PRIMARY KEY (id, part, place)",
)
EXCHANGE = CHANGED_KEYS["names exchanged"][1]
CYCLE = (
    "RENAME id TO x; ALTER TABLE item RENAME place TO id; ALTER TABLE item RENAME part TO place;"
    "ALTER TABLE item RENAME x TO part"
)
# The table, how its names change, what the spec says about deletes meanwhile, and whether the table
# is restored then to what it was before. Row 7's key is recorded before, row 8's at the end.
CYCLES = {
    "no deletes": (PAIR, EXCHANGE, None, False, "(part, id)", "5"),
    "soft": (PAIR, EXCHANGE, "soft", False, "(part, id)", "5"),
    "restored": (PAIR, EXCHANGE, "hard", True, "(part, id)", "5"),
    "a cycle, restored": (THREE, CYCLE, "hard", True, "(part, place, id)", "5, 6"),
}


@pytest.mark.parametrize("how", CYCLES)
def test_the_keys_of_deleted_rows_keep_their_columns_through_exchanged_names(
    project: Project, how: str
) -> None:
    create, change, meanwhile, is_restored, columns, rest = CYCLES[how]
    opened(project, create)
    project.in_source("DELETE FROM item WHERE name = 'n7'")
    project.succeed()
    [(number,)] = project.in_warehouse("SELECT max(load_no) FROM loadsheet.load")
    project.spec({"item": {"incremental": "at", "deletes": meanwhile}})
    project.in_source(f"ALTER TABLE item {change}")
    project.in_source("UPDATE item SET at = clock_timestamp() WHERE name = 'n9'")
    project.succeed()
    if is_restored:
        done = project.cli("restore", "shop", "item", "--as-of", str(number))
        assert done.returncode == 0, done.stderr
    project.spec({"item": {"incremental": "at", "deletes": "hard"}})
    project.in_source("DELETE FROM item WHERE name = 'n8'")
    project.succeed()
    assert not judge(project, "item")
    keys = project.in_warehouse(f"SELECT {columns}::text FROM staging.item__deleted ORDER BY 1")
    assert keys == [(f"({gone},{rest.replace(', ', ',')})",) for gone in (7, 8)]


def test_a_table_of_another_in_the_place_of_the_keys_is_refused(project: Project) -> None:
    opened(project, deletes=None)
    project.spec({"item": {"incremental": "at", "deletes": "hard"}})
    project.as_loader(
        "CREATE SCHEMA IF NOT EXISTS staging; CREATE TABLE staging.item__deleted (id int)"
    )
    project.in_source("INSERT INTO item VALUES (2001, 'new')")
    with pytest.raises(Refused, match="item__deleted exists and was not made by Loadsheet"):
        project.succeed()


def test_a_source_table_with_the_name_of_the_keys_does_not_take_their_place(
    project: Project,
) -> None:
    opened(project, CREATE + "CREATE TABLE item__deleted (id int PRIMARY KEY)")
    item = {"incremental": "at", "deletes": "hard"}
    project.spec({"item": item, "item__deleted": None})
    project.in_source("DELETE FROM item WHERE id = 7")
    with pytest.raises(Refused, match="has the keys of rows that `deletes: hard` has deleted from"):
        project.succeed()
    assert project.in_warehouse("SELECT id FROM staging.item__deleted") == [(7,)]
    assert not judge(project, "item")
