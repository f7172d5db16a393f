"""A pipeline's DAG as somebody would write it by hand: the text of a Python file with Airflow's own
classes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

_HEAD = """\
from datetime import timedelta
from functools import partial

import pendulum
from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TaskGroup

from loadsheet.airflow.operators import CreateBucketOperator
from loadsheet.airflow.operators import PostgresToMinioOperator
from loadsheet.airflow.operators import MinioToPostgresOperator
from loadsheet.airflow.slack import notify_failure, notify_recovery
from loadsheet.airflow.operators import SqlTransformOperator

"""
_NOT_OF_THE_TASK = ("operator", "task_group_name", "dependencies")


def source(dag_id: str, config: Mapping[str, Any], *, tuned: bool = False) -> str:
    """The file for the DAG that the dag-factory configuration `config` describes.

    `tuned` gives the DAG its trigger form after its tasks: Airflow then does not copy it into every
    task, which nobody expects and few will do.
    """
    rest = {
        key: value
        for key, value in config.items()
        if key not in ("tasks", "task_groups", "tags", "params")
    }
    arguments = {**rest, "tags": [*config["tags"], "dagfactory"]}
    if not tuned:
        arguments["params"] = config["params"]
    body = [f"with DAG({dag_id!r}, {_arguments(arguments)}) as dag:"]
    body += [
        _task(task_id, task)
        for task_id, task in config["tasks"].items()
        if "task_group_name" not in task
    ]
    for group, settings in config["task_groups"].items():
        body.append(f"    with TaskGroup({group!r}, {_arguments(settings)}):")
        tasks = (
            (task_id, task)
            for task_id, task in config["tasks"].items()
            if task.get("task_group_name") == group
        )
        body += ["    " + _task(task_id, task) for task_id, task in tasks]
    for task_id, task in config["tasks"].items():
        if task["dependencies"]:
            body.append(f"    [{', '.join(task['dependencies'])}] >> {task_id}")
    if tuned:
        body.append(f"    dag.params.update({_value(config['params'])})")
    return _HEAD + "\n".join(body) + "\n"


def _task(task_id: str, task: Mapping[str, Any]) -> str:
    own = {key: value for key, value in task.items() if key not in _NOT_OF_THE_TASK}
    return f"    {task_id} = {_class(task['operator'])}(task_id={task_id!r}, {_arguments(own)})"


def _arguments(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={_start(value) if key == 'start_date' else _value(value)}"
        for key, value in settings.items()
    )


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    settings = {key: inner for key, inner in value.items() if key not in ("__type__", "callback")}
    if "__type__" in value:
        return f"{_class(value['__type__'])}({_arguments(settings)})"
    if "callback" in value:
        return f"partial({_class(value['callback'])}, {_arguments(settings)})"
    return "{" + ", ".join(f"{key!r}: {_value(inner)}" for key, inner in settings.items()) + "}"


def _class(path: str) -> str:
    return path.rpartition(".")[2]


def _start(text: str | None) -> str:
    if text is None:
        return "None"
    day = datetime.fromisoformat(text)
    return (
        f"pendulum.datetime({day.year}, {day.month}, {day.day}, {day.hour}, {day.minute},"
        f" {day.second}, tz='UTC')"
    )
