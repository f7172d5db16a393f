"""Data intervals in a real Airflow: the scheduler's own run, a backfill with its default flags,
cleared days, the DAGs that run after each of them, and the command that reads what was left out."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.status.models import MissingInterval
from loadsheet.status.warehouse import warehouse_status
from tests.airflow.world import World, ask, connection, wait_for
from tests.faults.scale import scaled

# As many as Airflow runs tasks at a time here: all of them begin together.
DAYS = scaled(4, 7)

# A DAG for each kind of reader. Only the scheduler has work with their tasks.
READERS = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable

TABLE = "x-loadsheet://warehouse/sensors/readings"
SCHEDULES = {
    "each_day": PartitionedAssetTimetable(assets=Asset(f"{TABLE}/intervals")),
    "any_change": [Asset(TABLE)],
    "naive": PartitionedAssetTimetable(assets=Asset(TABLE)),
}
for name, schedule in SCHEDULES.items():
    with DAG(name, schedule=schedule, max_active_runs=16, is_paused_upon_creation=False) as dag:
        EmptyOperator(task_id="read")
    globals()[name] = dag
"""


@pytest.fixture(scope="module")
def read_by_others(world: World) -> Iterator[None]:
    """Airflow has read the DAGs of the readers. In the end all DAGs are paused."""
    (world.more_dags / "readers.py").write_text(READERS)
    for name in ("each_day", "any_change", "naive"):
        world.airflow.wait_for_dag(name, 240)
    yield
    for name in ("daily", "each_day", "any_change", "naive"):
        world.airflow.api.pause(name)


@pytest.fixture(scope="module")
def scheduled(world: World, read_by_others: None) -> dict[str, Any]:
    """The run that the scheduler itself makes of a pipeline that reads by data interval."""
    with psycopg.connect(world.source) as session:
        session.execute(
            "CREATE SCHEMA sensors"
            " CREATE TABLE readings (at timestamptz PRIMARY KEY, value int)"
            " CREATE TABLE journal (no int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
        )
        session.execute(
            "INSERT INTO sensors.readings SELECT at, 1 FROM generate_series(date_trunc('day',"
            " now(), 'UTC') - interval '9 days', now() + interval '1 day', interval '6 hours')"
            " AS at"
        )
        session.execute("INSERT INTO sensors.journal SELECT generate_series(1, 100)")
    world.grant()
    world.airflow.api.unpause("daily")
    runs: list[dict[str, Any]] = []

    def finished() -> bool:
        runs[:] = world.airflow.api.call("GET", "dags/daily/dagRuns")["dag_runs"]
        return any(run["state"] in ("success", "failed") for run in runs)

    wait_for(finished, "the scheduled run", 200)
    return runs[0]


@pytest.fixture(scope="module")
def backfilled(world: World, scheduled: dict[str, Any]) -> dict[str, Any]:
    """A backfill of DAYS as the documentation shows it, with its default flags, while a run is
    triggered for today; then two of its days are cleared. It leaves out the day before
    yesterday."""
    api = world.airflow.api
    yesterday = datetime.fromisoformat(scheduled["data_interval_start"])
    with psycopg.connect(world.source) as session:
        session.execute("UPDATE sensors.journal SET at = clock_timestamp() WHERE no <= 50")
    first, last = (yesterday - timedelta(days=days) for days in (DAYS + 1, 2))
    dates = ("--from-date", f"{first:%Y-%m-%d}", "--to-date", f"{last:%Y-%m-%d}")
    world.airflow.run("backfill", "create", "--dag-id", "daily", *dates)
    api.call(
        "POST",
        "dags/daily/dagRuns",
        # Airflow waits for a date in the future, which an hour of today may still be.
        json={"logical_date": (yesterday + timedelta(days=1, seconds=1)).isoformat()},
    )
    wait_for_runs(world, DAYS + 2)
    with psycopg.connect(world.source) as session:
        session.execute("UPDATE sensors.readings SET value = 2")
        session.execute("UPDATE sensors.journal SET at = clock_timestamp() WHERE no <= 10")
    days = sorted(runs_of(world), key=lambda run: run["logical_date"])
    for run in days[:2]:
        path = f"dags/daily/dagRuns/{run['dag_run_id']}/clear"
        api.call("POST", path, json={"dry_run": False})
    wait_for_runs(world, DAYS + 2)
    return {"first": first, "cleared": days[1]["data_interval_end"], "yesterday": yesterday}


def gaps_of_readings(world: World) -> list[MissingInterval]:
    """What `loadsheet status` says no run has read."""
    daily = load_pipeline(world.project / "pipelines" / "daily" / "pipeline.yml")
    connections = {"warehouse": connection("warehouse", world.warehouse)}
    status = warehouse_status(daily, connections.__getitem__)
    return next(table.gaps for table in status.tables if table.name == "readings")


def runs_of(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.airflow.api.call("GET", "dags/daily/dagRuns")["dag_runs"]
    return found


def wait_for_runs(world: World, count: int) -> None:
    def have_ended() -> bool:
        states = [run["state"] for run in runs_of(world)]
        return len(states) == count and {"queued", "running"}.isdisjoint(states)

    wait_for(have_ended, f"{count} runs", 400)


def test_a_scheduled_run_reads_its_own_interval(world: World, scheduled: dict[str, Any]) -> None:
    assert (scheduled["state"], scheduled["run_type"]) == ("success", "scheduled")
    bounds = scheduled["data_interval_start"], scheduled["data_interval_end"]
    expected = ask(
        world.source,
        "SELECT at FROM sensors.readings WHERE at >= %s AND at < %s ORDER BY 1",
        *bounds,
    )
    assert len(expected) == 4
    assert ask(world.warehouse, "SELECT at FROM sensors.readings ORDER BY 1") == expected


def test_a_backfill_ends_with_every_day_loaded(world: World, backfilled: dict[str, Any]) -> None:
    """Its days run at the same time. They took the table from each other, and 6 of 7 failed."""
    states = Counter(
        (task.task_id, task.state)
        for run in runs_of(world)
        for task in world.airflow.api.tasks("daily", run["dag_run_id"])
    )
    assert {state for _, state in states} <= {"success", "skipped"}, states
    assert {run["state"] for run in runs_of(world)} == {"success"}
    assert states["load.load_readings", "success"] == DAYS + 2
    query = "SELECT at, value FROM sensors.readings WHERE at >= %s AND at < %s ORDER BY 1"
    cleared = backfilled["first"], backfilled["cleared"]
    assert len(ask(world.source, query, *cleared)) == 8
    assert ask(world.warehouse, query, *cleared) == ask(world.source, query, *cleared)
    query = "SELECT at FROM sensors.readings WHERE at >= %s AND at < %s ORDER BY 1"
    filled = backfilled["first"], backfilled["first"] + timedelta(days=DAYS)
    assert len(ask(world.source, query, *filled)) == 4 * DAYS
    assert ask(world.warehouse, query, *filled) == ask(world.source, query, *filled)
    journal = "SELECT no, at FROM sensors.journal ORDER BY 1"
    assert ask(world.warehouse, journal) == ask(world.source, journal)


def test_a_dag_with_partitions_runs_for_each_interval_that_was_loaded(
    world: World, backfilled: dict[str, Any]
) -> None:
    """And again for one that was loaded again with other rows."""
    loaded = {run["data_interval_start"] for run in runs_of(world)}
    first, second = (backfilled["first"] + timedelta(days=days) for days in (0, 1))
    expected = Counter(f"{datetime.fromisoformat(start):%Y-%m-%dT%H:%M:%S}" for start in loaded)
    expected.update(f"{start:%Y-%m-%dT%H:%M:%S}" for start in (first, second))

    def keys() -> Counter[str]:
        runs = world.airflow.api.call("GET", "dags/each_day/dagRuns")["dag_runs"]
        return Counter(run["partition_key"] for run in runs if run["state"] == "success")

    wait_for(lambda: keys() == expected, "a run for each day", 100)
    events = world.airflow.api.call(
        "GET", "assets/events", params={"source_dag_id": "daily", "limit": 100}
    )["asset_events"]
    by_uri: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_uri.setdefault(event["uri"], []).append(event)
    uri = "x-loadsheet://warehouse/sensors/readings"
    told = by_uri[f"{uri}/intervals"]
    assert Counter(event["partition_key"] for event in told) == expected
    for event in told:
        start = datetime.fromisoformat(event["extra"]["interval_start"])
        end = datetime.fromisoformat(event["extra"]["interval_end"])
        assert f"{start:%Y-%m-%dT%H:%M:%S}" == event["partition_key"]
        assert end - start == timedelta(days=1) and event["extra"]["load"]
    assert {event["partition_key"] for event in by_uri[uri]} == {None}


def test_other_readers_of_the_table_run_as_before(world: World, backfilled: dict[str, Any]) -> None:
    """The control: an event with a partition, or a DAG that asks for one, would start nothing."""
    api = world.airflow.api
    runs = {name: api.call("GET", f"dags/{name}/dagRuns") for name in ("any_change", "naive")}
    assert runs["any_change"]["total_entries"] > 0 and runs["naive"]["total_entries"] == 0


def test_the_command_that_the_status_shows_names_the_runs_of_the_gap(
    world: World, backfilled: dict[str, Any]
) -> None:
    """As Airflow understands it; tests/core/test_gaps.py reads a gap."""
    [missing] = gaps_of_readings(world)
    left_out = backfilled["yesterday"] - timedelta(days=1)
    assert (missing.gap.start, missing.gap.end) == (left_out, backfilled["yesterday"])
    command, *arguments = shlex.split(str(missing.airflow))
    assert command == "airflow"
    shown = world.airflow.run(*arguments, "--dry-run").stdout
    assert re.findall(r"\| (20\S+ \S+)", shown) == [str(left_out)]
