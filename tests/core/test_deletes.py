"""`deletes`: rows that are gone from the source leave the target, and no others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from loadsheet.engine import extract, key_search
from loadsheet.engine.again import extract_step, load_step
from loadsheet.engine.restore import restore
from loadsheet.errors import Refused, SourceChanged
from loadsheet.source import catalog
from loadsheet.sql.text import Relation
from loadsheet.warehouse import apply, fence, gone, tombstones
from loadsheet.warehouse import mart as mart_module
from tests.faults.oracle import judge, violations
from tests.project import Project

# A time that no two rows share and that stays where it is: an update need not touch it.
CREATE = """
CREATE TABLE item (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item (id, name, at) SELECT i, 'n' || i, now() - (1000 - i) * interval '1 ms'
    FROM generate_series(1, 1000) i;
"""
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
NOTHING_ELSE = "DELETE FROM item WHERE id % 100 = 7"


def opened(project: Project, create: str = CREATE, **table: Any) -> None:
    project.in_source(create)
    project.spec({"item": {"incremental": "at", "deletes": "hard", **table}})
    project.succeed()


def effects(project: Project) -> list[tuple[int, int, int]]:
    """What each load has inserted, updated and deleted."""
    return project.in_warehouse(
        "SELECT inserted, updated, deleted FROM loadsheet.load ORDER BY load_no"
    )


def message(project: Project, step: str = "extract.extract_item") -> str:
    result = project.run()[step].result
    return str(getattr(result, "message", result))


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


def test_deleted_rows_leave_with_the_increment(project: Project) -> None:
    opened(project)
    project.in_source(
        NOTHING_ELSE + "; INSERT INTO item (id, name) VALUES (2001, 'new');"
        "UPDATE item SET name = 'changed', at = clock_timestamp() WHERE id = 3"
    )
    project.succeed()
    assert not judge(project, "item")
    assert violations(project) == []
    assert effects(project)[-1] == (1, 1, 10)


def test_without_deletes_they_stay(project: Project) -> None:
    """The negative control."""
    opened(project, deletes=None)
    project.in_source(NOTHING_ELSE)
    project.succeed()
    assert judge(project, "item").doubled == 10


def test_deleted_rows_alone_are_news(project: Project) -> None:
    opened(project)
    project.in_source(NOTHING_ELSE)
    assert project.succeed()["load.load_item"] == "done"
    assert effects(project)[-1] == (0, 0, 10)
    assert project.succeed()["extract.extract_item"] == "skipped"
    assert not judge(project, "item")


def test_a_table_that_is_merged_whole_loses_its_deleted_rows(project: Project) -> None:
    opened(project, incremental=None, mode="merge")
    project.in_source(NOTHING_ELSE + "; INSERT INTO item VALUES (2001, 'new')")
    project.succeed()
    assert not judge(project, "item") and effects(project)[-1] == (1, 0, 10)


def test_by_data_interval_too(project: Project) -> None:
    project.in_source(CREATE + "UPDATE item SET at = '2026-01-01T12:00Z'")
    project.spec(
        {"item": {"incremental": {"cursor": "at", "by": "data_interval"}, "deletes": "hard"}},
        schedule="@daily",
    )
    for day in (1, 2):
        project.succeed(
            interval_start=f"2026-01-0{day}T00:00:00Z", interval_end=f"2026-01-0{day + 1}T00:00:00Z"
        )
        project.in_source(NOTHING_ELSE)
    assert not judge(project, "item")


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


@pytest.mark.parametrize("by", ["increments", "whole"])
def test_a_row_that_was_lost_in_the_warehouse_comes_back(project: Project, by: str) -> None:
    """Also where the source's rows are those of the last load, which is no news by itself."""
    opened(project, **({} if by == "increments" else {"mode": "merge", "incremental": None}))
    project.in_warehouse("DELETE FROM staging.item WHERE id IN (4, 5)")
    project.succeed()
    assert not judge(project, "item")
    assert project.succeed()["extract.extract_item"] == "skipped"


def test_rows_outside_what_is_loaded_are_neither_lost_nor_gone(project: Project) -> None:
    project.in_source(
        CREATE + "UPDATE item SET at = '2026-01-01'::timestamptz + id * '1 h'::interval"
    )
    start = {"cursor": "at", "initial_value": "2026-01-10T00:00:00Z"}
    project.spec({"item": {"incremental": start, "deletes": "hard"}})
    project.succeed()
    assert project.succeed()["extract.extract_item"] == "skipped"
    # Still in the source, though no longer among the rows that would be loaded.
    project.in_source(
        "UPDATE item SET at = '2020-01-01' WHERE id = 900; DELETE FROM item WHERE id = 901"
    )
    project.succeed()
    assert effects(project)[-1] == (0, 0, 1)
    assert project.in_warehouse("SELECT count(*) FROM staging.item WHERE id = 900") == [(1,)]


def test_rows_that_are_held_back_are_not_lost(project: Project) -> None:
    opened(project, incremental={"cursor": "at", "hold_back": "0s"})
    with psycopg.connect(project.source) as writer:
        writer.execute("INSERT INTO item VALUES (3000, 'open')")
        project.in_source("INSERT INTO item VALUES (3001, 'after'); DELETE FROM item WHERE id = 1")
        assert "missing" not in message(project)
        writer.commit()
    project.succeed()
    assert not judge(project, "item")


@pytest.mark.parametrize("gone", ["TRUNCATE item", "DELETE FROM item WHERE id <= 101"])
def test_more_than_max_delete_stops_and_changes_nothing(project: Project, gone: str) -> None:
    opened(project)
    before = project.in_warehouse("SELECT * FROM staging.item ORDER BY id")
    project.in_source(gone + "; INSERT INTO item VALUES (3000, 'new')")
    with pytest.raises(Refused, match=r"of the 1,000 rows of staging.item are gone .*max_delete"):
        project.succeed()
    assert project.in_warehouse("SELECT * FROM staging.item ORDER BY id") == before
    project.spec({"item": {"incremental": "at", "deletes": {"action": "hard", "max_delete": 1}}})
    project.succeed()
    assert not judge(project, "item")


# Rows, how many of them are deleted, the share as it is written, and whether that is allowed.
SHARES = [
    (100, 29, 0.29, True),  # the product of the two floats is 28.999999999999996
    (100, 30, 0.29, False),
    (1000, 7, 0.007, True),
    (10, 1, 0.1, True),
    (3, 1, 0.1, False),
    (3, 1, 0.34, True),
    (3, 3, 1, True),
    (3, 1, 0, False),
]


@pytest.mark.parametrize(("rows", "deleted", "share", "allowed"), SHARES)
def test_max_delete_is_the_share_as_it_is_written(
    rows: int, deleted: int, share: float, allowed: bool
) -> None:
    target = Relation("staging", "item")
    assert (deleted <= apply.most_of(rows, share)) is allowed
    if allowed:
        return gone.refuse_many(target, deleted, rows, share, "shop")
    verb = "is" if deleted == 1 else "are"
    with pytest.raises(Refused, match=f"{deleted} of the {rows} rows of staging.item {verb} gone"):
        gone.refuse_many(target, deleted, rows, share, "shop")


def test_report_counts_and_deletes_nothing(project: Project) -> None:
    opened(project, deletes="report")
    project.in_source("DELETE FROM item WHERE id <= 500")
    assert "500 rows are gone from the source, and stay" in message(project)
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(1000,)]
    project.succeed(full_refresh="all")
    project.in_source("DELETE FROM item WHERE id = 501")
    assert "1 row is gone from the source, and stays in the target" in message(project)


def test_every_says_how_often_to_look(project: Project) -> None:
    opened(project, deletes={"action": "hard", "every": "1h"})
    project.succeed()
    project.in_source(NOTHING_ELSE)
    project.succeed()
    assert judge(project, "item").doubled == 10
    project.in_warehouse(
        "UPDATE loadsheet.scope SET deletes_checked_at = deletes_checked_at - interval '55 min'"
    )
    project.succeed()
    assert not judge(project, "item")


def test_a_source_clock_that_was_set_back_does_not_put_off_the_search(project: Project) -> None:
    opened(project, deletes={"action": "hard", "every": "1h"})
    project.in_warehouse("UPDATE loadsheet.scope SET deletes_checked_at = now() + interval '5 y'")
    project.in_source(NOTHING_ELSE)
    project.succeed()
    assert not judge(project, "item")


def test_another_key_is_refused(project: Project) -> None:
    """The rows of before have no value in the new one."""
    project.in_source(CREATE + "ALTER TABLE item ADD other int")
    project.spec({"item": {"incremental": "at", "deletes": {"action": "hard", "max_delete": 1}}})
    project.succeed()
    project.in_source(
        "UPDATE item SET other = id; ALTER TABLE item DROP CONSTRAINT item_pkey,"
        " ADD PRIMARY KEY (other)"
    )
    with pytest.raises(Refused, match=r"primary key is \(id\) in the target and \(other\)"):
        project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(1000,)]


@pytest.mark.parametrize("now", [None, "report", "soft"])
def test_keys_that_were_found_under_another_setting_are_found_again(
    project: Project, now: str | None
) -> None:
    """An orchestrator's load step may read a newer pipeline file than its extract step."""
    opened(project)
    project.in_source("DELETE FROM item WHERE id = 7; INSERT INTO item VALUES (2001, 'new')")
    extracted = extract_step(project.table_step("item"))
    project.spec({"item": {"incremental": "at", "deletes": now}})
    load_step(project.table_step("item"), extracted.load_id or "")
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(1001,)]


# With the row that goes and comes back: one that no increment reads, and the last of the table, so
# that its content is the same.
LOOKS = {
    "search": ({"incremental": "at", "deletes": "hard"}, 7),
    "content": ({"mode": "replace"}, 1000),
}


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("look", LOOKS)
def test_a_run_that_finds_nothing_is_not_recorded_for_another_state(
    project: Project, monkeypatch: pytest.MonkeyPatch, look: str, guarded: bool
) -> None:
    """An older extraction, in which the row was gone, is loaded between the look and its record.
    Without the guard, the row is missing although the run says that there is nothing to do."""
    table, row = LOOKS[look]
    project.in_source(CREATE + f"CREATE TABLE kept AS SELECT * FROM item WHERE id = {row}")
    project.spec({"item": table})
    project.succeed()
    project.in_source(f"DELETE FROM item WHERE id = {row}")
    older = extract_step(project.table_step("item")).load_id
    assert older
    project.in_source("INSERT INTO item SELECT * FROM kept")
    loaded = []

    def load_older(point: str) -> None:
        if point == "extract.copied" and not loaded:
            loaded.append(load_step(project.table_step("item"), older))

    monkeypatch.setattr(extract, "reach", load_older)
    if not guarded:
        monkeypatch.setattr(fence, "_is_still", lambda *scope: True)
    states = project.succeed()
    assert [outcome.status for outcome in loaded] == ["done"]
    assert states["load.load_item"] == ("done" if guarded else "skipped")
    assert judge(project, "item").lost == (0 if guarded else 1)


UNFIT = {
    "CREATE VIEW item AS SELECT 1 AS id, now() AS at": ({"primary_key": "id"}, "not a table"),
    "CREATE TABLE item (id int, at timestamptz)": ({}, "mode is append"),
    "CREATE TABLE item (id int, at timestamptz NOT NULL); ": (
        {"primary_key": "id"},
        "does not enforce the key",
    ),
    "CREATE TABLE item (id numeric PRIMARY KEY, at timestamptz NOT NULL)": (
        {},
        "key column id may be written in several ways",
    ),
    "CREATE UNLOGGED TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL)": (
        {},
        "public.item is unlogged: a crash of the server would empty it",
    ),
    "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL) PARTITION BY RANGE (id);"
    "CREATE UNLOGGED TABLE part PARTITION OF item DEFAULT": ({}, "part is unlogged"),
}


@pytest.mark.parametrize("create", UNFIT)
def test_a_table_whose_deletes_cannot_be_known_is_refused(project: Project, create: str) -> None:
    more, why = UNFIT[create]
    project.in_source(create)
    lookback = {"cursor": "at", "lookback": "1h"} if "VIEW" in create else "at"
    project.spec({"item": {"incremental": lookback, "deletes": "hard", **more}})
    with pytest.raises(Refused, match=why):
        project.succeed()


def test_deleted_rows_of_an_unlogged_table_are_reported(project: Project) -> None:
    opened(project, CREATE.replace("CREATE TABLE", "CREATE UNLOGGED TABLE"), deletes="report")
    project.in_source(NOTHING_ELSE)
    assert "10 rows are gone" in message(project)


def test_a_target_of_two_pipelines_is_refused(project: Project) -> None:
    opened(project)
    project.name = "other"
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.name = "shop"
    with pytest.raises(Refused, match="another pipeline has loaded it, too"):
        project.succeed()


def test_a_restored_source_is_refused_also_where_the_table_is_merged_whole(
    project: Project,
) -> None:
    opened(project, incremental=None, mode="merge")
    project.in_source(NOTHING_ELSE)
    project.in_warehouse('UPDATE loadsheet.scope SET source = source || \'{"lsn": "F/0"}\'')
    with pytest.raises(SourceChanged):
        project.succeed()


BEHIND = {
    "WAL": {"lsn": "F/0"},
    "transactions": {"next_transaction": "99999999"},
    "a failover that lost some": {"lsn": "F/0", "timeline": "0"},
}


@pytest.mark.parametrize("how", BEHIND)
def test_a_source_that_is_behind_deletes_nothing_though_it_is_accepted(
    project: Project, how: str
) -> None:
    opened(project)
    project.in_source(NOTHING_ELSE)
    last = json.dumps(BEHIND[how])
    project.in_warehouse(f"UPDATE loadsheet.scope SET source = source || '{last}'")
    with pytest.raises(SourceChanged, match="was accepted, but it is behind the last load"):
        project.succeed(accept_source=True)
    project.spec({"item": {"incremental": "at", "deletes": "report"}})
    project.succeed(accept_source=True)
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(1000,)]


def test_a_source_that_has_everything_deletes_when_it_is_accepted(project: Project) -> None:
    opened(project)
    project.in_source(NOTHING_ELSE)
    project.in_warehouse('UPDATE loadsheet.scope SET source = source || \'{"timeline": "0"}\'')
    project.succeed(accept_source=True)
    assert not judge(project, "item")


def test_a_source_that_hides_its_position_deletes_nothing(project: Project) -> None:
    opened(project)
    project.in_warehouse("UPDATE loadsheet.scope SET source = source - 'lsn'")
    project.in_source(NOTHING_ELSE)
    with pytest.raises(Refused, match="does not show its WAL position"):
        project.succeed()


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


def test_soft_keeps_deleted_rows_and_marks_them(project: Project) -> None:
    opened(project, deletes="soft")
    marked = "SELECT id FROM staging.item WHERE _deleted_at IS NOT NULL ORDER BY 1"
    assert project.in_warehouse(marked) == []
    project.in_source("DELETE FROM item WHERE id IN (7, 8); INSERT INTO item VALUES (2001, 'new')")
    assert "marked 2 rows as deleted" in message(project, "load.load_item")
    assert project.in_warehouse(marked) == [(7,), (8,)]
    assert project.in_warehouse(
        "SELECT count(*), max(_load_id) = (SELECT max(load_no) FROM loadsheet.load)"
        " FROM staging.item WHERE id IN (7, 8) AND name LIKE 'n%' AND _deleted_at <= now()"
    ) == [(2, True)]
    assert violations(project) == []
    assert project.succeed()["extract.extract_item"] == "skipped"
    assert project.verify()["item"].state == "equal"


def test_a_row_that_comes_back_is_no_longer_marked(project: Project) -> None:
    opened(project, deletes="soft")
    project.in_source("CREATE TABLE kept AS SELECT * FROM item WHERE id IN (7, 8)")
    project.in_source("DELETE FROM item WHERE id IN (7, 8)")
    project.succeed()
    # One with its old cursor, which no increment reads, and one as a new row.
    project.in_source(
        "INSERT INTO item SELECT * FROM kept WHERE id = 7; INSERT INTO item VALUES (8, 'again')"
    )
    project.succeed()
    assert project.in_warehouse("SELECT count(*), count(_deleted_at) FROM staging.item") == [
        (1000, 0)
    ]
    assert not judge(project, "item")


@pytest.mark.parametrize(("action", "marked"), [("hard", 0), ("report", 0), (None, 1)])
def test_a_row_that_comes_back_loses_its_mark_also_without_soft(
    project: Project, action: str | None, marked: int
) -> None:
    """Also one with its old cursor, if deleted rows are searched for; no increment reads it."""
    opened(project, CREATE + "CREATE TABLE kept AS SELECT * FROM item WHERE id = 7", deletes="soft")
    project.in_source("DELETE FROM item WHERE id IN (7, 8)")
    project.succeed()
    project.in_source("INSERT INTO item SELECT * FROM kept; INSERT INTO item VALUES (8, 'back')")
    project.spec({"item": {"incremental": "at", "deletes": action}})
    project.succeed()
    rows = "SELECT count(*), count(_deleted_at) FROM staging.item"
    assert project.in_warehouse(rows) == [(1000, marked)]
    restored = restore(project.table_step("item").pipeline, "item", project.connections)
    assert restored.placed.rows == 1000 and project.in_warehouse(rows) == [(1000, marked)]


def test_a_full_refresh_without_soft_ends_all_marks(project: Project) -> None:
    opened(project, deletes="soft")
    project.in_source("DELETE FROM item WHERE id IN (7, 8)")
    project.succeed()
    project.in_source("INSERT INTO item VALUES (8, 'back')")
    project.spec({"item": {"incremental": "at"}})
    project.succeed(full_refresh="all")
    assert project.in_warehouse("SELECT count(*), count(_deleted_at) FROM staging.item") == [
        (999, 0)
    ]


def test_a_column_of_the_users_keeps_its_values(project: Project) -> None:
    opened(project, deletes=None)
    project.in_warehouse("ALTER TABLE staging.item ADD _deleted_at timestamptz DEFAULT now()")
    project.in_source("UPDATE item SET at = clock_timestamp() WHERE id = 7")
    project.succeed()
    assert project.in_warehouse("SELECT count(_deleted_at) FROM staging.item") == [(1000,)]


def test_a_full_refresh_keeps_the_rows_that_are_marked_and_marks_more(project: Project) -> None:
    opened(project, deletes={"action": "soft", "every": "9d"})
    for number in (7, 8):
        project.in_source(f"DELETE FROM item WHERE id = {number}")
        project.succeed(full_refresh="all")
        assert project.verify()["item"].state == "equal"
    marks = "SELECT id, _deleted_at FROM staging.item WHERE _deleted_at IS NOT NULL ORDER BY 2"
    (first, before), (second, after) = project.in_warehouse(marks)
    assert (first, second) == (7, 8) and before < after
    project.in_source("INSERT INTO item (id, name) VALUES (7, 'back')")
    project.succeed(full_refresh="all")
    assert [row[0] for row in project.in_warehouse(marks)] == [8]
    # Its storage is another one, and its rows are as the ledger says.
    project.in_warehouse("VACUUM FULL staging.item")
    project.in_source("INSERT INTO item (id, name) VALUES (9000, 'more')")
    project.succeed()
    assert project.verify()["item"].state == "equal"


def test_soft_on_a_table_that_is_loaded_already_adds_the_column(project: Project) -> None:
    opened(project, deletes=None)
    project.spec({"item": {"incremental": "at", "deletes": "soft"}})
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.item WHERE _deleted_at IS NULL") == [
        (1000,)
    ]
    project.spec({"item": {"incremental": "at", "deletes": "hard"}})
    project.in_source(NOTHING_ELSE)
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(990,)]


def test_a_column_of_the_name_that_soft_needs_is_refused(project: Project) -> None:
    project.in_source(CREATE + "ALTER TABLE item ADD _deleted_at date")
    project.spec({"item": {"incremental": "at", "deletes": "soft"}})
    with pytest.raises(Refused, match="it has a column _deleted_at"):
        project.succeed()


MARTS = {
    # Each row is plainly one of the table's: it leaves by its key.
    "plain": "SELECT id AS item_id, name FROM staging.item WHERE id > 3 AND _load_id > :since_load",
    "star": "SELECT *, id AS item_id FROM staging.item i WHERE _load_id > :since_load",
    "joined": "SELECT i.id AS item_id, o.n FROM staging.item i JOIN staging.other o USING (id)"
    " WHERE i._load_id > :since_load",
    "counted": "SELECT id % 10 AS item_id, count(*) AS n FROM staging.item"
    " WHERE _load_id > :since_load OR true GROUP BY 1",
    # It sees to it by itself.
    "told": "SELECT id AS item_id, false AS is_gone FROM staging.item WHERE _load_id > :since_load"
    " UNION ALL SELECT id, true FROM staging.item__deleted WHERE _load_id > :since_load",
}
BY_KEY = ("plain", "star", "told")


def test_marts_follow_rows_that_are_gone_by_key_or_are_built_in_full(project: Project) -> None:
    project.in_source(CREATE + "CREATE TABLE other AS SELECT id, 1 AS n FROM item")
    merge = {"materialized": "merge", "unique_key": "item_id"}
    project.spec(
        {"item": {"incremental": "at", "deletes": "hard"}, "other": None},
        {name: (query, {**merge}) for name, query in MARTS.items()},
    )
    project.succeed()
    project.in_source(NOTHING_ELSE + "; INSERT INTO item (id, name) VALUES (2001, 'new')")
    results = project.run()
    for name in MARTS:
        what = results[f"transform.transform_{name}"].result
        reason = "new rows" if name in BY_KEY else "rows of its inputs are gone"
        assert reason in str(getattr(what, "message", what)), name
    counts = {name: f"SELECT count(*) FROM mart.{name}" for name in MARTS}
    assert project.in_warehouse(counts["plain"]) == [(988,)]
    assert project.in_warehouse(counts["star"]) == [(991,)]
    assert project.in_warehouse(counts["joined"]) == [(990,)]
    assert project.in_warehouse("SELECT sum(n) FROM mart.counted") == [(991,)]
    assert project.in_warehouse(counts["told"] + " WHERE is_gone") == [(10,)]
    before = project.in_warehouse("SELECT * FROM mart.plain ORDER BY 1")
    project.succeed(full_refresh=frozenset({"plain"}))
    assert project.in_warehouse("SELECT * FROM mart.plain ORDER BY 1") == before
    # A key that comes back and goes once more.
    project.in_source("INSERT INTO item (id, name) VALUES (7, 'back')")
    project.succeed()
    assert project.in_warehouse("SELECT name FROM mart.plain WHERE item_id = 7") == [("back",)]
    project.in_source("DELETE FROM item WHERE id = 7")
    project.succeed()
    assert project.in_warehouse(counts["plain"]) == [(988,)]


# There may be no such column.
LIVE_ROWS = (
    "SELECT id FROM staging.item i WHERE (to_jsonb(i) ->> '_deleted_at') IS NULL"
    " AND _load_id > :since_load"
)


def mart_of_live_rows(project: Project, *actions: str) -> None:
    """Delete a row and run under each setting of `deletes` in turn; the mart has the rows that are
    live after each."""
    merge = {"materialized": "merge", "unique_key": "id"}
    for number, action in enumerate(actions):
        project.spec(
            {"item": {"incremental": "at", "deletes": action}}, {"mart": (LIVE_ROWS, merge)}
        )
        project.in_source("DELETE FROM item WHERE id = (SELECT min(id) FROM item)")
        project.succeed()
        ids = project.in_source("SELECT count(*), sum(id) FROM item")
        found = project.in_warehouse("SELECT count(*), sum(id) FROM mart.mart")
        assert found == ids, actions[: number + 1]


def test_keys_of_deleted_rows_of_another_pipeline_are_news(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transform reads nothing else of it. The ledger knows them by the name of their table."""
    opened(project)
    reader = replace(project, name="reader")
    project.in_source("CREATE TABLE own (id int PRIMARY KEY)")

    def read_after_deleting(id: int) -> list[tuple[int, ...]]:
        project.in_source(f"DELETE FROM item WHERE id = {id}")
        project.succeed()
        reader.succeed()
        return project.in_warehouse("SELECT * FROM other_mart.told ORDER BY 1")

    reader.spec(
        {"own": None},
        {"told": "SELECT id FROM staging.item__deleted"},
        warehouse={"conn_id": "warehouse", "schema": "other", "mart_schema": "other_mart"},
        external=["staging.*"],
    )
    reader.succeed()
    assert read_after_deleting(7) == [(7,)]
    assert read_after_deleting(8) == [(7,), (8,)]
    monkeypatch.setattr(tombstones, "owner_of", lambda *of: None)
    assert read_after_deleting(9) == [(7,), (8,)]


def test_a_merge_mart_of_marked_rows_is_built_in_full(project: Project) -> None:
    project.in_source(CREATE)
    mart_of_live_rows(project, "soft", "soft")


def test_a_merge_mart_follows_deleted_rows_when_the_setting_changes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstones of `hard` stay when the setting becomes `soft`, and know nothing of the rows
    that are marked. The control takes them for complete."""
    project.in_source(CREATE)
    mart_of_live_rows(project, "hard", "hard", "soft", "soft", "hard")
    changes = mart_module._CHANGES.replace("bool_or(gone > deleted)", "false")
    monkeypatch.setattr(mart_module, "_CHANGES", changes)
    with pytest.raises(AssertionError, match="'hard', 'soft'"):
        mart_of_live_rows(project, "hard", "soft")


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


def test_plan_says_that_deleted_rows_are_searched_for(project: Project) -> None:
    opened(project)
    assert "new rows by at, deletes: hard" in project.cli("plan", "shop").stdout
    connected = project.cli("plan", "shop", "--connect").stdout
    assert "nothing new since" in connected and "searches for deleted rows" in connected
    project.spec({"item": {"incremental": "at", "primary_key": "name", "deletes": "hard"}})
    refused = " ".join(project.cli("plan", "shop", "--connect").stdout.split())
    assert "deleted rows cannot be found, because the source does not enforce the key" in refused
