"""A running task's process is killed in the middle of a load: Airflow's own retry heals it, and nobody is woken."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import psycopg
import pytest

from demo.airflow import Airflow
from demo.servers import PostgresServer, S3Server, SlackReceiver
from tests.airflow.world import DAG_ID, World, add_connections, ask, copy_project, wait_for
from tests.faults.oracle import judge, violations
from tests.project import Project

SPEC = """\
version: 1
schedule: null
source: {conn_id: flights_source, schema: public}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
notify: {slack_conn_id: slack}
tasks: {retries: 2, retry_delay: 1s}
tables:
  event: {incremental: at}
"""
SOURCE = "CREATE TABLE event (what text, at timestamptz NOT NULL DEFAULT clock_timestamp())"
CHANGE = "INSERT INTO event SELECT md5(i::text) FROM generate_series(1, 1000) i"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'staging.event'::regclass"
RUNNING = "SELECT pid FROM task_instance WHERE task_id = 'load.load_event' AND state = 'running'"
DATABASES = ("flights_source", "warehouse", "airflow")


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server) -> Iterator[World]:
    """A pipeline of one table that is appended to, and its Airflow."""
    for name in DATABASES:
        postgres.create_database(name)
    project = copy_project(tmp_path_factory.mktemp("project"))
    shutil.rmtree(project / "pipelines")
    (project / "pipelines" / DAG_ID).mkdir(parents=True)
    (project / "pipelines" / DAG_ID / "pipeline.yml").write_text(SPEC)
    airflow = Airflow(tmp_path_factory.mktemp("airflow"), project, postgres.dsn("airflow"))
    with SlackReceiver() as slack, airflow:
        add_connections(airflow, postgres, s3, slack)
        airflow.wait_for_dag(DAG_ID)
        airflow.api.unpause(DAG_ID)
        yield World(project, postgres, s3, slack, airflow)
    for name in DATABASES:
        postgres.drop_database(name)


def test_a_killed_load_is_healed_by_airflows_retry(world: World) -> None:
    shop = Project(world.project, world.source, world.warehouse, world.s3)
    shop.in_source(SOURCE)
    shop.in_source(CHANGE)
    assert world.run().state == "success"
    shop.in_source(CHANGE)
    with psycopg.connect(world.warehouse) as blocker:
        blocker.execute("LOCK TABLE staging.event IN SHARE MODE")
        run_id = world.airflow.api.trigger(DAG_ID)
        wait_for(lambda: ask(world.warehouse, WAITING) == [(1,)], "the load to have rows in its hands")
        ((pid,),) = ask(world.postgres.dsn("airflow"), RUNNING)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: ask(world.warehouse, WAITING) == [(0,)], "the end of what the dead task had asked for", 10)
    assert world.airflow.api.wait(DAG_ID, run_id, timeout=120) == "success"
    tries = "SELECT try_number FROM task_instance WHERE run_id = %s AND task_id = 'load.load_event'"
    assert ask(world.postgres.dsn("airflow"), tries, run_id) == [(2,)]
    assert not judge(shop, "event") and violations(shop) == []
    assert world.slack.messages == []
