"""What a step does, in the terms of the spec: for `loadsheet plan`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from loadsheet.plan.steps import Step
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.params import uses_since_load
from loadsheet.wording import listed


def details(step: Step, pipeline: Pipeline) -> dict[str, Any]:
    """`mode`, `key`, `cursor` and `deletes` of the step, those that apply to its kind. A key of
    None comes from the source's catalog when the step runs."""
    if step.kind in ("create_bucket", "look", "resolve"):
        return {}
    if step.kind == "verify":
        return {"mode": pipeline.verify}
    if step.kind == "transform":
        transform = pipeline.transform(step.name)
        # New rows are those of loads that the transform has not seen, whatever their timestamps.
        cursor = "_load_id" if uses_since_load(transform.sql) else None
        return {"mode": transform.materialized, "key": transform.unique_key, "cursor": cursor}
    table = pipeline.table(step.name)
    cursor = table.incremental.cursor if table.incremental else None
    if step.kind == "extract":
        mode = "data interval"
        if table.incremental is None:
            mode = "full"
        elif table.incremental.by == "watermark":
            mode = "new rows"
        return {"mode": mode, "cursor": cursor, "deletes": _deletes(table)}
    return {"mode": _load_mode(table), "key": table.primary_key or None, "cursor": cursor}


def describe_step(step: Step, pipeline: Pipeline) -> str:
    """What the step does, as a phrase: `new rows by updated_at`, `merge by order_id`."""
    match step.kind:
        case "create_bucket":
            return "unless it exists; in Airflow: look"
        case "look":
            return "skips the tasks of all that has nothing to do"
        case "resolve":
            text = "the tables that match when a run begins"
            for pattern in pipeline.patterns:
                if pattern.name == step.name and pattern.exclude:
                    text += f", but {', '.join(pattern.exclude)}"
            return text
        case "extract":
            return _describe_extract(pipeline.table(step.name))
        case "read":
            return f"helps extract {step.name}"
        case "load":
            return _describe_load(pipeline.table(step.name))
        case "table":
            table = pipeline.table(step.name)
            return f"{_describe_extract(table)}; {_describe_load(table)}"
        case "batch":
            return listed(step.tables)
        case "transform":
            transform = pipeline.transform(step.name)
            text = transform.materialized
            if transform.unique_key:
                text += f" by {', '.join(transform.unique_key)}"
            if uses_since_load(transform.sql):
                text += ", from new rows"
            return text
        case "verify":
            return f"when it is due: {pipeline.verify}"


def describe_upstream(step: Step, steps: dict[str, Step]) -> str:
    """The upstream steps by kind, each kind named once: `load bookings, flights; transform
    dim_date`."""
    names_by_kind: dict[str, list[str]] = {}
    for step_id in step.upstream:
        upstream = steps[step_id]
        names_by_kind.setdefault(upstream.kind, []).append(upstream.name)
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in names_by_kind.items())


def _load_mode(table: Table) -> str:
    """The mode, or the two between which the source's primary key decides at run time."""
    with_key = table.mode_with_key(True)
    without_key = table.mode_with_key(False)
    if table.primary_key or with_key == without_key:
        return with_key
    return f"{with_key} or {without_key}"


def _deletes(table: Table) -> str | None:
    """What becomes of deleted rows; None where the step does not search for them."""
    if table.deletes and table.mode_with_key(True) == "merge":
        return table.deletes.action
    return None


def _describe_extract(table: Table) -> str:
    spec = table.incremental
    action = _deletes(table)
    deletes = f", deletes: {action}" if action else ""
    tasks = f"all rows by up to {table.extract_tasks} Airflow tasks"
    if not spec:
        return (tasks if table.extract_tasks > 1 else "all rows") + deletes
    rows = "new rows by" if spec.by == "watermark" else "rows of the run's interval by"
    parts = [f"{rows} {spec.cursor}"]
    if spec.initial_value is not None:
        parts.append(f"from {spec.initial_value} on")
    if spec.lookback is not None:
        parts.append(f"lookback {spec.lookback}")
    if spec.time_zone is not None:
        parts.append(f"stamped in {spec.time_zone}")
    if spec.nulls != "fail":
        parts.append(f"NULLs: {spec.nulls}")
    if table.extract_tasks > 1:
        parts.append(tasks)
    return ", ".join(parts) + deletes


def _describe_load(table: Table) -> str:
    mode = _load_mode(table)
    if mode == "append":
        return "append"
    if mode == "merge or append":
        return "merge by the catalog's key, else append"
    key = ", ".join(table.primary_key)
    if mode == "replace":
        return f"replace, key {key or 'from the catalog'}"
    by = key or "the catalog's key"
    return f"{mode} by {by}"
