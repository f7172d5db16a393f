"""Columns that a transform names and that the loads before it take away or leave empty.

A source's renamed column is renamed in staging by the next load. The server cannot be asked about
the SQL before that, so its text is compared with the columns that the tables will have.
"""

from __future__ import annotations

from collections.abc import Mapping

from loadsheet.names import closest
from loadsheet.preview.models import StepPreview
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.spec.sql_reading import resolve_read
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import ColumnRead, columns_read
from loadsheet.sql.tokens import line_and_column


def add_lost_columns(
    preview: StepPreview, pipeline: Pipeline, spec: Transform, upstream: Mapping[str, StepPreview]
) -> None:
    """Add an error for each column that the transform's tables will not have, and a warning for
    each that no row will fill any more. `upstream` are its inputs' previews, by name."""
    if not any(step.columns for step in upstream.values()):
        return
    seen: set[tuple[str, str]] = set()
    for column in columns_read(parse(spec.sql)):
        origin = resolve_read(pipeline, column.table)
        if origin is None or origin[0] != "table" or (origin[1], column.name) in seen:
            continue
        seen.add((origin[1], column.name))
        line, place = line_and_column(spec.sql, column.offset)
        start = f"{spec.file.name}:{line}:{place}: reads {origin[1]}.{column.name}, which"
        load = upstream[origin[1]]
        if column.name in load.dropped:
            text = f"{start} is no longer read from the source: it is NULL in rows from now on"
            preview.add_remark("warning", "drift", text)
        # Without DDL the table stays as it is, and the server is asked about the SQL.
        elif load.ddl and load.columns and column.name not in load.columns:
            reason = _reason(column, load)
            if reason:
                preview.add_error("drift", f"{start} {reason}")


def _reason(column: ColumnRead, load: StepPreview) -> str:
    """Why the table will have no such column, and what to write; empty where the name may be
    something else than a column."""
    new_name = load.renamed.get(column.name)
    if new_name:
        return f"the load before it renames to {new_name}: write {new_name} in the SQL file"
    meant = closest(column.name, load.columns)
    if meant:
        return f"the table will not have; did you mean {meant!r}?"
    return "the table will not have" if column.qualified else ""
