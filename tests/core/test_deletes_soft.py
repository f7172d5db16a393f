"""`deletes: soft`: rows that are gone from the source stay and are marked, until they come back."""

from __future__ import annotations

import pytest

from loadsheet.engine.restore import restore
from loadsheet.errors import Refused
from tests.core.deleting import CREATE, NOTHING_ELSE, message, opened
from tests.faults.oracle import judge, violations
from tests.project import Project


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
