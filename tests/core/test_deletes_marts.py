"""Marts follow the rows that `deletes` removes or marks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadsheet.warehouse import mart as mart_module
from loadsheet.warehouse import tombstones
from tests.core.deleting import CREATE, NOTHING_ELSE, opened
from tests.project import Project

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
