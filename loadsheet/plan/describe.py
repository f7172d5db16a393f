"""What a step does, in the words of the spec: for `loadsheet plan`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from loadsheet.plan.steps import Step
from loadsheet.spec.models import Pipeline, Table, Transform
from loadsheet.sql.params import uses_since_load


def details(step: Step, pipeline: Pipeline) -> dict[str, Any]:
    """How the step works: `mode`, `key` (None: the catalog knows) and `cursor`, as far as they
    apply."""
    if step.kind in ("create_bucket", "resolve"):
        return {}
    if step.kind == "transform":
        transform = pipeline.transform(step.name)
        cursor = "_load_id" if uses_since_load(transform.sql) else None
        return {"mode": transform.materialized, "key": transform.unique_key, "cursor": cursor}
    table = pipeline.table(step.name)
    cursor = table.incremental.cursor if table.incremental else None
    if step.kind == "extract":
        return {"mode": _reading(table), "cursor": cursor}
    return {"mode": _mode(table), "key": table.primary_key or None, "cursor": cursor}


def does(step: Step, pipeline: Pipeline) -> str:
    """The same as a phrase: `new rows by updated_at`, `merge by order_id`."""
    if step.kind == "create_bucket":
        return "unless it exists"
    if step.kind == "resolve":
        return _resolves(step, pipeline)
    if step.kind == "transform":
        return _builds(pipeline.transform(step.name))
    if step.kind == "extract":
        return _reads(pipeline.table(step.name))
    return _loads(pipeline.table(step.name))


def after(step: Step, steps: dict[str, Step]) -> str:
    """The upstream steps by kind, each kind named once: `load bookings, flights; transform
    dim_date`."""
    upstream = [steps[step_id] for step_id in step.upstream]
    names: dict[str, list[str]] = {}
    for found in upstream:
        names.setdefault(found.kind, []).append(found.name)
    return "; ".join(f"{kind} {', '.join(of_kind)}" for kind, of_kind in names.items())


def _resolves(step: Step, pipeline: Pipeline) -> str:
    text = "the tables that match when a run begins"
    for pattern in pipeline.patterns:
        if pattern.name == step.name and pattern.exclude:
            text += f", but {', '.join(pattern.exclude)}"
    return text


def _reading(table: Table) -> str:
    if not table.incremental:
        return "full"
    if table.incremental.by == "watermark":
        return "new rows"
    return "data interval"


def _mode(table: Table) -> str:
    """Without a declared key, the catalog's key decides at run time between the two."""
    with_key = table.mode_with_key(True)
    without_key = table.mode_with_key(False)
    if table.primary_key or with_key == without_key:
        return with_key
    return f"{with_key} or {without_key}"


def _reads(table: Table) -> str:
    spec = table.incremental
    if not spec:
        return "all rows"
    rows = "new rows by" if spec.by == "watermark" else "rows of the run's interval by"
    parts = [f"{rows} {spec.cursor}"]
    if spec.initial_value is not None:
        parts.append(f"from {spec.initial_value} on")
    if spec.lookback is not None:
        parts.append(f"lookback {spec.lookback}")
    if spec.nulls != "fail":
        parts.append(f"NULLs: {spec.nulls}")
    return ", ".join(parts)


def _loads(table: Table) -> str:
    mode = _mode(table)
    if mode == "append":
        return "append"
    if mode == "merge or append":
        return "merge by the catalog's key, else append"
    key = ", ".join(table.primary_key)
    if mode == "replace":
        return f"replace, key {key or 'from the catalog'}"
    by = key or "the catalog's key"
    return f"{mode} by {by}"


def _builds(transform: Transform) -> str:
    key = f" by {', '.join(transform.unique_key)}" if transform.unique_key else ""
    new = ", from new rows" if uses_since_load(transform.sql) else ""
    return f"{transform.materialized}{key}{new}"
