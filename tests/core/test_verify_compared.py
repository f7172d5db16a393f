"""What `loadsheet verify` does not compare, it says: tables, columns, and what it waited for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from loadsheet.errors import Unavailable
from loadsheet.verify import pipeline as verify_pipeline_module
from tests.core.verifying import CREATE, counts
from tests.project import Project


def test_what_cannot_be_compared_is_said(project: Project) -> None:
    project.in_source(CREATE + "CREATE TABLE later (id int)")
    project.spec({"item": None})
    project.succeed()
    project.in_source("ALTER TABLE item ALTER part TYPE bigint")
    project.spec({"item": None, "later": None})
    found = project.verify()
    assert "never loaded" in found["later"].why
    assert "primary key" in found["item"].why
    assert {verdict.state for verdict in found.values()} == {"not compared"}
    project.in_source("DROP TABLE item;" + CREATE)
    assert "dropped and recreated" in project.verify("item")["item"].why


BOTH_CURSORS = """
CREATE TABLE visit (id int PRIMARY KEY, at timestamp, seen timestamp, place int);
INSERT INTO visit SELECT i, at, at - interval '1 day', i FROM (
    SELECT i, '2026-01-01'::timestamp + i * interval '1 h' AS at FROM generate_series(0, 95) i) r
"""
DAY = {
    "interval_start": "2026-01-02T00:00:00+00:00",
    "interval_end": "2026-01-03T00:00:00+00:00",
}

BY_DAY = {"cursor": "at", "by": "data_interval", "time_zone": "UTC"}
# The cursor that the load was read by, the run's interval, the cursor in the file now, and why the
# table is not compared: its rows were chosen by something else.
CHANGED_CURSORS = [
    ({"cursor": "at"}, {}, {"cursor": "place"}, "cursor place"),
    (BY_DAY, DAY, {**BY_DAY, "cursor": "seen"}, "cursor seen"),
    (BY_DAY, DAY, {**BY_DAY, "time_zone": "Asia/Tokyo"}, "time zone"),
]


@pytest.mark.parametrize(("before", "interval", "now", "why"), CHANGED_CURSORS)
def test_rows_that_were_read_by_another_cursor_are_not_judged_by_this_one(
    project: Project,
    before: dict[str, Any],
    interval: dict[str, str],
    now: dict[str, Any],
    why: str,
) -> None:
    project.in_source(BOTH_CURSORS)
    options: dict[str, Any] = {"schedule": "@daily", "start_date": "2026-01-01"}
    project.spec({"visit": {"incremental": before}}, **options)
    project.succeed(**interval)
    assert project.verify()["visit"].state == "equal"
    project.spec({"visit": {"incremental": now}}, **options)
    verdict = project.verify()["visit"]
    assert (verdict.state, verdict.differences) == ("not compared", 0)
    assert why in verdict.why


def test_a_warehouse_without_a_readable_ledger_is_told(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": None})
    project.succeed()
    project.in_warehouse(
        "COMMENT ON SCHEMA loadsheet IS NULL; ALTER TABLE loadsheet.scope DROP COLUMN cursor"
    )
    assert "run the pipeline first" in project.verify()["item"].why
    project.in_warehouse("DROP SCHEMA loadsheet CASCADE")
    assert "run the pipeline first" in project.verify()["item"].why


def test_new_and_changed_columns_are_left_out_by_name(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_source(
        "ALTER TABLE item ADD COLUMN size int DEFAULT 3; ALTER TABLE item RENAME name TO title"
    )
    verdict = project.verify()["item"]
    assert (verdict.state, verdict.left_out) == ("equal", ["size: not loaded yet"])


def test_a_column_that_the_target_has_lost_is_no_column_to_leave_out(project: Project) -> None:
    """The control: a verdict on the columns that are left would be that all is equal."""
    project.in_source(CREATE)
    project.in_source("UPDATE item SET name = NULL WHERE id = 1")
    mart = {"named": ("SELECT id, part, name FROM staging.item", {"unique_key": ["id", "part"]})}
    project.spec({"item": {"incremental": "at"}}, mart)
    project.succeed()
    project.in_warehouse("ALTER TABLE mart.named DROP name")
    verdict = project.verify("named")["named"]
    assert (verdict.state, counts(verdict)) == ("differs", {"different": 2999})
    project.in_warehouse("ALTER TABLE staging.item DROP name")
    verdict = project.verify("item")["item"]
    assert (verdict.state, verdict.left_out) == ("differs", [])
    assert counts(verdict) == {"different": 2999}
    assert {c.column for row in verdict.named["different"] for c in row.changes} == {"name"}
    others = ["id", "part", "price", "weight", "doc", "at"]
    project.spec({"item": {"incremental": "at", "columns": {"include": others}}})
    assert project.verify("item")["item"].state == "equal"


@pytest.mark.parametrize(
    ("change", "state"),
    [
        # Writes all rows again. To a snapshot from before, the table has none.
        ("ALTER TABLE item ALTER weight TYPE float8 USING weight + 0", "equal"),
        ("ALTER TABLE item RENAME name TO title", "not compared"),
    ],
)
def test_a_change_of_the_source_s_table_that_is_waited_for_is_seen(
    project: Project, change: str, state: str
) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'item'::regclass"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(project.source) as session:
        session.execute(change)
        found = pool.submit(project.verify)
        while session.execute(waits).fetchone() == (0,):
            time.sleep(0.05)
        session.commit()
        verdict = found.result()["item"]
    assert (verdict.state, counts(verdict)) == (state, {})


@pytest.mark.parametrize("side", ["source", "warehouse"])
def test_a_locked_table_is_not_waited_for_without_end(
    project: Project, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.in_source(CREATE)
    project.spec({"item": None})
    project.succeed()
    limit = {"lock_timeout": "1s"}
    for name in ("_SOURCE_SETTINGS", "_WAREHOUSE_SETTINGS"):
        settings = getattr(verify_pipeline_module, name)
        assert side == "warehouse" or name != "_SOURCE_SETTINGS" or "lock_timeout" in settings
        monkeypatch.setattr(verify_pipeline_module, name, {**settings, **limit})
    uri, table = {
        "source": (project.source, "public.item"),
        "warehouse": (project.warehouse, "staging.item"),
    }[side]
    with psycopg.connect(uri) as session:
        session.execute(f"LOCK TABLE {table}")
        holder = f"A lock on {table} is held by session {session.info.backend_pid} "
        with pytest.raises(Unavailable, match=holder):
            project.verify()
