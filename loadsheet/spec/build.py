"""Turns a checked document into frozen models, defaults applied.

The models' own defaults are those of the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadsheet.names import is_pattern, unescape_wildcards
from loadsheet.spec.files import real_path, sql_folder
from loadsheet.spec.models import (
    Deletes,
    FreshWithin,
    Incremental,
    Lake,
    Materialized,
    Pattern,
    Pipeline,
    Source,
    Table,
    Tasks,
    Transform,
    Warehouse,
)
from loadsheet.spec.routes import route_of
from loadsheet.spec.schedule import duration
from loadsheet.spec.view import View, as_list, inherit, limits_of

_UNCHANGED = ("description", "start_date", "catchup", "verify", "owner")
# From the document's value to that of `Tasks`.
_TASK_KEYS: dict[str, Callable[[Any], Any]] = {
    "pool": str,
    "retries": int,
    "retry_delay": duration,
    "timeout": duration,
    "max_active_tasks": int,
    "granularity": str,
}


def build_pipeline(data: Mapping[str, Any], file: Path, sql: Mapping[str, str]) -> Pipeline:
    """The pipeline that `data` (valid by schema and rules) describes.

    `file` is where it was read from; `sql` holds the text of each transform.
    """
    name = data.get("pipeline") or real_path(file).parent.name
    tasks = _tasks(data.get("tasks") or {}, Tasks())
    defaults = data.get("defaults") or {}
    routes = data.get("notify") or []
    if isinstance(routes, Mapping):
        routes = [routes]
    # Only what the document has: the models' own defaults apply to the rest.
    unchanged = {key: data[key] for key in _UNCHANGED if key in data}
    schedule = data.get("schedule")
    if not isinstance(schedule, Mapping):
        schedule = {"times": schedule}
    tables: list[Table] = []
    patterns: list[Pattern] = []
    for key, value in data["tables"].items():
        own = value or {}
        table = _table(key, inherit(own, defaults), tasks)
        if is_pattern(key):
            exclude = tuple(own.get("exclude") or ())
            patterns.append(Pattern(name=key, table=table, exclude=exclude))
        else:
            tables.append(replace(table, name=unescape_wildcards(key)))
    transforms: list[Transform] = []
    for key, own in (data.get("transforms") or {}).items():
        sql_file = sql_folder(file) / f"{key}.sql"
        transforms.append(_transform(key, own or {}, sql[key], sql_file, tasks))
    return Pipeline(
        name=name,
        file=file,
        source=Source(**data["source"]),
        # Two pipelines in one bucket must not mix their loads.
        lake=Lake(**{"prefix": name, **data["lake"]}),
        warehouse=Warehouse(**data["warehouse"]),
        schedule=schedule.get("times"),
        assets=tuple(schedule.get("assets", ())),
        tags=tuple(data.get("tags", ())),
        external=tuple(data.get("external", ())),
        notify=tuple(map(route_of, routes)),
        tasks=tasks,
        tables=tuple(tables),
        patterns=tuple(patterns),
        transforms=tuple(transforms),
        **unchanged,
    )


def sketch_pipeline(view: View, file: Path, sql: Mapping[str, str]) -> Pipeline | None:
    """As much of the pipeline as its SQL can be checked against, from a document with errors.

    None where the document says too little for that.
    """
    warehouse = view.get("warehouse")
    names = view.data.get("tables")
    if warehouse is None or not view.is_sound("external") or not isinstance(names, dict):
        return None
    tables: list[Table] = []
    patterns: list[Pattern] = []
    for name in names:
        if is_pattern(name):
            patterns.append(Pattern(name=name, table=Table(name=name)))
        else:
            tables.append(Table(name=unescape_wildcards(name)))
    transforms: list[Transform] = []
    transform_names = view.data.get("transforms")
    if not isinstance(transform_names, dict):
        transform_names = {}
    sound = {transform.name: transform.full for transform in view.transforms}
    for name in transform_names:
        # Where the transform or its file has errors, it counts as an empty script: others may read
        # it by its name, and nothing is said about its SQL.
        materialized: Materialized = "script"
        if name in sound and name in sql:
            materialized = sound[name]["materialized"]
        transform = Transform(
            name=name,
            sql=sql.get(name, ""),
            file=sql_folder(file) / f"{name}.sql",
            materialized=materialized,
        )
        transforms.append(transform)
    # The SQL is checked by table names and schemas alone, so what only a run needs stays empty.
    return Pipeline(
        name="",
        file=file,
        source=Source(conn_id=""),
        lake=Lake(conn_id="", bucket=""),
        warehouse=Warehouse(**warehouse),
        external=tuple(view.get("external", default=[])),
        tables=tuple(tables),
        patterns=tuple(patterns),
        transforms=tuple(transforms),
    )


def _table(name: str, keys: Mapping[str, Any], tasks: Tasks) -> Table:
    incremental = keys.get("incremental")
    max_shrink = keys.get("max_shrink")
    deletes = keys.get("deletes")
    return Table(
        name=name,
        primary_key=tuple(keys.get("primary_key", ())),
        incremental=_incremental(incremental) if incremental else None,
        mode=keys.get("mode"),
        **_with_tuples(keys.get("columns", {})),
        schema_contract=keys.get("schema_contract", {}).get("columns", "evolve"),
        fill=keys.get("fill"),
        max_shrink=None if max_shrink is None else float(max_shrink),
        deletes=_deletes(deletes) if deletes else None,
        overlap=keys.get("overlap") is not False,
        extract_tasks=int(keys.get("extract_tasks") or 1),
        fresh_within=_fresh_within(keys.get("fresh_within")),
        tasks=_tasks(keys, tasks),
    )


def _incremental(keys: Mapping[str, Any]) -> Incremental:
    values = {key: value for key, value in keys.items() if value is not None}
    # YAML may give a number; cursors travel as text and are compared by the server.
    for key in ("initial_value", "lookback"):
        if key in values:
            values[key] = str(values[key])
    if "hold_back" in values:
        values["hold_back"] = duration(values["hold_back"])
    return Incremental(**values)


def _deletes(keys: Mapping[str, Any]) -> Deletes:
    values = {key: value for key, value in keys.items() if value is not None}
    if "every" in values:
        values["every"] = duration(values["every"])
    if "max_delete" in values:
        values["max_delete"] = float(values["max_delete"])
    return Deletes(**values)


def _fresh_within(value: str | Mapping[str, str | None] | None) -> FreshWithin | None:
    limits = {name: duration(limit) for name, limit in limits_of(value).items()}
    return FreshWithin(**limits) if limits else None


def _transform(name: str, keys: Mapping[str, Any], sql: str, file: Path, tasks: Tasks) -> Transform:
    return Transform(
        name=name,
        sql=sql,
        file=file,
        materialized=keys.get("materialized", "table"),
        unique_key=tuple(as_list(keys.get("unique_key") or [])),
        fresh_within=_fresh_within(keys.get("fresh_within")),
        tasks=_tasks(keys, tasks),
    )


def _tasks(keys: Mapping[str, Any], base: Tasks) -> Tasks:
    """`base` with what `keys` overrides."""
    changes: dict[str, Any] = {}
    for key, convert in _TASK_KEYS.items():
        if keys.get(key) is not None:
            changes[key] = convert(keys[key])
    return replace(base, **changes)


def _with_tuples(keys: Mapping[str, Any]) -> dict[str, Any]:
    """`keys` with tuples in place of lists, as frozen models hold them."""
    frozen = dict(keys)
    for key, value in keys.items():
        if isinstance(value, list):
            frozen[key] = tuple(value)
    return frozen
