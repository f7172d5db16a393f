"""The link to what a run did, as Airflow's API server makes it from a stored DAG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow import plugins_manager, settings
from airflow.serialization.serialized_objects import DagSerialization

from loadsheet.airflow.factory import broken_dag, build_dag
from loadsheet.airflow.links import _OPERATORS, RunLink
from loadsheet.airflow.operators import StepOperator
from loadsheet.airflow.plugin import LoadsheetPlugin
from loadsheet.spec.pipeline_file import load_pipeline

NAME = RunLink.name
CACHES = (plugins_manager._get_plugins, plugins_manager._get_extra_operators_links_plugins)
# Steps of every kind and granularity, some of them mapped.
SPEC = """\
version: 1
source: {conn_id: src}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: wh}
verify: "@weekly"
tables:
  orders:
  alone: {granularity: table}
  one: {granularity: batch}
  "log_*":
transforms: {x: , y: }
"""


def stored(dag: Any) -> Any:
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Airflow has loaded the plugin."""
    (tmp_path / "plugins.py").write_text("from loadsheet.airflow.plugin import LoadsheetPlugin\n")
    monkeypatch.setattr(settings, "PLUGINS_FOLDER", str(tmp_path))
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


@pytest.fixture
def without_links(plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin, which may be installed here, has none."""
    monkeypatch.setattr(LoadsheetPlugin, "operator_extra_links", [])


@pytest.fixture
def dag(tmp_path: Path) -> Any:
    folder = tmp_path / "pipelines" / "shop"
    (folder / "sql").mkdir(parents=True)
    (folder / "pipeline.yml").write_text(SPEC)
    (folder / "sql" / "x.sql").write_text("SELECT 1 AS n FROM orders")
    (folder / "sql" / "y.sql").write_text("SELECT 1 AS n FROM one")
    return stored(build_dag(load_pipeline(folder / "pipeline.yml")))


def test_every_task_of_a_pipeline_has_the_link(plugin: None, dag: Any) -> None:
    ti: Any = SimpleNamespace(key=SimpleNamespace(dag_id="shop", run_id="manual__2026+00:00/é"))
    for task in dag.tasks:
        assert NAME in task.extra_links, task.task_id
        link = task.get_extra_links(ti, NAME)
        assert link == "/loadsheet/#/p/shop/run/manual__2026%2B00%3A00%2F%C3%A9"
    assert len({task.task_type for task in dag.tasks}) >= 8
    (broken,) = stored(broken_dag("shop", "pipeline.yml", "a problem")).tasks
    assert NAME not in broken.extra_links


def test_without_the_plugin_there_is_none(without_links: None, dag: Any) -> None:
    assert not any(NAME in task.extra_links for task in dag.tasks)


def test_the_address_is_below_that_of_airflow(
    plugin: None, dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.com/airflow/")
    ti: Any = SimpleNamespace(key=SimpleNamespace(dag_id="shop", run_id="one"))
    link = dag.get_task("look").get_extra_links(ti, NAME)
    assert link == "https://example.com/airflow/loadsheet/#/p/shop/run/one"


def test_the_operators_are_those_of_all_steps() -> None:
    def below(kind: type) -> set[type]:
        return {each for one in kind.__subclasses__() for each in {one, *below(one)}}

    ours = {
        (each.__module__, each.__name__)
        for each in below(StepOperator)
        if each.__module__.startswith("loadsheet.")
    }
    named = {(module, name) for module, names in _OPERATORS.items() for name in names}
    assert named == ours
