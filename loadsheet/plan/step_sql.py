"""The SQL of a step, as it will be run; what only servers know stands in it as a name in angle
brackets."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.plan.steps import Step
from loadsheet.spec.models import Incremental, Pipeline, Table
from loadsheet.sql.text import Relation, ident, idents

_OPEN = "-- as far as the spec tells: the source's catalog names the columns, --connect shows them"


def step_sql(step: Step, pipeline: Pipeline) -> str:
    """The statement of the step; empty for loads, whose SQL follows from the catalogs, and where
    there is none yet."""
    if step.mapped:
        return ""
    if step.kind == "extract":
        return _extract(pipeline, pipeline.table(step.name))
    if step.kind != "transform":
        return ""
    transform = pipeline.transform(step.name)
    return transform_sql(
        Relation(pipeline.warehouse.mart_schema, step.name), transform.materialized, transform.sql
    )


def why_none(step: Step, is_connected: bool) -> str:
    """Why the step has no SQL to show, as a comment."""
    if step.kind in ("create_bucket", "resolve"):
        return "-- it changes nothing by SQL"
    if is_connected:
        return (
            "-- it would change no table's definition"
            if step.kind == "load"
            else "-- it would not run"
        )
    which = (
        "one for each table that the pattern matches"
        if step.mapped
        else "it follows from the catalogs"
    )
    return f"-- {which}: --connect shows it"


def transform_sql(target: Relation, materialized: str, body: str, in_full: bool = True) -> str:
    """What builds `target` from `body`. A table is built beside the one it replaces, or is compared
    with; new rows alone go through a temporary one."""
    body = body.rstrip()
    if materialized == "script":
        return body
    if materialized == "view":
        return f"CREATE OR REPLACE VIEW {target.sql} AS\n{body}"
    if not in_full:
        return f'CREATE TEMPORARY TABLE "_loadsheet_<number>" ON COMMIT DROP AS\n{body}'
    return f'CREATE TABLE {ident(target.schema)}."_loadsheet_<number>" AS\n{body}'


def chosen(steps: Sequence[Step], wanted: str) -> list[Step]:
    """The steps called `wanted`: an id, a table, a transform, a kind, or `all`."""
    return [
        step
        for step in steps
        if wanted in ("all", step.id, step.id.rpartition(".")[2], step.kind, step.name)
    ]


def _extract(pipeline: Pipeline, table: Table) -> str:
    where = _where(table.incremental) if table.incremental else ""
    columns = idents(table.include) if table.include else "*"
    without = f" except {', '.join(table.exclude)}" if table.exclude else ""
    relation = Relation(pipeline.source.schema, table.name)
    return f"{_OPEN}{without}\nSELECT {columns} FROM {relation.sql}{where}"


def _where(spec: Incremental) -> str:
    cursor = ident(spec.cursor)
    if spec.by == "data_interval":
        condition = f"{cursor} >= <interval start> AND {cursor} < <interval end>"
    else:
        condition = f"{cursor} > <watermark>" + (
            f" - <lookback {spec.lookback}>" if spec.lookback else ""
        )
    return (
        f" WHERE ({condition} OR {cursor} IS NULL)"
        if spec.nulls == "include"
        else f" WHERE {condition}"
    )
