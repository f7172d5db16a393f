"""Tasks that extract tables and load them: what they do, and what a retry and a cleared task do, on
real servers. The runs of a real scheduler are in test_end_to_end.py."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from loadsheet.airflow import operators
from loadsheet.airflow.factory import build_dag
from loadsheet.airflow.operators import StepOperator
from loadsheet.engine import table_step
from loadsheet.errors import Unavailable
from loadsheet.spec.pipeline_file import load_pipeline
from tests.project import Project

RETRIES = 2
SOURCE = """
CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE kind (id int PRIMARY KEY, name text);
INSERT INTO item SELECT generate_series(1, 50);
INSERT INTO kind SELECT i, 'kind ' || i FROM generate_series(1, 5) i;
"""
LOADS = "SELECT load_id FROM loadsheet.load WHERE table_name = %s ORDER BY load_no"


class Task:
    """A task of the project's DAG, in one run: each call of `execute` is a try."""

    def __init__(self, project: Project, task_id: str, run_id: str = "run", **params: Any):
        project.grant()
        pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
        task = build_dag(pipeline).get_task(task_id)
        assert isinstance(task, StepOperator)
        self.operator, self.run_id, self.params = task, run_id, params
        self.tries, self.most = 0, RETRIES
        self.pushed: dict[str, Any] = {}

    def clear(self) -> None:
        """What Airflow does when a person clears the task."""
        self.most = self.tries + RETRIES

    def execute(self) -> Any:
        """One try."""
        self.tries += 1
        self.pushed.clear()
        ti = SimpleNamespace(
            try_number=self.tries,
            max_tries=self.most,
            xcom_push=lambda key, value: self.pushed.update({key: value}),
        )
        context = {"run_id": self.run_id, "params": self.params, "ti": ti}
        inside = contextvars.copy_context()
        inside.run(ExecutorSafeguard.tracker.set, self.operator)
        return inside.run(self.operator.execute, context)


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two tables, each extracted and loaded by one task."""
    monkeypatch.setattr(operators, "airflow_connection", project.connections)
    project.in_source(SOURCE)
    tables = {"item": {"incremental": "at"}, "kind": None}
    project.spec(tables, tasks={"granularity": "table", "retries": RETRIES})
    Task(project, "look").execute()  # makes the bucket
    return project


@pytest.fixture
def failing_load(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Loads fail; the function ends that."""

    def fail(*given: Any) -> None:
        raise Unavailable("the warehouse is away")

    load = table_step.load
    monkeypatch.setattr(table_step, "load", fail)
    return lambda: monkeypatch.setattr(table_step, "load", load)


def test_one_task_extracts_and_loads_its_table(shop: Project) -> None:
    item = Task(shop, "table.table_item")
    load_id = item.execute()
    assert shop.in_warehouse(LOADS, "item") == [(load_id,)] and shop.differences("item") == 0
    with pytest.raises(AirflowSkipException, match="nothing new since"):
        Task(shop, "table.table_item", "next").execute()
    shop.in_source("INSERT INTO item VALUES (51)")
    with pytest.raises(AirflowSkipException, match="not chosen"):
        Task(shop, "table.table_item", "chosen", tables=["kind"]).execute()
    assert shop.differences("item") == 1


def test_a_retry_loads_what_was_extracted_and_a_cleared_task_extracts_again(
    shop: Project, failing_load: Callable[[], None]
) -> None:
    item, kind = Task(shop, "table.table_item"), Task(shop, "table.table_kind")
    for task in (item, kind):
        with pytest.raises(AirflowException, match="the warehouse is away"):
            task.execute()
    shop.in_source("INSERT INTO item VALUES (51); INSERT INTO kind VALUES (6)")
    stored = shop.objects()
    failing_load()
    assert item.execute()
    # Not read again: the row that came between is for the next run.
    assert shop.differences("item") == 1 and shop.objects() == stored
    kind.clear()
    assert kind.execute()
    assert shop.differences("kind") == 0 and shop.objects() > stored


def test_a_task_that_is_lost_after_its_load_is_a_success_when_it_is_tried_again(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Task(shop, "table.table_item", full_refresh=True)
    load = table_step.load

    def lost(*given: Any) -> None:
        load(*given)
        raise Unavailable("lost")

    monkeypatch.setattr(table_step, "load", lost)
    with pytest.raises(AirflowException, match="lost"):
        item.execute()
    monkeypatch.setattr(table_step, "load", load)
    assert shop.in_warehouse(LOADS, "item") == [(item.execute(),)]


def test_the_objects_of_a_corrupt_load_name_the_task_to_clear(
    shop: Project, failing_load: Callable[[], None]
) -> None:
    from loadsheet.lake.store import Lake

    item = Task(shop, "table.table_item")
    with pytest.raises(AirflowException):
        item.execute()
    failing_load()
    lake = Lake(shop.connections("lake"), shop.bucket)
    for name in shop.objects():
        if "part-" in name:
            lake.put(name, b"something else")
    with pytest.raises(AirflowFailException, match=r"clear table\.table_item; on the command line"):
        item.execute()
    item.clear()
    assert item.execute() and shop.differences("item") == 0
