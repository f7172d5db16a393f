"""dag-factory's configuration -> DAG by Airflow's own classes alone, for a worker. A test holds the two equal.

Only what `loadsheet.plan.dagfactory` and `dags.factory` write is understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any

from airflow.sdk import DAG, BaseOperator, TaskGroup
from airflow.sdk.definitions.mappedoperator import MappedOperator

Task = BaseOperator | MappedOperator


@cache
def named(path: str) -> Any:
    """The class or function with this dotted name, imported."""
    return resolve_name(path)


def build(dag_id: str, config: Mapping[str, Any]) -> DAG:
    """The DAG of a configuration whose `__type__`s have become objects; every task comes after its `dependencies`."""
    arguments = {key: value for key, value in config.items() if key not in ("tasks", "task_groups", "schedule")}
    start = arguments.get("start_date")
    arguments["start_date"] = datetime.fromisoformat(start).replace(tzinfo=UTC) if start else None
    arguments["tags"] = [*config["tags"], "dagfactory"]
    arguments["default_args"] = {key: _callback(value) for key, value in config["default_args"].items()}
    dag = DAG(dag_id, schedule=config["schedule"], **arguments)
    dag.is_dagfactory_auto_generated = True  # type: ignore[attr-defined]
    groups = {name: TaskGroup(name, dag=dag, **settings) for name, settings in config.get("task_groups", {}).items()}
    tasks: dict[str, Task] = {}
    for name, task in config["tasks"].items():
        tasks[name] = _task(name, dict(task), dag, groups, tasks)
        for upstream in task.get("dependencies", ()):
            tasks[name].set_upstream(tasks[upstream])
    return dag


def _task(
    name: str, task: dict[str, Any], dag: DAG, groups: Mapping[str, TaskGroup], tasks: Mapping[str, Task]
) -> Task:
    operator: type[BaseOperator] = named(task.pop("operator"))
    task.pop("dependencies", None)
    group = groups.get(task.pop("task_group_name", ""))
    if "expand" not in task:
        return operator(task_id=name, dag=dag, task_group=group, **task)
    over = {key: tasks[source.removesuffix(".output")].output for key, source in task.pop("expand").items()}
    return operator.partial(task_id=name, dag=dag, task_group=group, **task).expand(**over)


def _callback(value: Any) -> Any:
    if not isinstance(value, dict) or "callback" not in value:
        return value
    return partial(named(value["callback"]), **{key: arg for key, arg in value.items() if key != "callback"})
