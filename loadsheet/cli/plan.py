"""`loadsheet plan`: the steps of a pipeline, the same that Airflow shows as tasks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loadsheet.cli.output import AsJson, print_json, print_table
from loadsheet.cli.places import open_pipeline
from loadsheet.plan.steps import Step, build_plan
from loadsheet.spec.models import Pipeline, Table

PipelineArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline's name, or its file.")]


def plan(ctx: typer.Context, pipeline: PipelineArgument, as_json: AsJson = False) -> None:
    """Print a pipeline's steps in the order in which they run."""
    spec, _ = open_pipeline(ctx.obj, pipeline)
    steps = build_plan(spec)
    if as_json:
        documents = [
            {"id": step.id, "kind": step.kind, "name": step.name, "upstream": step.upstream, **details(step, spec)}
            for step in steps
        ]
        print_json({"pipeline": spec.name, "schedule": spec.schedule, "steps": documents})
        return
    typer.echo(f"{spec.name}: {len(spec.tables)} tables, {len(spec.transforms)} transforms, {_schedule(spec)}")
    by_id = {step.id: step for step in steps}
    rows = [(*_row(step, spec), _after(step, by_id)) for step in steps]
    print_table(("step", "name", "mode", "key", "cursor", "after"), rows)


def details(step: Step, pipeline: Pipeline) -> dict[str, Any]:
    """How the step works: `mode`, `key` (None: the catalog knows) and `cursor`, as far as they apply."""
    if step.kind in ("create_bucket", "resolve"):
        return {}
    if step.kind == "transform":
        from loadsheet.sql.params import uses_since_load  # sqlglot: 75 ms that no other command needs

        transform = pipeline.transform(step.name)
        return {
            "mode": transform.materialized,
            "key": transform.unique_key,
            "cursor": "_load_id" if uses_since_load(transform.sql) else None,
        }
    table = pipeline.table(step.name)
    cursor = table.incremental.cursor if table.incremental else None
    if step.kind == "extract":
        return {"mode": _reading(table), "cursor": cursor}
    return {"mode": _mode(table), "key": table.primary_key or None, "cursor": cursor}


def _reading(table: Table) -> str:
    if not table.incremental:
        return "full"
    return "new rows" if table.incremental.by == "watermark" else "data interval"


def _mode(table: Table) -> str:
    """Without a declared key, the catalog's key decides at run time between the two."""
    with_key, without_key = (table.mode_with_key(has_key) for has_key in (True, False))
    return with_key if table.primary_key or with_key == without_key else f"{with_key} or {without_key}"


def _row(step: Step, pipeline: Pipeline) -> tuple[str, ...]:
    found = details(step, pipeline)
    key = "from the catalog" if found.get("key", ()) is None else ", ".join(found.get("key", ()))
    return step.kind, step.name, found.get("mode", ""), key, found.get("cursor") or ""


def _after(step: Step, steps: dict[str, Step]) -> str:
    """The upstream steps by kind, each kind named once: `load bookings, flights; transform dim_date`."""
    upstream = [steps[step_id] for step_id in step.upstream]
    kinds = dict.fromkeys(found.kind for found in upstream)
    return "; ".join(f"{kind} {', '.join(found.name for found in upstream if found.kind == kind)}" for kind in kinds)


def _schedule(pipeline: Pipeline) -> str:
    return f"schedule {pipeline.schedule}" if pipeline.schedule else "no schedule"
