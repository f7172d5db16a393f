"""A plan as the configuration from which dag-factory builds a DAG, and the trigger form's fields.

dag-factory 1.1 explains the shape: tasks are keyed by short names, which must be unique across
groups. It ignores DAG keys that it does not know, without a message, so owner and retries are in
`default_args`. For a dictionary with `__type__` it calls that class with the other keys, and with
`__args__` by position.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from loadsheet.errors import InputError
from loadsheet.outcome import EVERYTHING
from loadsheet.plan.assets import read_by, waited_for, written_by
from loadsheet.plan.dag_docs import dag_doc, step_doc
from loadsheet.plan.dag_tasks import MOST_IN_BATCH, dag_tasks, first_to_last
from loadsheet.plan.dag_yaml import dump
from loadsheet.plan.steps import Kind, Step, step_id, tasks_of, verified_marts
from loadsheet.spec.models import Pipeline

OPERATORS: dict[Kind, str] = {
    "look": "loadsheet.airflow.look.LookOperator",
    "resolve": "loadsheet.airflow.operators.ResolveTablesOperator",
    "extract": "loadsheet.airflow.operators.PostgresToMinioOperator",
    "read": "loadsheet.airflow.operators.HelpExtractOperator",
    "load": "loadsheet.airflow.operators.MinioToPostgresOperator",
    "table": "loadsheet.airflow.table_operators.TableOperator",
    "batch": "loadsheet.airflow.table_operators.BatchOperator",
    "transform": "loadsheet.airflow.operators.SqlTransformOperator",
    "verify": "loadsheet.airflow.operators.VerifyTablesOperator",
}
GROUPS: dict[Kind, str] = {
    "extract": "Source tables to the lake, each in one snapshot",
    "read": "Help the extracts of large tables, where there are free slots",
    "load": "Lake objects to staging tables, each in one transaction",
    "table": "Source tables to staging tables, each extracted and loaded by one task",
    "batch": "Source tables to staging tables, many by one task",
    "transform": "Staging to marts, in the order in which the SQL files read each other",
}
AFTER_BATCH = "loadsheet.airflow.table_operators.TransformAfterBatchOperator"
BATCHES = "batches"
"""The id of the task that makes a run fail with its batches (`_hidden`)."""
READERS = "readers"
"""The id of the task that keeps a run from failing with a task that only helps."""
RESERVED = ("default", "task_groups")
"""Top-level keys of dag-factory's files that are no DAGs."""
NOTIFY_FAILURE = "loadsheet.airflow.alerts.callbacks.notify_failure"
NOTIFY_SUCCESS = "loadsheet.airflow.alerts.callbacks.notify_success"
NOTIFY_RETRY = "loadsheet.airflow.alerts.callbacks.notify_retry"


def dag_config(pipeline: Pipeline, root: Path | None = None) -> dict[str, Any]:
    """The dag-factory configuration of the pipeline's DAG; every value is a plain YAML type.

    `root` is the DAG bundle's folder (default: the one that holds `pipelines/`). Tasks name the
    pipeline file relative to it, or absolutely where it is elsewhere. Raises SpecError as
    `build_plan` does.
    """
    steps = dag_tasks(pipeline)
    kinds = {step.kind for step in steps}
    batches = {step.id for step in steps if step.kind == "batch" and not step.mapped}
    spec = spec_path(pipeline.file, root)
    tasks = {_short(step.id): _task(step, pipeline, spec, batches) for step in steps}
    hidden = _hidden(steps, batches)
    if hidden:
        doc = "Fails with a batch that fails, so that the run does. It starts no process.\n"
        tasks[BATCHES] = _follows(hidden, pipeline, "none_failed", doc)
    # Airflow asks the last tasks only whether a run has failed. What a reader whose process was
    # killed has not read, its extract has.
    readers = [step.id for step in steps if step.kind == "read"]
    if readers:
        doc = "Succeeds also where a task that only helps has failed. It starts no process.\n"
        tasks[READERS] = _follows(readers, pipeline, "all_done", doc)
    table_names = [table.name for table in pipeline.tables]
    return {
        "description": pipeline.description or None,
        "schedule": _schedule(pipeline),
        "start_date": _start_date(pipeline.start_date),
        "catchup": pipeline.catchup,
        "max_active_runs": 1,  # two runs at once would read the same rows twice
        "max_active_tasks": pipeline.tasks.max_active_tasks,
        "tags": list(pipeline.tags),
        "default_args": _default_args(pipeline, has_batches="batch" in kinds),
        "params": form_params(
            table_names,
            [transform.name for transform in pipeline.transforms],
            has_patterns=bool(pipeline.patterns),
            marts=verified_marts(pipeline) if pipeline.verify else None,
        ),
        "doc_md": dag_doc(pipeline, spec),
        "task_groups": {kind: {"tooltip": tip} for kind, tip in GROUPS.items() if kind in kinds},
        "tasks": tasks,
    }


def render_dag(pipeline: Pipeline, root: Path | None = None) -> str:
    """The YAML file that dag-factory's own `load_yaml_dags` turns into the same DAG.

    Raises InputError for a name that dag-factory's files reserve, and SpecError as `build_plan`
    does.
    """
    if pipeline.name in RESERVED:
        raise InputError(
            f"{pipeline.name!r} is a reserved key in dag-factory's files and cannot be a DAG's"
            f" name: give the pipeline another name (`pipeline:` in {pipeline.file})"
        )
    return dump({pipeline.name: dag_config(pipeline, root)})


def spec_path(file: Path, root: Path | None = None) -> str:
    """`file` relative to `root` (default: the folder that holds `pipelines/`), absolute when it is
    elsewhere."""
    file = file.resolve()
    root = root.resolve() if root else project_root(file)
    if root and file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    return str(file)


def project_root(file: Path) -> Path | None:
    """The project's folder, for a file `<project>/pipelines/<name>/pipeline.yml`; None for a file
    elsewhere."""
    above = file.resolve().parents
    if len(above) > 2 and above[1].name == "pipelines":
        return above[2]
    return None


def _task(step: Step, pipeline: Pipeline, spec: str, batches: Set[str]) -> dict[str, Any]:
    tasks = tasks_of(step, pipeline)
    reads_batch = step.kind == "transform" and not batches.isdisjoint(step.upstream)
    config: dict[str, Any] = {"operator": AFTER_BATCH if reads_batch else OPERATORS[step.kind]}
    # Grids, logs, searches and messages show it without its group.
    display_name = f"{step.kind} {step.name}"
    if step.kind == "read":
        display_name += f" {step.number}"
    if step.is_of_pipeline:
        display_name = step.id
    elif step.tables:
        display_name += f": {first_to_last(step.tables)}"
    if step.kind in GROUPS:
        config["task_group_name"] = step.kind
    config["dependencies"] = [_short(upstream) for upstream in step.upstream]
    config["spec"] = spec
    if step.mapped:
        # Airflow makes one task for each table, or batch, that the resolve task returns.
        resolved = f"{step_id('resolve', step.name)}.output"
        if step.kind == "batch":
            config["name"] = step.name
            config["expand"] = {"tables": resolved}
            config["map_index_template"] = "{{ task.shown_as }}"
        else:
            config["expand"] = {"name": resolved}
            config["map_index_template"] = "{{ task.name }}"
    else:
        config["name"] = step.name
        if step.tables:
            config["tables"] = list(step.tables)
        if step.kind == "read":
            config["number"] = step.number
    if step.kind == "resolve" and pipeline.granularity(pipeline.table(step.name)) == "batch":
        config["batches_of"] = MOST_IN_BATCH
    reads, writes = read_by(step, pipeline), written_by(step, pipeline)
    if reads:
        config["inlets"] = reads
    if writes:
        config["outlets"] = writes
    return {
        **config,
        "task_display_name": display_name,
        "pool": tasks.pool,
        "retries": tasks.retries,
        # `engine.execute` has the same limit for each step. Airflow's own is for a task that hangs
        # elsewhere.
        "execution_timeout": _seconds(tasks.timeout * _steps_of(step)),
        "trigger_rule": "all_done" if reads_batch else _trigger_rule(step),
        "doc_md": step_doc(step, pipeline),
    }


def _hidden(steps: Sequence[Step], batches: Set[str]) -> list[str]:
    """The batches whose failure would not be the run's. Of a run Airflow looks at the last tasks
    only, and all that follow these batches may succeed: transforms that read other tables."""
    hidden = {upstream for step in steps for upstream in step.upstream if upstream in batches}
    for step in steps:
        if step.kind != "transform":
            hidden -= set(step.upstream)
    return sorted(hidden)


def _follows(names: Sequence[str], pipeline: Pipeline, rule: str, doc: str) -> dict[str, Any]:
    """A task that follows these and does nothing. Airflow's scheduler marks it by the trigger rule
    without a process, which takes one without callbacks."""
    return {
        "operator": "airflow.providers.standard.operators.empty.EmptyOperator",
        "dependencies": [_short(name) for name in names],
        "pool": pipeline.tasks.pool,
        "trigger_rule": rule,
        "on_success_callback": None,
        "doc_md": doc,
    }


def _steps_of(task: Step) -> int:
    """How many steps the task does, at most."""
    if task.kind == "batch":
        return 2 * MOST_IN_BATCH
    return 2 if task.kind == "table" else 1


def _trigger_rule(step: Step) -> str:
    if step.kind in ("transform", "verify"):
        # It asks the ledger whether there is something to do, so skipped loads must not skip it.
        return "none_failed"
    if step.mapped and step.kind == "load":
        # It follows all extractions of the pattern. One that failed or was skipped must not stop
        # the loads of the other tables.
        return "all_done"
    return "all_success"


def _default_args(pipeline: Pipeline, has_batches: bool) -> dict[str, Any]:
    args: dict[str, Any] = {
        "owner": pipeline.owner,
        "retries": pipeline.tasks.retries,
        "retry_delay": _seconds(pipeline.tasks.retry_delay),
    }
    events = {event for route in pipeline.notify for event in route.events}
    routes = [route.as_keys() for route in pipeline.notify]
    # A batch that fails may have followed changed columns of other tables.
    tells_drift = has_batches and bool(events & {"drift", "digest"})
    # Each only where it is needed: a callback costs time after every successful task.
    if tells_drift:
        args["on_retry_callback"] = {"callback": NOTIFY_RETRY, "routes": routes}
    if tells_drift or events & {"failure", "check", "differs", "recovery"}:
        args["on_failure_callback"] = {"callback": NOTIFY_FAILURE, "routes": routes}
    if events & {"recovery", "drift", "digest"}:
        args["on_success_callback"] = {"callback": NOTIFY_SUCCESS, "routes": routes}
    if "recovery" in events:
        # A skipped task has recovered as well: it found nothing new.
        args["on_skipped_callback"] = {"callback": NOTIFY_SUCCESS, "routes": routes}
    return args


def _schedule(pipeline: Pipeline) -> str | dict[str, Any] | None:
    if pipeline.assets:
        return _schedule_by_assets(pipeline)
    by_interval = False
    for table in pipeline.entries:
        if table.incremental and table.incremental.by == "data_interval":
            by_interval = True
    if not by_interval or pipeline.schedule in (None, "@once", "@continuous"):
        return pipeline.schedule
    # Airflow 3 gives a plain cron schedule a data interval of length zero: nothing would ever be
    # read.
    return {
        "__type__": "airflow.sdk.CronDataIntervalTimetable",
        "expression": pipeline.schedule,
        "timezone": "UTC",
    }


def _schedule_by_assets(pipeline: Pipeline) -> dict[str, Any]:
    """A run starts when one of the assets has changed, and also at the times of the cron schedule
    if there is one."""
    assets = [{"__type__": "airflow.sdk.Asset", "uri": uri} for uri in waited_for(pipeline)]
    # A list would start a run only when all of them have changed.
    any_of = {"__type__": "airflow.sdk.AssetAny", "__args__": assets}
    if pipeline.schedule is None:
        return any_of
    timetable = {
        "__type__": "airflow.sdk.CronTriggerTimetable",
        "__args__": [pipeline.schedule],
        "timezone": "UTC",
    }
    return {
        "__type__": "airflow.sdk.AssetOrTimeSchedule",
        "assets": any_of,
        "timetable": timetable,
    }


def _start_date(text: str | None) -> str | None:
    """In UTC and without an offset, because dag-factory removes an offset instead of converting
    it."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo:
        moment = moment.astimezone(UTC)
    return moment.replace(tzinfo=None).isoformat()


def _seconds(duration: timedelta) -> dict[str, Any]:
    return {"__type__": "datetime.timedelta", "seconds": int(duration.total_seconds())}


def _short(step_id: str) -> str:
    # Airflow puts the task group's id in front of a task's name.
    return step_id.rpartition(".")[2]


def form_params(
    tables: Sequence[str],
    transforms: Sequence[str] = (),
    has_patterns: bool = False,
    marts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """dag-factory's configuration of the trigger form. `tables` and `transforms` are the choices; a
    pipeline that `has_patterns` has more tables, so the form also accepts other names.
    `marts` are what its step `verify` compares besides tables; None without that step."""
    moment = {"default": None, "type": ["string", "null"], "format": "date-time"}
    table: dict[str, Any] = {"type": "string"}
    if not has_patterns:
        table["enum"] = list(tables)
    params = {
        "full_refresh": _param(
            "Read and load in full, not only what is new, and rebuild the marts fed by it. With"
            " tables: only those",
            default=False,
            type="boolean",
        ),
        "tables": _param(
            "Tables to extract and load; empty means all",
            default=[],
            type=["array", "null"],
            items=table,
            examples=list(tables),  # makes the form offer them as choices
        ),
        "accept_source": _param(
            "Only where the source was failed over and you know that it has lost nothing: go on"
            " from the watermarks",
            default=False,
            type="boolean",
        ),
        "interval_start": _param(
            "Read only rows whose cursor is at or after this time. Give interval_end, too", **moment
        ),
        "interval_end": _param(
            "Read only rows whose cursor is before this time. Give interval_start, too", **moment
        ),
    }
    if transforms:
        params["transforms"] = _param(
            "Transforms to build in full although nothing has changed; empty means none",
            default=[],
            type=["array", "null"],
            items={"type": "string", "enum": list(transforms)},
            examples=list(transforms),
        )
    if marts is not None:
        params["verify"] = _param(
            "Tables and marts to compare at the end although they are not due; * means all, empty"
            " means those that are due",
            default=[],
            type=["array", "null"],
            items={"type": "string"},
            examples=[EVERYTHING, *tables, *marts],
        )
    return params


def _param(description: str, **schema: Any) -> dict[str, Any]:
    return {"__type__": "airflow.sdk.Param", "description": description, **schema}
