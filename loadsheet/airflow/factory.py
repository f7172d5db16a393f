"""A plan to a DAG by way of dag-factory, and the placeholder DAG of a pipeline file with problems.

Only what `loadsheet.plan.dag_config` and `loadsheet.airflow.factory` write is understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from airflow.sdk import DAG, BaseOperator, TaskGroup, get_parsing_context
from airflow.sdk.definitions.mappedoperator import MappedOperator

from loadsheet.airflow.locate import remember_project
from loadsheet.plan.dag_config import dag_config, project_root
from loadsheet.plan.dag_docs import block, code
from loadsheet.spec.models import Pipeline

BROKEN_TAG = "broken-spec"
BROKEN_TASK = "broken_spec"


def build_dag(pipeline: Pipeline, root: Path | None = None) -> DAG:
    """The pipeline's DAG, built by dag-factory. `root` is the project's folder (default: the one
    that holds `pipelines/`). Raises SpecError."""
    dag = _build(pipeline.name, dag_config(pipeline, root))
    remember_project(dag, root or project_root(pipeline.file))
    return dag


def broken_dag(dag_id: str, file: str, problems: str, schedule: str | None = None) -> DAG:
    """A DAG that says what is wrong with `file` wherever one looks, and fails when it runs.

    With the spec's schedule, where that could be read, the missing loads show as red runs and not
    as silence.
    """
    return _build(
        dag_id,
        {
            "dag_display_name": f"{dag_id} (broken spec)",
            "description": f"{file} has problems: {problems.partition(chr(10))[0]}",
            "schedule": schedule,
            "catchup": False,
            "max_active_runs": 1,
            "tags": [BROKEN_TAG],
            "doc_md": (
                f"{code(file)} cannot become a DAG until this is"
                f" fixed:\n\n{block(problems, 'text')}\n"
            ),
            "default_args": {"retries": 0},
            "tasks": {
                BROKEN_TASK: {
                    "operator": "loadsheet.airflow.operators.BrokenSpecOperator",
                    "problems": problems,
                }
            },
        },
    )


def _build(dag_id: str, config: Mapping[str, Any]) -> DAG:
    """From dag-factory's plain YAML form, but never by way of a file: there it expands `$NAME`,
    even inside SQL."""
    real: dict[str, Any] = _real({key: value for key, value in config.items() if key != "params"})
    # A worker builds one DAG for every task it runs: importing dag-factory would take it 90 ms each
    # time.
    dag = (build if get_parsing_context().dag_id else _by_dag_factory)(dag_id, real)
    # Now, not before: Airflow copies the params into every task it makes then. Building takes twice
    # as long with them, storing the DAG 17 times (74 ms against 4), and a task reads them from its
    # DAG anyway.
    dag.params.update(_real(config.get("params", {})))
    dag.validate()  # type: ignore[no-untyped-call]  # here, where a bad cron costs one pipeline; Airflow would count it against the whole file
    return dag


def _by_dag_factory(dag_id: str, config: dict[str, Any]) -> DAG:
    from dagfactory.dagbuilder import DagBuilder

    dag: DAG = DagBuilder(dag_id, _Uncopied(config), default_config={}).build()["dag"]
    return dag


class _Uncopied(dict[str, Any]):
    """Made for dag-factory alone, which would copy it first."""

    def __deepcopy__(self, memo: Any) -> _Uncopied:
        return self


def _real(value: Any) -> Any:
    """`value` with the objects that its `__type__`s stand for, as dag-factory makes them of a file."""
    if isinstance(value, list):
        return [_real(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    arguments = {key: _real(inner) for key, inner in value.items() if key != "__type__"}
    if "__type__" not in value:
        return arguments
    return named(value["__type__"])(**arguments)


Task = BaseOperator | MappedOperator


@cache
def named(path: str) -> Any:
    """The class or function with this dotted name, imported."""
    return resolve_name(path)


def build(dag_id: str, config: Mapping[str, Any]) -> DAG:
    """The DAG of a configuration whose `__type__`s have become objects; every task comes after its
    `dependencies`."""
    arguments = {
        key: value
        for key, value in config.items()
        if key not in ("tasks", "task_groups", "schedule")
    }
    start = arguments.get("start_date")
    arguments["start_date"] = datetime.fromisoformat(start).replace(tzinfo=UTC) if start else None
    arguments["tags"] = [*config["tags"], "dagfactory"]
    arguments["default_args"] = {
        key: _callback(value) for key, value in config["default_args"].items()
    }
    dag = DAG(dag_id, schedule=config["schedule"], **arguments)
    dag.is_dagfactory_auto_generated = True  # type: ignore[attr-defined]
    groups = {
        name: TaskGroup(name, dag=dag, **settings)
        for name, settings in config.get("task_groups", {}).items()
    }
    tasks: dict[str, Task] = {}
    for name, task in config["tasks"].items():
        tasks[name] = _task(name, dict(task), dag, groups, tasks)
        for upstream in task.get("dependencies", ()):
            tasks[name].set_upstream(tasks[upstream])
    return dag


def _task(
    name: str,
    task: dict[str, Any],
    dag: DAG,
    groups: Mapping[str, TaskGroup],
    tasks: Mapping[str, Task],
) -> Task:
    operator: type[BaseOperator] = named(task.pop("operator"))
    task.pop("dependencies", None)
    group = groups.get(task.pop("task_group_name", ""))
    if "expand" not in task:
        return operator(task_id=name, dag=dag, task_group=group, **task)
    over = {
        key: tasks[source.removesuffix(".output")].output
        for key, source in task.pop("expand").items()
    }
    return operator.partial(task_id=name, dag=dag, task_group=group, **task).expand(**over)


def _callback(value: Any) -> Any:
    if not isinstance(value, dict) or "callback" not in value:
        return value
    return partial(
        named(value["callback"]), **{key: arg for key, arg in value.items() if key != "callback"}
    )
