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
        return "unless it is there"
    if step.kind == "resolve":
        left_out = next(
            (pattern.exclude for pattern in pipeline.patterns if pattern.name == step.name), ()
        )
        return "the tables that match when a run begins" + (
            f", but {', '.join(left_out)}" if left_out else ""
        )
    if step.kind == "transform":
        return _builds(pipeline.transform(step.name))
    table = pipeline.table(step.name)
    return _reads(table) if step.kind == "extract" else _loads(table)


def after(step: Step, steps: dict[str, Step]) -> str:
    """The upstream steps by kind, each kind named once: `load bookings, flights; transform
    dim_date`."""
    upstream = [steps[step_id] for step_id in step.upstream]
    kinds = dict.fromkeys(found.kind for found in upstream)
    return "; ".join(
        f"{kind} {', '.join(found.name for found in upstream if found.kind == kind)}"
        for kind in kinds
    )


def _reading(table: Table) -> str:
    if not table.incremental:
        return "full"
    return "new rows" if table.incremental.by == "watermark" else "data interval"


def _mode(table: Table) -> str:
    """Without a declared key, the catalog's key decides at run time between the two."""
    with_key, without_key = (table.mode_with_key(has_key) for has_key in (True, False))
    return (
        with_key if table.primary_key or with_key == without_key else f"{with_key} or {without_key}"
    )


def _reads(table: Table) -> str:
    spec = table.incremental
    if not spec:
        return "all rows"
    more = [f"from {spec.initial_value} on"] if spec.initial_value is not None else []
    more += [f"lookback {spec.lookback}"] if spec.lookback is not None else []
    more += [f"NULLs: {spec.nulls}"] if spec.nulls != "fail" else []
    rows = "new rows by" if spec.by == "watermark" else "rows of the run's interval by"
    return ", ".join([f"{rows} {spec.cursor}", *more])


def _loads(table: Table) -> str:
    mode, key = _mode(table), ", ".join(table.primary_key)
    by = f" by {key}" if key else " by the catalog's key"
    if mode == "append":
        return "append"
    if mode == "merge or append":
        return "merge by the catalog's key, else append"
    if mode == "replace":
        return f"replace, key {key}" if key else "replace, key from the catalog"
    return f"{mode}{by}"


def _builds(transform: Transform) -> str:
    key = f" by {', '.join(transform.unique_key)}" if transform.unique_key else ""
    new = ", from new rows" if uses_since_load(transform.sql) else ""
    return f"{transform.materialized}{key}{new}"
