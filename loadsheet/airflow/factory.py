"""Builds the DAG of a plan, and the stand-in DAG of a pipeline file with problems.

There are two builders for the same configuration. dag-factory builds the DAGs that Airflow parses
and stores. A worker, which builds one DAG for every task it runs, uses ours: importing dag-factory
would cost each task 0.1 to 0.2 s (docs/decisions.md). Ours supports only what
`loadsheet.plan.dag_config` and this module write. tests/airflow/test_by_hand.py compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from airflow.sdk import DAG, Asset, BaseOperator, TaskGroup, get_parsing_context
from airflow.sdk.definitions.mappedoperator import MappedOperator

from loadsheet.airflow.locate import remember_project
from loadsheet.plan.dag_config import dag_config, project_root
from loadsheet.plan.dag_docs import block, code
from loadsheet.spec.models import Pipeline

BROKEN_TAG = "broken-spec"
BROKEN_TASK = "broken_spec"

Task = BaseOperator | MappedOperator


def build_dag(pipeline: Pipeline, root: Path | None = None) -> DAG:
    """The pipeline's DAG. `root` is the project's folder (default: the one that holds
    `pipelines/`). Raises SpecError."""
    dag = _build(pipeline.name, dag_config(pipeline, root))
    remember_project(dag, root or project_root(pipeline.file))
    # Airflow does not store it: for the parse, which reports a file that is broken later.
    dag.loadsheet_notify = pipeline.notify  # type: ignore[attr-defined]
    return dag


def broken_dag(dag_id: str, file: str, problems: str, schedule: str | None = None) -> DAG:
    """A DAG that shows what is wrong with `file` wherever Airflow shows text, and fails when it
    runs.

    It has the spec's schedule, if that could be read: then missing loads are visible, as failed
    runs.
    """
    first_line = problems.partition("\n")[0]
    task = {"operator": "loadsheet.airflow.operators.BrokenSpecOperator", "problems": problems}
    config = {
        "dag_display_name": f"{dag_id} (broken spec)",
        "description": f"{file} has problems: {first_line}",
        "schedule": schedule,
        "catchup": False,
        "max_active_runs": 1,
        "tags": [BROKEN_TAG],
        "doc_md": (
            f"{code(file)} cannot become a DAG until this is fixed:\n\n{block(problems, 'text')}\n"
        ),
        "default_args": {"retries": 0},
        "tasks": {BROKEN_TASK: task},
    }
    return _build(dag_id, config)


def _build(dag_id: str, config: Mapping[str, Any]) -> DAG:
    """A DAG from the values of a dag-factory file. They never go through a file: there, dag-factory
    would expand `$NAME`, even inside SQL."""
    without_params = {key: value for key, value in config.items() if key != "params"}
    arguments: dict[str, Any] = _with_objects(without_params)
    context = get_parsing_context()
    if context.dag_id:
        _forget_assets(arguments["tasks"], context.task_id)
        dag = build_in_worker(dag_id, arguments)
    else:
        dag = _by_dag_factory(dag_id, arguments)
    # Set last: Airflow copies the params into every task that is created after them. Building takes
    # twice as long then, storing the DAG 17 times (74 ms against 4), and a task reads them from its
    # DAG anyway.
    dag.params.update(_with_objects(config.get("params", {})))
    # Here, an invalid cron costs one pipeline. Airflow would count it against the whole DAG file.
    dag.validate()  # type: ignore[no-untyped-call]
    return dag


def _forget_assets(tasks: Mapping[str, dict[str, Any]], running: str | None) -> None:
    """Remove the inlets and outlets of all tasks but the one that this process runs, if any.
    Airflow asks for no others, and to make 5,000 of them takes a fifth of the DAG's CPU time."""
    if not running:
        return
    for name, task in tasks.items():
        if name != running.rpartition(".")[2]:
            task.pop("inlets", None)
            task.pop("outlets", None)


def _by_dag_factory(dag_id: str, config: dict[str, Any]) -> DAG:
    from dagfactory.dagbuilder import DagBuilder

    dag: DAG = DagBuilder(dag_id, _Uncopied(config), default_config={}).build()["dag"]
    return dag


class _Uncopied(dict[str, Any]):
    """A dict that dag-factory does not copy: it would copy the whole configuration first."""

    def __deepcopy__(self, memo: Any) -> _Uncopied:
        return self


def _with_objects(value: Any) -> Any:
    """`value` with an object in place of each mapping with a `__type__`, as dag-factory creates
    them when it reads a file."""
    if isinstance(value, list):
        return [_with_objects(item) for item in value]
    if not isinstance(value, dict):
        return value
    arguments = {key: _with_objects(item) for key, item in value.items() if key != "__type__"}
    if "__type__" not in value:
        return arguments
    return imported(value["__type__"])(*arguments.pop("__args__", ()), **arguments)


@cache
def imported(path: str) -> Any:
    """The class or function with this dotted name, imported."""
    return resolve_name(path)


def build_in_worker(dag_id: str, config: Mapping[str, Any]) -> DAG:
    """The same DAG as dag-factory's. Each task of `config` comes after its `dependencies`."""
    arguments = dict(config)
    for key in ("tasks", "task_groups", "schedule"):
        arguments.pop(key, None)
    start = arguments.get("start_date")
    arguments["start_date"] = datetime.fromisoformat(start).replace(tzinfo=UTC) if start else None
    arguments["tags"] = [*config["tags"], "dagfactory"]
    default_args = config["default_args"]
    arguments["default_args"] = {key: _callback(value) for key, value in default_args.items()}
    dag = DAG(dag_id, schedule=config["schedule"], **arguments)
    dag.is_dagfactory_auto_generated = True  # type: ignore[attr-defined]
    groups: dict[str, TaskGroup] = {}
    for name, settings in config.get("task_groups", {}).items():
        groups[name] = TaskGroup(name, dag=dag, **settings)
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
    operator: type[BaseOperator] = imported(task.pop("operator"))
    task.pop("dependencies", None)
    group = groups.get(task.pop("task_group_name", ""))
    for key in ("inlets", "outlets"):
        if key in task:
            task[key] = [Asset(item) if isinstance(item, str) else item for item in task[key]]
    if "expand" not in task:
        return operator(task_id=name, dag=dag, task_group=group, **task)
    outputs = {}
    for key, source in task.pop("expand").items():
        outputs[key] = tasks[source.removesuffix(".output")].output
    return operator.partial(task_id=name, dag=dag, task_group=group, **task).expand(**outputs)


def _callback(value: Any) -> Any:
    if not isinstance(value, dict) or "callback" not in value:
        return value
    arguments = {key: argument for key, argument in value.items() if key != "callback"}
    return partial(imported(value["callback"]), **arguments)
