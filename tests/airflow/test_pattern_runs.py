"""Runs of pipelines with a pattern in a real Airflow, and a worker that is stopped."""

from __future__ import annotations

import json

import psycopg
import pytest

from demo.airflow import Api
from tests.airflow.world import (
    WAITING,
    World,
    ask,
    wait_for,
)


def run_everything(world: World) -> tuple[str, dict[str, dict[str | None, str]]]:
    """One run of the pipeline with a pattern: its state, and per task what the UI shows of each
    table's state."""
    api = world.airflow.api
    world.grant()
    run_id = api.trigger("everything", None)
    state = api.wait("everything", run_id, timeout=240)
    tasks: dict[str, dict[str | None, str]] = {}
    for found in api.call("GET", f"dags/everything/dagRuns/{run_id}/taskInstances")[
        "task_instances"
    ]:
        tasks.setdefault(found["task_id"].partition("_any_")[0], {})[
            found["rendered_map_index"]
        ] = found["state"]
    return state, tasks


def test_a_pattern_is_what_the_source_has_when_a_run_begins(world: World) -> None:
    with psycopg.connect(world.source, autocommit=True) as source:
        source.execute(
            "CREATE SCHEMA loose; SET search_path = loose; CREATE VIEW seen AS SELECT 1;"
            "CREATE TABLE exact AS SELECT 1 id; CREATE TABLE tmp_three AS SELECT 1 id;"
            "CREATE TABLE one AS SELECT 1 id; CREATE TABLE two AS SELECT 1 id"
        )
        world.airflow.api.unpause("everything")
        state, tasks = run_everything(world)
        both = {"one": "success", "two": "success"}
        assert (state, tasks["extract.extract"], tasks["load.load"]) == ("success", both, both)
        assert (
            tasks["extract.extract_exact"]
            == tasks["transform.transform_counted"]
            == {None: "success"}
        )

        source.execute(
            "CREATE TABLE late AS SELECT 1 id; DROP TABLE two; CREATE TABLE unfit AS SELECT 1"
            " _load_id"
        )
        state, tasks = run_everything(world)
        source.execute("ALTER SCHEMA loose RENAME TO lost")
        unasked_state, unasked = run_everything(world)
    assert (unasked_state, unasked["resolve"]) == ("failed", {None: "failed"})
    assert unasked["extract.extract"] == unasked["load.load"] == {None: "upstream_failed"}
    assert state == "failed"
    assert tasks["extract.extract"] == {
        "late": "success",
        "one": "skipped",
        "two": "skipped",
        "unfit": "failed",
    }
    assert tasks["load.load"] == {
        "late": "success",
        "one": "skipped",
        "two": "skipped",
        "unfit": "failed",
    }
    assert tasks["transform.transform_counted"] == {None: "upstream_failed"}
    assert ask(world.warehouse, "SELECT count(*) FROM loose.two") == [(1,)]  # nothing is dropped
    assert any(
        "failed at extract.extract_any_684888c0 [unfit]" in m["text"] for m in world.slack.messages
    )


@pytest.fixture(scope="module")
def plain(world: World) -> Api:
    """The pipeline with a pattern and no transforms, unpaused, with a table that fits and one that
    does not."""
    with psycopg.connect(world.source) as source:
        source.execute("CREATE SCHEMA plain; CREATE TABLE plain.one AS SELECT 1 AS id")
        source.execute("CREATE TABLE plain.unfit AS SELECT 1 AS _load_id")
    world.grant()
    world.airflow.api.unpause("plain")
    return world.airflow.api


def test_a_misspelt_key_of_a_runs_conf_stops_the_run(plain: Api) -> None:
    """It was ignored: the run read only what was new."""
    run_id = plain.trigger("plain", {"full_refesh": True})
    assert plain.wait("plain", run_id, timeout=240) == "failed"
    log = plain.log("plain", run_id, "look")
    assert "unknown key 'full_refesh'. Did you mean full_refresh?" in log


def test_a_run_in_which_a_table_of_a_pattern_failed_is_no_success(world: World, plain: Api) -> None:
    """Its load was skipped, and the loads are the last tasks of the run."""
    run_id = plain.trigger("plain")
    assert plain.wait("plain", run_id, timeout=240) == "failed"
    path = f"dags/plain/dagRuns/{run_id}/taskInstances"
    loads = {}
    for found in plain.call("GET", path)["task_instances"]:
        if found["task_id"].startswith("load."):
            loads[found["rendered_map_index"]] = found["state"]
    assert loads == {"one": "success", "unfit": "failed"}
    # One table, one message: about its extract.
    told = []
    for message in world.slack.messages:
        if run_id in json.dumps(message) and "plain failed" in message["text"]:
            told.append(message["text"])
    assert len(told) == 1 and "plain failed at extract.extract_any" in told[0]


def test_a_stopped_worker_rolls_back_at_once_and_its_task_is_tried_again_at_once(
    world: World, plain: Api
) -> None:
    """Without the operator's part, the second try would begin after `retry_delay`, an hour."""
    with psycopg.connect(world.source) as other:
        other.execute("DROP TABLE plain.unfit")
    with psycopg.connect(world.source) as other:
        other.execute("LOCK TABLE plain.one IN ACCESS EXCLUSIVE MODE")
        run_id = plain.trigger("plain", {"full_refresh": True, "tables": ["one"]})
        wait_for(lambda: ask(world.source, WAITING) != [], "the extraction", 120)
        world.airflow.restart_component("scheduler")
        # The table is still locked: what was waiting for it has been cancelled.
        assert ask(world.source, WAITING) == []
    assert plain.wait("plain", run_id, timeout=240) == "success"
    tries = {}
    for task in plain.tasks("plain", run_id):
        tries[task.task_id.partition("_any")[0]] = task.try_number
    assert (tries["extract.extract"], tries["load.load"]) == (2, 1)
    assert ask(world.warehouse, "SELECT id FROM plain_staging.one") == [(1,)]
