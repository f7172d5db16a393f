"""What a task loses, and how long it waits, when something that it needs goes away in its middle:
the scheduler, the warehouse, the lake. In a real Airflow; docs/deploy.md has the figures.

It takes minutes, most of them waits, so it is part of the long form only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from demo.airflow import Airflow, ApiError
from demo.servers import PostgresServer, S3Server
from tests.airflow.world import ask, copy_project, rows, wait_for
from tests.faults.proxy import Fault, Proxy
from tests.faults.scale import LONG
from tests.granted import Granted
from tests.project import crash

pytestmark = pytest.mark.skipif(not LONG, reason="minutes of waiting: only with LOADSHEET_LONG=1")
NAME = "steady"
SPEC = """\
version: 1
source: {conn_id: steady_source, schema: public}
lake: {conn_id: steady_lake, bucket: steady}
warehouse: {conn_id: steady_warehouse}
tasks: {retries: 3, retry_delay: 30s}
tables:
  item: {incremental: at}
"""
SOURCE = """
CREATE TABLE item (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    what text);
INSERT INTO item (what) SELECT md5(i::text) FROM generate_series(1, 20000) i;
"""
LATEST = 600.0


@dataclass
class Steady:
    """An Airflow whose warehouse is a server of its own, and whose lake is behind a proxy."""

    airflow: Airflow
    source: str
    warehouse: str
    lake: Proxy

    def run_through(self, trouble: Callable[[], None], until: Callable[[], bool]) -> dict[str, int]:
        """Changes a third of the rows, starts a run, and makes `trouble` as soon as `until` is
        true. Returns each task's tries; prints the seconds from the trouble's end to the run's."""
        api = self.airflow.api
        with psycopg.connect(self.source) as session:
            session.execute("UPDATE item SET what = what || '.', at = DEFAULT WHERE id % 3 = 0")
            session.execute("INSERT INTO item (what) SELECT 'new' FROM generate_series(1, 100)")
        run_id = api.trigger(NAME)
        wait_for(until, "the moment of the trouble", LATEST)
        trouble()
        over = time.monotonic()
        deadline = over + LATEST
        state = ""
        while state not in ("success", "failed"):
            assert time.monotonic() < deadline, f"the run is still {state}"
            time.sleep(1)
            try:
                state = api.run_state(NAME, run_id)
            except ApiError:  # it takes longer to answer on a busy machine
                continue
        print(f"\nthe run ended {time.monotonic() - over:.0f} s after the trouble did")
        assert state == "success"
        tries = {task.task_id: task.try_number for task in api.tasks(NAME, run_id)}
        print(tries)
        columns = ["id", "at", "what"]
        assert rows(self.source, "public", "item", columns) == rows(
            self.warehouse, "staging", "item", columns
        )
        return tries

    def is_waiting(self, dsn: str, name: str) -> bool:
        """Whether a session of that application waits for a lock there."""
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND application_name LIKE %s AND datname = current_database()"
        )
        return ask(dsn, query, name) != [(0,)]


@pytest.fixture(scope="module")
def steady(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Steady]:
    """The pipeline has run once."""
    for name in ("steady_source", "steady_airflow"):
        postgres.create_database(name)
    source = postgres.dsn("steady_source")
    with psycopg.connect(source) as session:
        session.execute(SOURCE)
    project = copy_project(tmp_path_factory.mktemp("project"))
    for other in (project / "pipelines").iterdir():
        (other / "pipeline.yml").unlink()
    (project / "pipelines" / NAME).mkdir()
    (project / "pipelines" / NAME / "pipeline.yml").write_text(SPEC)
    home: Path = tmp_path_factory.mktemp("airflow")
    with PostgresServer() as other, Proxy((s3.host, s3.port)) as lake:
        warehouse = other.create_database("warehouse")
        granted = Granted(project)
        connections = {
            "AIRFLOW_CONN_STEADY_SOURCE": granted.login("source", source),
            "AIRFLOW_CONN_STEADY_WAREHOUSE": granted.login("warehouse", warehouse),
            "AIRFLOW_CONN_STEADY_LAKE": json.dumps(
                {
                    "conn_type": "generic",
                    "login": s3.access_key,
                    "password": s3.secret_key,
                    "extra": {"endpoint_url": f"http://127.0.0.1:{lake.port}"},
                }
            ),
        }
        airflow = Airflow(home, project, postgres.dsn("steady_airflow"), extra=connections)
        with airflow:
            airflow.wait_for_dag(NAME, 240)
            airflow.api.unpause(NAME)
            steady = Steady(airflow, source, warehouse, lake)
            steady.run_through(lambda: None, lambda: True)
            yield steady
    for name in ("steady_source", "steady_airflow"):
        postgres.drop_database(name)


@pytest.mark.timeout(1200)
def test_a_warehouse_that_crashes_in_the_middle_of_a_load(steady: Steady) -> None:
    with psycopg.connect(steady.warehouse) as other:
        # The load waits here with all its rows, in its transaction.
        other.execute("LOCK TABLE staging.item IN SHARE MODE")

        def crash_it() -> None:
            crash(steady.warehouse, other.info.backend_pid)

        tries = steady.run_through(
            crash_it, lambda: steady.is_waiting(steady.warehouse, "loadsheet:load:%")
        )
        # Its session went with the server.
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT")
    assert (tries["extract.extract_item"], tries["load.load_item"]) == (1, 2)


@pytest.mark.timeout(1200)
def test_a_lake_that_is_away_for_a_minute(steady: Steady) -> None:
    steady.lake.arm(Fault("reset", lasting=True))

    def come_back() -> None:
        time.sleep(60)
        steady.lake.heal()

    tries = steady.run_through(come_back, lambda: steady.lake.struck > 0)
    assert max(tries.values()) >= 2 and tries["load.load_item"] == 1


@pytest.mark.timeout(1200)
def test_a_scheduler_that_is_killed_and_starts_again(steady: Steady) -> None:
    scheduler = steady.airflow._processes["scheduler"]
    with psycopg.connect(steady.source) as other:
        other.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
        # `run_through` changes the rows first, so the lock is taken in a session of its own.
        other.rollback()

        def kill_it() -> None:
            scheduler.kill()
            other.rollback()
            steady.airflow.start_component("scheduler")

        def is_extracting() -> bool:
            if other.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                other.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
            return steady.is_waiting(steady.source, "loadsheet:extract")

        tries = steady.run_through(kill_it, is_extracting)
    assert tries["load.load_item"] == 1
