"""`deletes` compares keys: of every type, those that were updated to other ones, and a key that
changes."""

from __future__ import annotations

import re

import pytest

from loadsheet.engine import key_search
from loadsheet.errors import Refused
from loadsheet.source import catalog
from tests.core.deleting import CREATE, NOTHING_ELSE, effects, message, opened
from tests.faults.oracle import judge
from tests.project import Project

KEYS = {
    "bigint": "i",
    "smallint": "i",
    "text": "'k' || i || chr(10) || '\"\\'",
    "uuid": "md5(i::text)::uuid",
    "timestamptz": "'2026-01-01'::timestamptz + i * interval '1 us'",
    "date": "'2020-01-01'::date + i",
    "numeric(9,2)": "i / 4.0",
    "character(5)": "i::text",
    "bytea": "decode(md5(i::text), 'hex')",
    "boolean": "i = 1",
}


def test_a_key_that_the_server_hashes_as_a_deleted_one_does_not_hide_it(project: Project) -> None:
    """PostgreSQL's own hash of a bigint mixes its upper half into the lower one."""
    hashes = "SELECT hashint8extended(5, 1) = hashint8extended(4294967300, 1)"
    assert project.in_source(hashes) == [(True,)]
    opened(project, CREATE.replace("id int", "id bigint"))
    project.in_source("DELETE FROM item WHERE id = 5; INSERT INTO item VALUES (4294967300, 'x')")
    project.succeed()
    assert effects(project)[-1] == (1, 0, 1)
    assert project.differences("item") == 0


# Their columns have the names of those that the look-up of gone keys gives to the keys. None of the
# rows that stay has the same value in both.
NAMED = {
    "key": ("k0 int PRIMARY KEY", "i"),
    "value": ("id int PRIMARY KEY, k0 int", "i, i - 1"),
    "pair": ("k1 int, k0 int, PRIMARY KEY (k1, k0)", "i, -i"),
}


def test_columns_may_have_the_names_that_a_search_gives(project: Project) -> None:
    """Each gone key is looked up once more: one that is not there leaves, one that is there never
    does."""
    for table, (columns, values) in NAMED.items():
        project.in_source(
            f"CREATE TABLE {table} ({columns}, at timestamptz NOT NULL DEFAULT clock_timestamp());"
            f"INSERT INTO {table} SELECT {values} FROM generate_series(1, 50) i"
        )
    project.spec({table: {"incremental": "at", "deletes": "hard"} for table in NAMED})
    project.succeed()
    project.in_source("".join(f"DELETE FROM {table} WHERE k0 IN (4, -4);" for table in NAMED))
    project.succeed()
    for table in NAMED:
        assert not judge(project, table), table
        step = project.table_step(table)
        with step.servers.source() as source:
            described = catalog.describe(source, "public", step.table)
            there = [["7", "-7"][: len(described.key)]]
            with pytest.raises(Refused, match="a key that looked deleted is in the source"):
                key_search.refuse_present(source, described, there)


@pytest.mark.parametrize("hash", ["server", "md5"])
def test_keys_of_every_type_are_found(
    project: Project, hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadsheet.engine.key_search.shared_hash", lambda *servers: hash)
    names = []
    for place, (kind, key) in enumerate(KEYS.items()):
        for columns in ("k", "part, k"):
            names.append(f"item{place}_{len(columns)}")
            rows = 2 if kind == "boolean" else 30
            project.in_source(
                f"CREATE TABLE {names[-1]} (k {kind}, part int, at timestamptz NOT NULL"
                f" DEFAULT clock_timestamp(), PRIMARY KEY ({columns}));"
                f"INSERT INTO {names[-1]} SELECT {key}, i FROM generate_series(1, {rows}) i"
            )
    halves = {"incremental": "at", "deletes": {"action": "hard", "max_delete": 0.5}}
    project.spec(dict.fromkeys(names), defaults=halves)
    project.succeed()
    for name in names:
        project.in_source(f"DELETE FROM {name} WHERE part IN (2, 7)")
    project.succeed()
    assert [name for name in names if judge(project, name)] == []


def test_keys_that_are_no_integers_are_summed_in_buckets_only_where_one_is_gone(
    project: Project, looks: list[str]
) -> None:
    """New rows and changed ones are expected in the target, so they are no reason."""
    opened(project, CREATE.replace("id int", "id text"))
    project.in_source("INSERT INTO item VALUES ('new'); UPDATE item SET at = now() WHERE id = '7'")
    project.succeed()
    assert looks == ["total"] * 2
    looks.clear()
    project.in_source("DELETE FROM item WHERE id = '9'")
    project.succeed()
    assert looks == ["total"] * 2 + ["buckets"] * 2
    assert not judge(project, "item")


def test_a_key_that_is_updated_in_place_is_one_row(project: Project) -> None:
    """The new key has an old cursor: no increment would read it."""
    opened(project)
    project.in_source("UPDATE item SET id = 5000 WHERE id = 9")
    assert "read 1 row that was missing" in message(project)
    assert not judge(project, "item") and effects(project)[-1] == (1, 0, 1)


# Row 2 gets the key of row 1, which is deleted, and keeps its cursor.
MOVED = {
    "one": "DELETE FROM item WHERE id = 1; UPDATE item SET id = 1 WHERE id = 2",
    "chain": "DELETE FROM item WHERE id = 1;"
    + "".join(f"UPDATE item SET id = {id} WHERE id = {id + 1};" for id in range(1, 9)),
    "an older key to a newer row": (
        "DELETE FROM item WHERE id = 1000; UPDATE item SET id = 1000 WHERE id = 2"
    ),
}


@pytest.mark.parametrize("by", ["ranges", "buckets"])
def test_a_key_that_is_updated_to_that_of_a_deleted_row_has_the_rows_values(
    project: Project, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The cursor stays, so no increment reads the row. The control only removes the old key."""
    create = CREATE if by == "ranges" else CREATE.replace("id int", "id text")
    opened(project, create)
    for moved in MOVED.values():
        statement = moved if by == "ranges" else re.sub(r"\b(\d+)\b", r"'\1'", moved)
        project.in_source(statement)
        project.succeed()
        assert not judge(project, "item"), moved
    monkeypatch.setattr(key_search._Search, "_moved", lambda *of: [])
    project.in_source("DELETE FROM item WHERE id = '11'; UPDATE item SET id = '11' WHERE id = '12'")
    project.succeed()
    assert project.differences("item")


def test_a_longer_chain_of_keys_than_is_followed_is_said(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the keys above a deleted one were numbered again."""
    monkeypatch.setattr(key_search, "_MOST_TURNS", 5)
    opened(project)
    for first, length, said in ((100, 3, False), (200, 6, True)):
        chain = range(first, first + length)
        moves = "".join(f"UPDATE item SET id = {id} WHERE id = {id + 1};" for id in chain)
        project.in_source(f"DELETE FROM item WHERE id = {first}; {moves}")
        advice = "to read the rest: `loadsheet verify shop item --repair`"
        assert (advice in message(project)) is said
        assert bool(judge(project, "item")) is said


@pytest.mark.parametrize(
    "change", ["ALTER id TYPE bigint", "ALTER id TYPE smallint", "RENAME id TO number"]
)
def test_a_key_that_changes_with_the_increment_is_compared(project: Project, change: str) -> None:
    opened(project)
    project.in_source(NOTHING_ELSE + f"; ALTER TABLE item {change}")
    project.in_source("INSERT INTO item VALUES (2001, 'new')")
    project.succeed()
    project.in_source("DELETE FROM item WHERE name = 'n9'")
    project.succeed()
    assert not judge(project, "item")
    assert [effect[2] for effect in effects(project)] == [0, 10, 1]
