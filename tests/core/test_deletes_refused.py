"""When `deletes` removes nothing: more is gone than `max_delete` allows, or what is gone cannot be
known."""

from __future__ import annotations

import json

import pytest

from loadsheet.errors import Refused, SourceChanged
from loadsheet.sql.text import Relation
from loadsheet.warehouse import apply, gone
from tests.core.deleting import CREATE, NOTHING_ELSE, message, opened
from tests.faults.oracle import judge
from tests.project import Project


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
