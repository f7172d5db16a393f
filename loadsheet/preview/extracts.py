"""What the extract of one table would read, and what the source says against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg

from loadsheet.errors import LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.plan.preview import Changes, StepPreview
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import columns, rights, sizes
from loadsheet.preview.sessions import TOO_LONG
from loadsheet.source import catalog, holdback, identity, reading
from loadsheet.source.catalog import SourceTable
from loadsheet.source.reading import Reading
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.copying import select_columns
from loadsheet.steps.diagnosis import diagnose
from loadsheet.steps.extract import file_format, last_of
from loadsheet.warehouse.fence import Scope

_REQUEST = RunRequest(run_id="plan")


@dataclass(frozen=True)
class Extracted:
    """What the load's preview goes on from; `source` and `rows` are None where the extract would fail."""

    preview: StepPreview
    source: SourceTable | None = None
    rows: Reading | None = None
    is_first: bool = True


def preview_extract(pipeline: Pipeline, table: Table, session: Session, seen: Scope, is_first: bool) -> Extracted:
    """Ask the catalogs of the source, and its rows only where the answer is near at hand."""
    found = StepPreview(id=step_id("extract", table.name))
    try:
        return _preview(found, pipeline, table, session, seen, is_first)
    except psycopg.errors.QueryCanceled:
        found.does = f"what it would read is {TOO_LONG}"
        return Extracted(found, is_first=is_first)
    except psycopg.Error as error:
        if session.broken:
            raise
        found.error("source", str(diagnose(error)))
        found.does = "would fail"
        return Extracted(found, is_first=is_first)


def _preview(
    found: StepPreview, pipeline: Pipeline, table: Table, session: Session, seen: Scope, is_first: bool
) -> Extracted:
    source = _described(found, pipeline, table, session)
    if source is None or not rights.may_read(found, session, source):
        found.does = "would fail"
        return Extracted(found, is_first=is_first)
    _asked(found, "format", lambda: file_format(pipeline, source))
    found.table_rows, found.table_bytes = sizes.of_table(session, source)
    indexed = columns.cursor_findings(found, session, source, table)
    rows = _decided(found, table, session, source, seen, is_first)
    if rows is None:
        found.does = "would fail" if found.fails else found.does
        return Extracted(found, source, None, is_first)
    _identity(found, pipeline, table, session, source, seen, rows)
    found.action, found.lower, found.upper, found.held_by = rows.action, rows.lower, rows.upper, rows.held_by
    found.sql = select_columns(source.relation, source.columns, "" if rows.where == "TRUE" else rows.where)
    near = indexed or (source.is_table and (found.table_bytes or 0) <= sizes.SMALL_BYTES)
    sizes.estimate(found, session, source, rows, near)
    columns.key_findings(found, session, source, table, rows, near)
    found.changes = _changes(found, pipeline, table, session, source, seen, rows, is_first)
    found.does = "would fail" if found.fails else _does(found, table)
    return Extracted(found, source, rows, is_first)


def _described(found: StepPreview, pipeline: Pipeline, table: Table, session: Session) -> SourceTable | None:
    """The table as its catalog describes it, or every name the spec has wrong."""
    described: SourceTable | None = _asked(
        found, "catalog", lambda: catalog.describe(session, pipeline.source.schema, table)
    )
    if described:
        return described
    bare = replace(table, include=(), exclude=(), primary_key=(), incremental=None)
    try:
        whole = catalog.describe(session, pipeline.source.schema, bare)
    except LoadsheetError:
        return None
    cursor = [table.incremental.cursor] if table.incremental else []
    for name in dict.fromkeys((*table.include, *table.exclude, *table.primary_key, *cursor)):
        _asked(found, "catalog", lambda name=name: whole.column(name))  # type: ignore[misc]
    return None


def _asked(found: StepPreview, code: str, question: Callable[[], Any]) -> Any:
    """The answer; None, and a finding, when it is a refusal or takes too long."""
    try:
        return question()
    except LoadsheetError as error:
        found.error(code, str(error))
    except psycopg.errors.QueryCanceled:
        found.tell("note", code, TOO_LONG)
    except psycopg.errors.InsufficientPrivilege as error:
        found.error("privilege", error.diag.message_primary or str(error))
    return None


def _decided(
    found: StepPreview, table: Table, session: Session, source: SourceTable, seen: Scope, is_first: bool
) -> Reading | None:
    """What the engine itself would decide now, without its patience for open transactions."""
    spec = table.incremental
    if spec and spec.by == "data_interval":
        _asked(found, "hold-back", lambda: holdback.sees(session, source, spec.cursor))
        _asked(found, "cursor", lambda: source.column(spec.cursor))
        found.does = f"rows of the run's interval by {spec.cursor}"
        return None
    hasty = replace(table, incremental=replace(spec, hold_back=timedelta(0))) if spec else table
    last = None if is_first else last_of(seen)
    code = "hold-back" if spec else "mode"
    rows: Reading | None = _asked(found, code, lambda: reading.decide(session, hasty, source, last, _REQUEST))
    if rows is None and not found.fails:
        found.does = f"rows by {spec.cursor}, how many is not known" if spec else "all rows"
    return rows


def _identity(
    found: StepPreview, pipeline: Pipeline, table: Table, session: Session, source: SourceTable, seen: Scope,
    rows: Reading,
) -> None:  # fmt: skip
    _, changes, lags = identity.observe(session, seen.source)
    changes += identity.table_changes(source, seen.source_oid)
    if changes and table.incremental and rows.action != "replace":
        _asked(found, "source-changed", lambda: identity.refuse(source, pipeline.name, changes, lags))


def _changes(
    found: StepPreview, pipeline: Pipeline, table: Table, session: Session, source: SourceTable, seen: Scope,
    rows: Reading, is_first: bool,
) -> Changes:  # fmt: skip
    """As the engine tells whether there is anything new: rows of an increment, other content of a whole table."""
    if is_first:
        return "yes"
    if table.incremental:
        return "no" if found.rows_are_exact and not found.rows else "yes" if found.rows_are_exact else "maybe"
    if found.fails or (found.table_bytes or 0) > sizes.COMPARED_BYTES or not source.is_table:
        return "maybe"
    try:
        return "no" if sizes.content_sha256(pipeline, session, source, rows) == seen.content_sha256 else "yes"
    except psycopg.errors.QueryCanceled:
        return "maybe"


def _does(found: StepPreview, table: Table) -> str:
    cursor = table.incremental.cursor if table.incremental else ""
    if found.changes == "no":
        return f"nothing new since {cursor} {found.lower}" if cursor else "nothing new: its content is as it was loaded"
    about = "" if found.rows_are_exact else "about "
    size = f"{about}{found.rows:,} rows, {sizes.shown(found.bytes or 0)}" if found.rows is not None else ""
    if not cursor:
        unsure = "; loaded if they differ" if found.changes == "maybe" else ""
        return f"all rows: {size}{unsure}"
    above = f"rows of {cursor} above {found.lower}" if found.lower is not None else "all rows"
    return f"{above}: {size}"
