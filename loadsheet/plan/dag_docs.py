"""The documentation of a pipeline and its steps in Airflow's UI, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from loadsheet.plan.steps import Step, verified_marts
from loadsheet.spec.models import Pipeline


def dag_doc(pipeline: Pipeline, spec: str) -> str:
    """The pipeline on one page: source, lake and warehouse, its tables, its transforms, and the
    file to change (`spec`)."""
    source = pipeline.source
    lake = pipeline.lake
    warehouse = pipeline.warehouse
    route = (
        f"`{source.conn_id}` schema {code(source.schema)} → `{lake.conn_id}` bucket"
        f" {code(lake.bucket)} → `{warehouse.conn_id}` schemas {code(warehouse.schema)} and"
        f" {code(warehouse.mart_schema)}"
    )
    table_rows: list[list[str]] = []
    for table in pipeline.entries:
        mode = table.mode or "replace"
        cursor = ""
        if table.incremental:
            # Append without a primary key, but the key may be in the catalog.
            mode = table.mode or "merge"
            cursor = code(table.incremental.cursor)
            if table.incremental.by == "data_interval":
                cursor += " (data interval)"
        key = _codes(table.primary_key) or "from the catalog"
        table_rows.append([code(table.name), mode, key, cursor])
    tables = grid(["table", "mode", "key", "cursor"], table_rows)
    transform_rows: list[list[str]] = []
    for transform in pipeline.transforms:
        key = _codes(transform.unique_key)
        transform_rows.append([code(transform.name), transform.materialized, key])
    transforms = grid(["transform", "materialized", "key"], transform_rows)
    # Must not end in `.md`: Airflow would take the whole text for a file name.
    last = f"Change it in {code(spec)}; `loadsheet plan {pipeline.name}` prints these steps."
    paragraphs = [pipeline.description, route, tables, transforms, last]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def step_doc(step: Step, pipeline: Pipeline) -> str:
    """One line for a step that moves or compares tables, the SQL for a transform."""
    if step.kind == "create_bucket":
        return f"Makes sure that the bucket {code(step.name)} exists.\n"
    if step.kind == "look":
        return (
            "Looks at all tables and marts at once, and skips the tasks of those that have nothing"
            " to do. Its log has the reasons. It also makes sure that the bucket"
            f" {code(step.name)} exists.\n"
        )
    if step.kind == "resolve":
        return (
            f"Asks the source which of its tables match {code(step.name)}; the next tasks run"
            " once for each of them.\n"
        )
    if step.kind == "extract":
        return (
            f"Copies {code(step.name)} from {code(pipeline.source.schema)} to the lake in one"
            " snapshot.\n"
        )
    if step.kind == "read":
        return (
            f"Helps the extract of {code(step.name)}: reads ranges of its pages in the same"
            " snapshot, and ends when none is left. Skipped where only new rows are read.\n"
        )
    if step.kind == "load":
        return (
            f"Loads {code(step.name)} into {code(pipeline.warehouse.schema)} in one transaction.\n"
        )
    if step.kind == "table":
        return (
            f"Copies {code(step.name)} from {code(pipeline.source.schema)} to the lake in one"
            f" snapshot, and loads it into {code(pipeline.warehouse.schema)} in one transaction.\n"
        )
    if step.kind == "batch":
        tables = _codes(step.tables) or f"those that match {code(step.name)}"
        return (
            f"Copies tables from {code(pipeline.source.schema)} to the lake and loads them into"
            f" {code(pipeline.warehouse.schema)}, one after the other: {tables}. Its log has a line"
            " for each.\n"
        )
    if step.kind == "verify":
        marts = ", and marts with their SELECT," if verified_marts(pipeline) else ""
        return (
            f"Compares the tables in {code(step.name)} with their source{marts} when that is due"
            f" ({code(pipeline.verify or '')}), and fails where a row differs.\n"
        )
    transform = pipeline.transform(step.name)
    return (
        f"Builds {code(step.name)} ({transform.materialized}).\n\n{block(transform.sql, 'sql')}\n"
    )


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty when there are no rows."""
    lines: list[Sequence[str]] = [head, ["---"] * len(head)]
    for row in rows:
        # A bar ends a cell, also inside backticks.
        lines.append([cell.replace("|", "\\|") for cell in row])
    if len(lines) == 2:
        return ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(text: str, language: str) -> str:
    """`text` as a block of code. Its fence is longer than any backticks in the text, so that the
    text cannot end it."""
    fence = "`" * max(3, _longest_backticks(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def code(text: str) -> str:
    """`text` as inline code, also where it contains backticks."""
    if "`" not in text:
        return f"`{' '.join(text.split())}`"
    fence = "`" * (_longest_backticks(text) + 1)
    # Markdown removes one space at each end, so that the code may begin or end with a backtick.
    return f"{fence} {' '.join(text.split())} {fence}"


def _codes(names: Sequence[str]) -> str:
    return ", ".join(code(name) for name in names)


def _longest_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
