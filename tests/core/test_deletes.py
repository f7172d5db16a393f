"""`deletes`: rows that are gone from the source leave the target, and no others."""

from __future__ import annotations

import psycopg
import pytest

from loadsheet.engine import extract
from loadsheet.engine.again import extract_step, load_step
from loadsheet.warehouse import fence
from tests.core.deleting import CREATE, NOTHING_ELSE, effects, message, opened
from tests.faults.oracle import judge, violations
from tests.project import Project


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


def test_plan_says_that_deleted_rows_are_searched_for(project: Project) -> None:
    opened(project)
    assert "new rows by at, deletes: hard" in project.cli("plan", "shop").stdout
    connected = project.cli("plan", "shop", "--connect").stdout
    assert "nothing new since" in connected and "searches for deleted rows" in connected
    project.spec({"item": {"incremental": "at", "primary_key": "name", "deletes": "hard"}})
    refused = " ".join(project.cli("plan", "shop", "--connect").stdout.split())
    assert "deleted rows cannot be found, because the source does not enforce the key" in refused
