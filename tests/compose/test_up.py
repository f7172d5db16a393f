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


def test_another_executor_and_other_passwords_take_effect_with_the_next_up(stack: Stack) -> None:
    new = {
        name: secrets.token_hex(32)
        for name in ("AIRFLOW_DB_PASSWORD", "FLIGHTS_SOURCE_PASSWORD", "WAREHOUSE_PASSWORD")
    }
    stack.set(AIRFLOW_EXECUTOR="CeleryExecutor", COMPOSE_PROFILES="flights,celery", **new)
    stack.up()
    a_day_passes(stack.dsn("FLIGHTS_OWNER"))
    stack.airflow("dags", "trigger", "flights")
    stack.finish(runs=2)
    assert stack.differing() == {}


def test_a_worker_stopped_in_the_middle_loses_nothing(stack: Stack) -> None:
    a_day_passes(stack.dsn("FLIGHTS_OWNER"))
    stack.airflow("dags", "trigger", "flights")
    stack.in_the_middle()
    stack.compose("stop", "airflow-worker")
    stack.compose("start", "airflow-worker")
    stack.finish(runs=3)
    assert stack.differing() == {}


def test_an_upgrade_of_the_image_in_the_middle_loses_nothing(stack: Stack) -> None:
    a_day_passes(stack.dsn("FLIGHTS_OWNER"))
    stack.airflow("dags", "trigger", "flights")
    stack.in_the_middle()
    stack.build("two")
    stack.up()
    stack.finish(runs=4)
    assert stack.differing() == {}


def test_down_keeps_the_data(stack: Stack) -> None:
    stack.compose("--profile", "*", "down")
    stack.up()
    assert stack.differing() == {}
