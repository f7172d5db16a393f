"""A day of the compose project on a real engine: it starts, runs, changes its executor and its
passwords, loses a worker and is upgraded in the middle of a run. After each, staging equals the
source.

The tests are one story in this order. `make test-compose` runs it; LOADSHEET_COMPOSE=required
makes a missing engine an error.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from demo.flights import a_day_passes
from tests.compose.stack import Stack, missing_engine, new_stack

MISSING = missing_engine()
_KILLED = 137
REQUIRED = os.environ.get("LOADSHEET_COMPOSE") == "required"
pytestmark = [
    pytest.mark.skipif(bool(MISSING) and not REQUIRED, reason=MISSING),
    pytest.mark.timeout(2400),  # the first test builds the image
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The project, built and started; removed with its data at the end."""
    made = new_stack(tmp_path_factory.mktemp("compose"))
    try:
        made.build("one")
        made.up()
        yield made
    finally:
        made.compose("--profile", "*", "down", "--volumes", "--rmi", "local")


def test_the_first_start_makes_one_run_and_staging_equals_the_source(stack: Stack) -> None:
    stack.airflow("dags", "unpause", "flights")
    stack.finish(runs=1)
    assert stack.differing() == {}


def test_a_container_has_no_more_than_it_needs(stack: Stack) -> None:
    for server in ("postgres", "source", "warehouse"):
        roles = "SELECT rolname FROM pg_roles WHERE rolsuper AND rolname !~ '^pg_'"
        assert stack.psql(server, "postgres", roles) == ["postgres"], server
    containers = stack.inspect()
    assert len(containers) > 10
    for found in containers:
        name, host = found["Config"]["Labels"]["com.docker.compose.service"], found["HostConfig"]
        assert host["LogConfig"]["Config"] == {"max-file": "5", "max-size": "10m"}, name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["ReadonlyRootfs"] or name in ("lake", "lake-init"), name
        if found["State"]["Running"]:
            assert stack.compose("exec", "-T", name, "id", "-u").strip() != "0", name
            assert found["Config"]["StopTimeout"] >= 60, name


def test_another_executor_and_other_passwords_take_effect_with_the_next_up(stack: Stack) -> None:
    new = {
        name: secrets.token_hex(32)
        for name in ("AIRFLOW_DB_PASSWORD", "FLIGHTS_SOURCE_PASSWORD", "WAREHOUSE_PASSWORD")
    }
    profiles = "flights,celery"
    stack.set(AIRFLOW_EXECUTOR="CeleryExecutor", COMPOSE_PROFILES=profiles, AIRFLOW_WORKERS="2")
    stack.set(**new)
    stack.up()
    assert len(stack.compose("ps", "--quiet", "airflow-worker").split()) == 2
    a_day_passes(stack.dsn("FLIGHTS_OWNER"))
    stack.airflow("dags", "trigger", "flights")
    stack.finish(runs=2)
    assert stack.differing() == {}


def test_a_stopped_worker_rolls_back_and_its_task_runs_again_at_once(stack: Stack) -> None:
    a_day_passes(stack.dsn("FLIGHTS_OWNER"))
    with stack.held_up("staging.tickets") as waiting:
        stack.airflow("dags", "trigger", "flights")
        worker = stack.running_on("extract_tickets")
        stack.wait_for(lambda: bool(waiting()), "a task that waits for the table")
        first = waiting()
        stack.stop(worker)
        assert not waiting() & first  # the next try may wait already
    stack.finish(runs=3)
    assert stack.seconds_to_retry("extract_tickets") < 20  # `retry_delay` is 30 s
    assert stack.differing() == {}
    stack.up()


def test_an_upgrade_of_the_image_in_the_middle_loses_nothing(stack: Stack) -> None:
    a_day_passes(stack.dsn("FLIGHTS_OWNER"))
    stack.airflow("dags", "trigger", "flights")
    stack.in_the_middle()
    stack.build("two")
    stack.up()
    stack.finish(runs=4)
    assert stack.differing() == {}


def test_a_stop_kills_nothing_and_down_keeps_the_data(stack: Stack) -> None:
    stack.compose("--profile", "*", "stop")
    killed = [found["Name"] for found in stack.inspect() if found["State"]["ExitCode"] == _KILLED]
    assert killed == []
    stack.compose("--profile", "*", "down")
    stack.up()
    assert stack.differing() == {}
