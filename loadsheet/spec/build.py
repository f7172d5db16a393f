"""A checked document -> frozen models, defaults applied. The models' own defaults are the schema's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadsheet.names import is_pattern, plain
from loadsheet.spec.files import sql_folder
from loadsheet.spec.models import (
    Incremental,
    Lake,
    Notify,
    Pattern,
    Pipeline,
    Source,
    Table,
    Tasks,
    Transform,
    Warehouse,
)
from loadsheet.spec.schedule import duration
from loadsheet.spec.view import View, as_list, inherit


def build_pipeline(data: Mapping[str, Any], file: Path, sql: Mapping[str, str]) -> Pipeline:
    """The pipeline that `data` (valid by schema and rules) describes; `sql` holds each transform's
    text."""
    name = data.get("pipeline") or file.resolve().parent.name
    tasks = _tasks(data.get("tasks") or {}, Tasks())
    defaults = data.get("defaults") or {}
    notify = data.get("notify")
    tables: list[Table] = []
    patterns: list[Pattern] = []
    for key, own in data["tables"].items():
        table = _table(key, inherit(own or {}, defaults), tasks)
        if is_pattern(key):
            patterns.append(_pattern(table, own))
        else:
            tables.append(replace(table, name=plain(key)))
    folder = sql_folder(file)
    transforms = [
        _transform(transform, own or {}, sql[transform], folder / f"{transform}.sql", tasks)
        for transform, own in (data.get("transforms") or {}).items()
    ]
    unchanged = ("description", "schedule", "start_date", "owner")
    as_they_are = {key: data[key] for key in unchanged if key in data}
    return Pipeline(
        name=name,
        file=file,
        source=Source(**data["source"]),
        lake=Lake(**{"prefix": name, **data["lake"]}),
        warehouse=Warehouse(**data["warehouse"]),
        tags=tuple(data.get("tags", ())),
        external=tuple(data.get("external", ())),
        notify=Notify(**_tuples(notify)) if notify else None,
        tasks=tasks,
        tables=tuple(tables),
        patterns=tuple(patterns),
        transforms=tuple(transforms),
        **as_they_are,
    )


def sketch_pipeline(view: View, file: Path, sql: Mapping[str, str]) -> Pipeline | None:
    """What a document with errors tells about its SQL's surroundings; None where that is not enough
    to judge it."""
    warehouse = view.get("warehouse")
    external = view.get("external", default=[])
    tables = view.data.get("tables")
    if warehouse is None or not view.sound("external") or not isinstance(tables, dict):
        return None
    # A transform that is broken itself, or whose file is, counts as an empty script: it is but a
    # name to others.
    kinds = {
        transform.name: transform.full["materialized"]
        for transform in view.transforms
        if transform.name in sql
    }
    names = view.data.get("transforms")
    if not isinstance(names, dict):
        names = {}
    transforms = [
        Transform(
            name=name,
            sql=sql.get(name, ""),
            file=sql_folder(file) / f"{name}.sql",
            materialized=kinds.get(name, "script"),
        )
        for name in names
    ]
    patterns = [Pattern(name=name, table=Table(name=name)) for name in tables if is_pattern(name)]
    return Pipeline(
        name="",
        file=file,
        source=Source(conn_id=""),
        lake=Lake(conn_id="", bucket=""),
        warehouse=Warehouse(**warehouse),
        external=tuple(external),
        tables=tuple(Table(name=plain(name)) for name in tables if not is_pattern(name)),
        patterns=tuple(patterns),
        transforms=tuple(transforms),
    )


def _table(name: str, keys: Mapping[str, Any], tasks: Tasks) -> Table:
    incremental, max_shrink = keys.get("incremental"), keys.get("max_shrink")
    return Table(
        name=name,
        primary_key=tuple(keys.get("primary_key", ())),
        incremental=_incremental(incremental) if incremental else None,
        mode=keys.get("mode"),
        **_tuples(keys.get("columns", {})),
        schema_contract=keys.get("schema_contract", {}).get("columns", "evolve"),
        max_shrink=None if max_shrink is None else float(max_shrink),
        tasks=_tasks(keys, tasks),
    )


def _pattern(table: Table, own: Mapping[str, Any] | None) -> Pattern:
    return Pattern(name=table.name, table=table, exclude=tuple((own or {}).get("exclude") or ()))


def _incremental(keys: Mapping[str, Any]) -> Incremental:
    values = {key: value for key, value in keys.items() if value is not None}
    for key in {"initial_value", "lookback"} & values.keys():
        values[key] = str(values[key])
    if "hold_back" in values:
        values["hold_back"] = duration(values["hold_back"])
    return Incremental(**values)


def _transform(name: str, keys: Mapping[str, Any], sql: str, file: Path, tasks: Tasks) -> Transform:
    return Transform(
        name=name,
        sql=sql,
        file=file,
        materialized=keys.get("materialized", "table"),
        unique_key=tuple(as_list(keys.get("unique_key") or [])),
        tasks=_tasks(keys, tasks),
    )


def _tasks(keys: Mapping[str, Any], base: Tasks) -> Tasks:
    values = {key: keys[key] for key in _TASK_KEYS if keys.get(key) is not None}
    return replace(base, **{key: _TASK_KEYS[key](value) for key, value in values.items()})


def _tuples(keys: Mapping[str, Any]) -> dict[str, Any]:
    """`keys` with tuples in the place of lists, as frozen models hold them."""
    frozen = dict(keys)
    for key, value in keys.items():
        if isinstance(value, list):
            frozen[key] = tuple(value)
    return frozen


_TASK_KEYS: dict[str, Callable[[Any], Any]] = {
    "pool": str,
    "retries": int,
    "retry_delay": duration,
    "timeout": duration,
    "max_active_tasks": int,
}
