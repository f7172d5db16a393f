"""Runs of a pipeline whose tasks load several tables each, in a real Airflow."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from demo.airflow.api import FINAL_RUN
from tests.airflow.world import (
    WAITING,
    World,
    ask,
    wait_for,
)

Shown = dict[tuple[str, str | None], str]


def grouped_run(world: World, conf: dict[str, Any] | None = None) -> tuple[str, str, Shown]:
    """One run of the pipeline whose tasks load several tables: its id, its state, and per task the
    state, by what the UI shows of a mapped task."""
    world.grant()
    run_id = world.airflow.api.trigger("grouped", conf)
    return run_id, *grouped_states(world, run_id)


def grouped_states(world: World, run_id: str) -> tuple[str, Shown]:
    """The state of the run when it has ended, and those of its tasks."""
    api = world.airflow.api
    wait_for(lambda: api.run_state("grouped", run_id) in FINAL_RUN, "the end of the run", 240)
    state = api.run_state("grouped", run_id)
    shown: Shown = {}
    for found in api.call("GET", f"dags/grouped/dagRuns/{run_id}/taskInstances")["task_instances"]:
        name = found["task_id"].rpartition(".")[2].partition("_any_")[0]
        shown[name, found["rendered_map_index"]] = found["state"]
    return state, shown


def grouped_processes(world: World, run_id: str) -> dict[str, int]:
    """How often each task of the run was tried. `batches` has no process."""
    tasks = world.airflow.api.tasks("grouped", run_id)
    found = {t.task_id.rpartition(".")[2]: t.try_number for t in tasks if t.try_number}
    found.pop("batches", None)
    return found


@pytest.fixture(scope="module")
def grouped(world: World) -> tuple[str, str, Shown]:
    """The first run: one of four tables that a task loads cannot be loaded."""
    with psycopg.connect(world.source) as source:
        source.execute(
            "CREATE SCHEMA grouped; SET search_path = grouped;"
            "CREATE TABLE alone AS SELECT 1 AS id; CREATE TABLE one AS SELECT 1 AS id;"
            "CREATE TABLE two AS SELECT 1 AS id; CREATE TABLE unfit AS SELECT 1 AS _load_id;"
            "CREATE TABLE log_a AS SELECT 1 AS id; CREATE TABLE log_b AS SELECT 1 AS id"
        )
    world.airflow.api.unpause("grouped")
    return grouped_run(world)


def test_a_table_that_fails_in_a_task_of_many_stops_only_what_reads_it(
    world: World, grouped: tuple[str, str, Shown]
) -> None:
    run_id, state, shown = grouped
    assert state == "failed"
    assert {name: found for (name, _), found in shown.items() if found != "success"} == {
        "batch_001": "failed",
        "batches": "upstream_failed",
        "transform_of_unfit": "failed",
    }
    assert shown["batch_log", "log_a to log_b"] == shown["table_alone", None] == "success"
    for table in ("alone", "one", "two", "log_a", "log_b"):
        assert ask(world.warehouse, f"SELECT id FROM grouped.{table}") == [(1,)]
    log = world.airflow.api.log("grouped", run_id, "batch.batch_001")
    assert "unfit: failed, " in log and "one: loaded, " in log and "two: loaded, " in log
    pushed = world.airflow.api.xcom("grouped", run_id, "batch.batch_001", "failed_tables")
    assert "unfit" in pushed and "one" not in pushed
    # One table, one message.
    texts = [m["text"] for m in world.slack.messages if run_id in json.dumps(m)]
    assert len(texts) == 1 and "grouped failed at batch.batch_001" in texts[0]


def test_a_cleared_task_of_many_loads_what_is_left_and_what_reads_it_follows(
    world: World, grouped: tuple[str, str, Shown]
) -> None:
    with psycopg.connect(world.source) as source:
        source.execute("ALTER TABLE grouped.unfit RENAME _load_id TO id")
    world.grant()
    asked = {"dry_run": False, "dag_run_id": grouped[0], "task_ids": ["batch.batch_001"]}
    asked |= {"only_failed": False, "include_downstream": True}
    world.airflow.api.call("POST", "dags/grouped/clearTaskInstances", json=asked)
    wait_for(lambda: grouped_processes(world, grouped[0])["batch_001"] == 2, "the second try")
    state, shown = grouped_states(world, grouped[0])
    assert state == "success" and shown["transform_of_unfit", None] == "success"
    loads = world.loads(grouped[0])
    assert set(loads) == {"alone", "one", "two", "unfit", "log_a", "log_b"}


def test_tasks_of_many_start_where_a_table_has_news(
    world: World, grouped: tuple[str, str, Shown]
) -> None:
    run_id, state, _ = grouped_run(world)
    pattern = {name: 1 for name in grouped_processes(world, run_id) if "_any_" in name}
    assert state == "success" and len(pattern) == 2
    assert grouped_processes(world, run_id) == {"look": 1, **pattern}
    with psycopg.connect(world.source) as source:
        source.execute("ALTER TABLE grouped.two ADD note text")
        source.execute("INSERT INTO grouped.two VALUES (2, 'new')")
    run_id, state, _ = grouped_run(world)
    assert state == "success" and set(world.loads(run_id)) == {"two"}
    started = {"look": 1, "batch_001": 1, "transform_of_two": 1, **pattern}
    assert grouped_processes(world, run_id) == started
    assert ask(world.warehouse, "SELECT n FROM grouped_mart.of_two") == [(2,)]
    told = [json.dumps(m) for m in world.slack.messages if run_id in json.dumps(m)]
    assert len(told) == 1 and "grouped has followed changed columns at batch.batch_001" in told[0]
    assert "two: added note text" in told[0]


def test_a_stopped_task_of_many_rolls_back_and_resumes(
    world: World, grouped: tuple[str, str, Shown]
) -> None:
    with psycopg.connect(world.source) as other:
        other.execute("INSERT INTO grouped.two SELECT generate_series(3, 5000)")
    with psycopg.connect(world.source) as other:
        # The larger one: `one` is loaded before it.
        other.execute("LOCK TABLE grouped.two IN ACCESS EXCLUSIVE MODE")
        world.grant()
        conf = {"full_refresh": True, "tables": ["one", "two"]}
        run_id = world.airflow.api.trigger("grouped", conf)
        wait_for(lambda: ask(world.source, WAITING) != [], "the extraction", 120)
        assert set(world.loads(run_id)) == {"one"}
        world.airflow.restart_component("scheduler")
        assert ask(world.source, WAITING) == []
    assert grouped_states(world, run_id)[0] == "success"
    assert grouped_processes(world, run_id)["batch_001"] == 2
    loads = ask(world.warehouse, "SELECT table_name FROM loadsheet.load WHERE run_id = %s", run_id)
    assert sorted(loads) == [("one",), ("two",)]
