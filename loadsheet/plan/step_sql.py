"""The SQL of a step as it will run. What only the servers know is a name in angle brackets, such as
`<watermark>`."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.plan.steps import Step
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation, ident, idents

_SPEC_ALONE = "-- from the spec alone: --connect shows the exact statement"


def step_sql(step: Step, pipeline: Pipeline) -> str:
    """The statement of the step. Empty where the spec alone does not determine it: for loads, for
    the steps of a pattern, and for steps without SQL."""
    if step.mapped:
        return ""
    if step.kind == "extract":
        return _extract_sql(pipeline, pipeline.table(step.name))
    if step.kind != "transform":
        return ""
    transform = pipeline.transform(step.name)
    target = Relation(pipeline.warehouse.mart_schema, step.name)
    return transform_sql(target, transform.materialized, transform.sql)


def why_no_sql(step: Step, is_connected: bool) -> str:
    """Why the step has no SQL to show, as an SQL comment. `is_connected`: whether the servers were
    asked."""
    if step.kind in ("create_bucket", "look", "resolve", "verify"):
        return "-- no SQL: the step changes no table"
    if is_connected and step.kind == "load":
        return "-- no SQL: the load would not change the table's definition"
    if is_connected:
        return "-- no SQL: the step would be skipped or fail"
    if step.mapped:
        return "-- one statement for each table that matches the pattern: --connect shows them"
    return "-- the SQL depends on the catalogs: --connect shows it"


def transform_sql(target: Relation, materialized: str, body: str, in_full: bool = True) -> str:
    """The SQL that builds `target` from `body`, a SELECT or a script.

    In full, a table is built as a new one, which then replaces the old one or is compared with it.
    Otherwise the new rows go into a temporary table, from which they are merged.
    """
    body = body.rstrip()
    if materialized == "script":
        return body
    if materialized == "view":
        return f"CREATE OR REPLACE VIEW {target.sql} AS\n{body}"
    if not in_full:
        return f'CREATE TEMPORARY TABLE "_loadsheet_<number>" ON COMMIT DROP AS\n{body}'
    return f'CREATE TABLE {ident(target.schema)}."_loadsheet_<number>" AS\n{body}'


def select_steps(steps: Sequence[Step], name: str) -> list[Step]:
    """The steps that `name` means: an id (with or without its group), a table, a transform, a kind,
    or `all`."""
    selected: list[Step] = []
    for step in steps:
        if name in ("all", step.id, step.id.rpartition(".")[2], step.kind, step.name):
            selected.append(step)
    return selected


def _extract_sql(pipeline: Pipeline, table: Table) -> str:
    comment = _SPEC_ALONE
    # Only the catalog knows which columns are left when some are excluded.
    columns = "*"
    if table.include:
        columns = idents(table.include)
    elif table.exclude:
        comment += f"; * without {', '.join(table.exclude)}"
    relation = Relation(pipeline.source.schema, table.name)
    select = f"{comment}\nSELECT {columns} FROM {relation.sql}"
    spec = table.incremental
    if spec is None:
        return select
    cursor = ident(spec.cursor)
    if spec.by == "data_interval":
        condition = f"{cursor} >= <interval start> AND {cursor} < <interval end>"
    else:
        condition = f"{cursor} > <watermark>"
        if spec.lookback is not None:
            condition = f"{cursor} >= <watermark>"
            condition += f" - <lookback {spec.lookback}>"
    if spec.nulls == "include":
        condition = f"({condition} OR {cursor} IS NULL)"
    return f"{select} WHERE {condition}"
