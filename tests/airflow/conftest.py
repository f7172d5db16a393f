"""Airflow inside the test process: a home of its own, no examples, no telemetry. Set before
anything imports it."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.servers import PostgresServer, S3Server, SlackReceiver
from tests import canaries
from tests.airflow.world import World, flights_world
from tests.services import *  # noqa: F403

REPO = Path(__file__).resolve().parents[2]
SHARING_WORLD = (
    "test_assets.py",
    "test_backfills.py",
    "test_end_to_end.py",
    "test_pattern_runs.py",
    "test_tasks_of_many.py",
    "test_shared_extract.py",
    # The last: it gives that Airflow other bundles.
    "test_bundle.py",
)
_HOME = tempfile.mkdtemp(prefix="loadsheet-airflow-home-")
os.environ.update(
    AIRFLOW_HOME=_HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY="False",
)

with warnings.catch_warnings():  # dag-factory 1.1 tries Airflow 2's import paths first
    warnings.simplefilter("ignore")
    import dagfactory.dagbuilder  # noqa: F401


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors here too, but not those that Airflow and dag-factory give themselves.

    The modules that share `world` come last: its Airflow would go on working beside all others.
    Their mark lets `make test` run them at the same time as the others.
    """
    items.sort(key=lambda item: _place(item.path.name))
    for item in items:
        if item.path.name in SHARING_WORLD:
            item.add_marker(pytest.mark.shared_world)
        if item.path.is_relative_to(REPO / "tests" / "airflow"):
            item.add_marker(
                pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
            )


def _place(module: str) -> int:
    return SHARING_WORLD.index(module) if module in SHARING_WORLD else -1


def pytest_sessionfinish() -> None:
    """Leave no home behind."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def arguments() -> Iterator[dict[str, str]]:
    """The command lines of all processes of this machine, from before the Airflow of `world`
    starts."""
    with canaries.process_arguments(every=0.5) as seen:
        yield seen


@pytest.fixture(scope="session")
def world(
    arguments: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    postgres: PostgresServer,
    s3: S3Server,
) -> Iterator[World]:
    """The source has data, the warehouse is empty, Airflow has read the pipelines: for several
    modules, as an Airflow takes 30 s of a core to start. Each leaves its DAGs paused."""
    folders = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("airflow")
    with flights_world(*folders, postgres, s3, bookings=300) as world:
        yield world


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A DAG bundle without pipelines: the loader and the ignore file of this repository."""
    (tmp_path / "dags").mkdir()
    (tmp_path / "pipelines").mkdir()
    shutil.copy(REPO / "dags" / "load_pipelines.py", tmp_path / "dags")
    shutil.copy(REPO / ".airflowignore", tmp_path)
    return tmp_path


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackReceiver]:
    """A receiver behind the Airflow connection `slack`."""
    with SlackReceiver() as receiver:
        define_slack(monkeypatch, receiver.url)
        yield receiver


def define_slack(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The Airflow connection `slack` points at `url`; its token must never be shown."""
    for proxy in ("http_proxy", "HTTP_PROXY"):  # Slack's client knows no NO_PROXY
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv(
        "AIRFLOW_CONN_SLACK",
        f'{{"conn_type": "slackwebhook", "host": "{url}", "password": "T0/B0/hush-hush-token"}}',
    )
