"""What Airflow's UI shows as documentation of a pipeline and of each of its steps, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from loadsheet.plan.steps import Step
from loadsheet.spec.models import Pipeline, Table, Transform


def dag_doc(pipeline: Pipeline, spec: str) -> str:
    """The pipeline in one page: from where to where, its tables, its transforms, and where to
    change it."""
    source, lake, warehouse = pipeline.source, pipeline.lake, pipeline.warehouse
    parts = [
        pipeline.description,
        (
            f"`{source.conn_id}` schema {code(source.schema)} → `{lake.conn_id}` bucket"
            f" {code(lake.bucket)} → `{warehouse.conn_id}` schemas {code(warehouse.schema)} and"
            f" {code(warehouse.mart_schema)}"
        ),
        grid(
            ["table", "mode", "key", "cursor"],
            map(_table_row, pipeline.entries),
        ),
        grid(["transform", "materialized", "key"], map(_transform_row, pipeline.transforms)),
        # Never ends in `.md`: Airflow would take the whole text for a file name.
        f"Change it in {code(spec)}; `loadsheet plan {pipeline.name}` prints these steps.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def step_doc(step: Step, pipeline: Pipeline) -> str:
    """One line for a step that moves a table, the SQL for a transform."""
    if step.kind == "create_bucket":
        return f"Makes sure that the bucket {code(step.name)} exists.\n"
    if step.kind == "resolve":
        return (
            f"Asks the source which of its tables match {code(step.name)}; the next tasks are"
            " mapped over them.\n"
        )
    if step.kind == "extract":
        return (
            f"Copies {code(step.name)} from {code(pipeline.source.schema)} to the lake in one"
            " snapshot.\n"
        )
    if step.kind == "load":
        return (
            f"Loads {code(step.name)} into {code(pipeline.warehouse.schema)} in one transaction.\n"
        )
    transform = pipeline.transform(step.name)
    return (
        f"Builds {code(step.name)} ({transform.materialized}).\n\n{block(transform.sql, 'sql')}\n"
    )


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, or nothing when there are no rows."""
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body] if body else []
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(text: str, language: str) -> str:
    """`text` as a block of code that ends where it ends, whatever it holds."""
    fence = "`" * max(3, _longest_backticks(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def code(text: str) -> str:
    """`text` as inline code, whatever it holds."""
    fence = "`" * (_longest_backticks(text) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def _table_row(table: Table) -> list[str]:
    cursor = table.incremental.cursor if table.incremental else ""
    by = " (data interval)" if table.incremental and table.incremental.by == "data_interval" else ""
    mode = table.mode or ("merge" if table.incremental else "replace")
    return [
        code(table.name),
        mode,
        _codes(table.primary_key) or "from the catalog",
        cursor and code(cursor) + by,
    ]


def _transform_row(transform: Transform) -> list[str]:
    return [code(transform.name), transform.materialized, _codes(transform.unique_key)]


def _codes(names: Sequence[str]) -> str:
    return ", ".join(map(code, names))


def _longest_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
