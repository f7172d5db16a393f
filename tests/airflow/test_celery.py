"""Flights on two Celery workers that share nothing: all files, users and processes are apart, only
Redis, the API and the three servers are common. One worker is lost in the middle of a load.

`make test-celery` runs it. tests/compose does the same with containers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from demo.flights import a_day_passes
from demo.servers import PostgresServer, S3Server
from loadsheet.sqltest.embedded import scratch_folder
from tests.airflow import celery_workers
from tests.airflow.celery_workers import Worker
from tests.airflow.world import DAG_ID, World, ask, flights_world, wait_for

pytestmark = pytest.mark.skipif(
    bool(celery_workers.missing()), reason=celery_workers.missing() or "it can run"
)
HELD = "load.load_tickets"
WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'warehouse'"
)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder that every user may enter, as none of pytest's is."""
    folder = scratch_folder("loadsheet-celery-")
    for name in ("airflow", "project", "workers"):
        (folder / name).mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def world(scratch: Path, postgres: PostgresServer, s3: S3Server) -> Iterator[World]:
    """Airflow with the CeleryExecutor, and no worker yet."""
    home, folder = scratch / "airflow", scratch / "project"
    with celery_workers.redis() as broker:
        more = celery_workers.settings(broker, postgres.dsn("airflow"), folder)
        with flights_world(folder, home, postgres, s3, 300, more) as world:
            text = world.spec.read_text()
            world.spec.write_text(text.replace("retry_delay: 30s", "retry_delay: 1s"))
            world.airflow.api.unpause(DAG_ID)
            yield world


@pytest.fixture(scope="module")
def workers(world: World, scratch: Path) -> Iterator[list[Worker]]:
    """Two of them."""
    with celery_workers.workers(world.airflow, world.project, scratch / "workers") as found:
        yield found


@contextmanager
def locked(world: World, table: str) -> Iterator[None]:
    """Nobody can write to the table meanwhile."""
    with psycopg.connect(world.warehouse) as session:
        session.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        yield


def test_each_worker_does_some_tasks_and_none_sees_the_files_of_the_other(
    world: World, workers: list[Worker]
) -> None:
    run = world.run()
    assert run.state == "success"
    assert world.differing_tables() == {}
    assert world.differing_marts() == {}
    one, two = (worker.tasks() for worker in workers)
    assert one and two, "one of them was idle"
    assert len(one | two) == len(run.tasks)
    owners = [worker.home.stat().st_uid for worker in workers]
    assert len(set(owners)) == 2
    assert not list((world.airflow.home / "logs").glob("dag_id=*")), "a worker wrote to our home"


def test_a_worker_that_is_lost_in_the_middle_of_a_load_loses_no_row_and_doubles_none(
    world: World, workers: list[Worker]
) -> None:
    a_day_passes(world.source)
    world.grant()
    with locked(world, "staging.tickets"):
        run_id = world.airflow.api.trigger(DAG_ID)
        wait_for(lambda: bool(ask(world.warehouse, WAITING)), "a load that waits", 120)
        lost = [worker for worker in workers if worker.has_begun(run_id, HELD)]
        assert len(lost) == 1
        lost[0].kill()
        wait_for(
            lambda: any(
                task.task_id == HELD and task.try_number == 2
                for task in world.airflow.api.tasks(DAG_ID, run_id)
            ),
            "the second try",
            120,
        )
    assert world.airflow.api.wait(DAG_ID, run_id, timeout=240) == "success"
    (left,) = (worker for worker in workers if worker is not lost[0])
    assert left.has_begun(run_id, HELD)
    assert world.differing_tables() == {}
    assert world.differing_marts() == {}
    assert world.loads(run_id)["tickets"]["inserted"] > 0
    loads = ask(
        world.warehouse,
        "SELECT count(*) FROM loadsheet.load WHERE run_id = %s AND table_name = 'tickets'",
        run_id,
    )
    assert loads == [(1,)]


def test_control_a_row_that_is_there_twice_would_be_seen(world: World) -> None:
    with psycopg.connect(world.warehouse) as session:
        session.execute("ALTER TABLE staging.tickets DROP CONSTRAINT tickets_pkey")
        session.execute("INSERT INTO staging.tickets SELECT * FROM staging.tickets LIMIT 1")
    assert world.differing_tables().keys() == {"tickets"}
