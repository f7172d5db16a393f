"""A plan as the configuration that dag-factory builds a DAG from, with the trigger form's
parameters.

What dag-factory 1.1 does with it, and why the shape is as it is: tasks are keyed by short names
that must be unique across groups; a DAG key it does not know vanishes without a word (owner and
retries therefore sit in `default_args`);
`__type__` makes it call that class with the other keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from loadsheet.errors import InputError
from loadsheet.plan.dag_docs import dag_doc, step_doc
from loadsheet.plan.dag_yaml import dump
from loadsheet.plan.steps import Kind, Step, build_plan, step_id, tasks_of
from loadsheet.spec.models import Notify, Pipeline

OPERATORS: dict[Kind, str] = {
    "create_bucket": "loadsheet.airflow.operators.CreateBucketOperator",
    "resolve": "loadsheet.airflow.operators.ResolveTablesOperator",
    "extract": "loadsheet.airflow.operators.PostgresToMinioOperator",
    "load": "loadsheet.airflow.operators.MinioToPostgresOperator",
    "transform": "loadsheet.airflow.operators.SqlTransformOperator",
}
GROUPS: dict[Kind, str] = {
    "extract": "Source tables to the lake, each in one snapshot",
    "load": "Lake objects to staging tables, each in one transaction",
    "transform": "Staging to marts, in the order in which the SQL files read each other",
}
RESERVED = ("default", "task_groups")
NOTIFY_FAILURE, NOTIFY_RECOVERY = (
    "loadsheet.airflow.slack.notify_failure",
    "loadsheet.airflow.slack.notify_recovery",
)


def dag_config(pipeline: Pipeline, root: Path | None = None) -> dict[str, Any]:
    """The dag-factory configuration of the pipeline's DAG; every value is a plain YAML type.

    `root` is the DAG bundle's folder (default: the one that holds `pipelines/`); tasks name the
    spec relative to it where they can. Raises SpecError as `build_plan` does.
    """
    steps = build_plan(pipeline)
    spec = spec_path(pipeline.file, root)
    return {
        "description": pipeline.description or None,
        "schedule": _schedule(pipeline),
        "start_date": _start_date(pipeline.start_date),
        "catchup": False,
        "max_active_runs": 1,  # two runs of one pipeline would only fence each other out
        "max_active_tasks": pipeline.tasks.max_active_tasks,
        "tags": list(pipeline.tags),
        "default_args": _default_args(pipeline),
        "params": form_params(
            [table.name for table in pipeline.tables], others=bool(pipeline.patterns)
        ),
        "doc_md": dag_doc(pipeline, spec),
        "task_groups": {
            kind: {"tooltip": tip}
            for kind, tip in GROUPS.items()
            if any(s.kind == kind for s in steps)
        },
        "tasks": {_short(step.id): _task(step, pipeline, spec) for step in steps},
    }


def render(pipeline: Pipeline, root: Path | None = None) -> str:
    """The YAML file that dag-factory's own `load_yaml_dags` turns into the same DAG.

    Raises InputError for the names that mean something else in its files, and SpecError as
    `build_plan` does.
    """
    if pipeline.name in RESERVED:
        raise InputError(
            f"dag-factory gives no DAG the name {pipeline.name!r}, which means something else in"
            f" its files: give the pipeline another name (`pipeline:` in {pipeline.file})"
        )
    return dump({pipeline.name: dag_config(pipeline, root)})


def spec_path(file: Path, root: Path | None = None) -> str:
    """`file` relative to `root` (default: the folder that holds `pipelines/`), absolute when it
    lies elsewhere."""
    file = file.resolve()
    root = root.resolve() if root else project_root(file)
    inside = root is not None and file.is_relative_to(root)
    return file.relative_to(root).as_posix() if root and inside else str(file)


def project_root(file: Path) -> Path | None:
    """The folder that holds the `pipelines/` in which the pipeline file is; None without one."""
    above = file.resolve().parents
    return above[2] if len(above) > 2 and above[1].name == "pipelines" else None


def _task(step: Step, pipeline: Pipeline, spec: str) -> dict[str, Any]:
    tasks = tasks_of(step, pipeline)
    group = {"task_group_name": step.kind} if step.kind in GROUPS else {}
    return {
        "operator": OPERATORS[step.kind],
        **group,
        "dependencies": [_short(upstream) for upstream in step.upstream],
        "spec": spec,
        **_name(step),
        "task_display_name": _display_name(step),
        "pool": tasks.pool,
        "retries": tasks.retries,
        "execution_timeout": _seconds(tasks.timeout),
        "trigger_rule": _trigger_rule(step),
        "doc_md": step_doc(step, pipeline),
    }


def _display_name(step: Step) -> str:
    if step.kind == "resolve":
        return f"resolve {step.name}"
    return step.name if step.kind in GROUPS else step.id


def _name(step: Step) -> dict[str, Any]:
    """The table's or transform's name; of a mapped step, where its tables' names come from."""
    if not step.mapped:
        return {"name": step.name}
    names = f"{step_id('resolve', step.name)}.output"
    return {"expand": {"name": names}, "map_index_template": "{{ task.name }}"}


def _trigger_rule(step: Step) -> str:
    if step.kind == "transform":
        # It asks the ledger whether an input was loaded, so skipped loads must not skip it.
        return "none_failed"
    # A mapped load follows all extractions, and one that failed or was skipped must not stop the
    # others' loads.
    return "all_done" if step.mapped and step.kind == "load" else "all_success"


def _default_args(pipeline: Pipeline) -> dict[str, Any]:
    args: dict[str, Any] = {
        "owner": pipeline.owner,
        "retries": pipeline.tasks.retries,
        "retry_delay": _seconds(pipeline.tasks.retry_delay),
    }
    if pipeline.notify:
        args |= _callbacks(pipeline.notify)
    return args


def _callbacks(notify: Notify) -> dict[str, Any]:
    """Nothing runs after a successful task unless the pipeline notifies of recoveries."""
    to = {"slack_conn_id": notify.slack_conn_id}
    callbacks: dict[str, Any] = {}
    if notify.events:
        callbacks["on_failure_callback"] = {
            "callback": NOTIFY_FAILURE,
            **to,
            "events": list(notify.events),
        }
    if "recovery" in notify.events:
        for state in ("success", "skipped"):  # a table without news works too
            callbacks[f"on_{state}_callback"] = {"callback": NOTIFY_RECOVERY, **to}
    return callbacks


def _schedule(pipeline: Pipeline) -> str | dict[str, str] | None:
    by_interval = any(
        t.incremental and t.incremental.by == "data_interval" for t in pipeline.entries
    )
    if not by_interval or pipeline.schedule in (None, "@once", "@continuous"):
        return pipeline.schedule
    # Airflow 3 gives a plain cron schedule a data interval of length zero: nothing would ever be
    # read.
    return {
        "__type__": "airflow.sdk.CronDataIntervalTimetable",
        "expression": pipeline.schedule,
        "timezone": "UTC",
    }


def _start_date(text: str | None) -> str | None:
    """In UTC and without offset, because dag-factory throws an offset away instead of converting
    it."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return (moment.astimezone(UTC) if moment.tzinfo else moment).replace(tzinfo=None).isoformat()


def _seconds(duration: timedelta) -> dict[str, Any]:
    return {"__type__": "datetime.timedelta", "seconds": int(duration.total_seconds())}


def _short(step_id: str) -> str:
    return step_id.rpartition(".")[2]


def form_params(tables: Sequence[str], others: bool = False) -> dict[str, Any]:
    """dag-factory's configuration of the form for a pipeline with these tables, and `others` that
    only a run knows."""
    moment = {"default": None, "type": ["string", "null"], "format": "date-time"}
    return {
        "full_refresh": _param(
            "Read, load and build everything again", default=False, type="boolean"
        ),
        "tables": _param(
            "Tables to move; none chosen moves all",
            default=[],
            type=["array", "null"],
            items={"type": "string"} if others else {"type": "string", "enum": list(tables)},
            examples=list(tables),  # what makes the form offer them as choices
        ),
        "accept_source": _param(
            "Go on from the watermarks although the source was failed over: it is known to have"
            " lost nothing",
            default=False,
            type="boolean",
        ),
        "interval_start": _param("Read only rows whose cursor is at or after this", **moment),
        "interval_end": _param("... and before this", **moment),
    }


def _param(description: str, **schema: Any) -> dict[str, Any]:
    return {"__type__": "airflow.sdk.Param", "description": description, **schema}
