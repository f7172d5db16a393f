"""What an extract step would read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg

from loadsheet.engine.diagnosis import diagnose
from loadsheet.engine.extract import file_format, last_of
from loadsheet.errors import LoadsheetError
from loadsheet.lake.parts import Layout
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import columns, rights, sizes
from loadsheet.preview.models import Changes, StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED, asked
from loadsheet.source import catalog, fitness, holdback, identity, reading
from loadsheet.source.bounds import TIMESTAMPTZ
from loadsheet.source.discovery import has_relation
from loadsheet.source.reading import Reading
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode, Pipeline, Table
from loadsheet.sql.copying import select_columns
from loadsheet.sql.types import TIME_TYPES, without_modifier
from loadsheet.warehouse.fence import Scope, last_was_held

_REQUEST = RunRequest(run_id="plan")


@dataclass(frozen=True)
class Extracted:
    """What the load's preview goes on from; `source` and `rows` are None where they are not known."""

    preview: StepPreview
    source: SourceTable | None = None
    rows: Reading | None = None
    stops_load: str = ""
    """Why the load of these rows would fail."""


def preview_extract(
    pipeline: Pipeline,
    table: Table,
    session: Session,
    warehouse: Session,
    seen: Scope,
    is_first: bool,
) -> Extracted:
    """Ask the catalogs of the source, and its rows only where the answer is near at hand."""
    found = StepPreview(id=step_id("extract", table.name))
    if table.matched and not has_relation(session, pipeline.source.schema, table.name):
        found.changes, found.does = (
            "no",
            "skipped: the source does not have it; what was loaded stays",
        )
        return Extracted(found)
    try:
        return _Extract(found, pipeline, table, session, warehouse, seen, is_first).look()
    except UNANSWERED:
        found.does = f"what it would read is {NOT_KNOWN}"
        return Extracted(found)
    except psycopg.Error as error:
        if session.broken or warehouse.broken:
            raise
        found.error("source", str(diagnose(error)))
        found.does = "would fail"
        return Extracted(found)


class _Extract:
    def __init__(
        self,
        found: StepPreview,
        pipeline: Pipeline,
        table: Table,
        session: Session,
        warehouse: Session,
        seen: Scope,
        is_first: bool,
    ):
        self.found, self.pipeline, self.table, self.session, self.warehouse = (
            found,
            pipeline,
            table,
            session,
            warehouse,
        )
        self.seen, self.is_first = seen, is_first

    def look(self) -> Extracted:
        found, session, table = self.found, self.session, self.table
        source = _described(found, self.pipeline, table, session)
        if source is None or not rights.may_read(found, session, source):
            found.does = "would fail"
            return Extracted(found)
        asked(found, "format", lambda: _can_be_written(self.pipeline, source))
        found.table_rows, found.table_bytes = sizes.of_table(session, source)
        indexed = columns.about_cursor(found, session, source, table)
        rows = self._decided(source)
        if rows is None:
            found.does = "would fail" if found.fails else found.does
            return Extracted(found, source)
        self._identity(source, rows.action)
        self._values(source, rows.where)
        found.action, found.lower, found.upper, found.held_by = (
            rows.action,
            rows.lower,
            rows.upper,
            rows.held_by,
        )
        found.sql = select_columns(
            source.relation, source.columns, "" if rows.where == "TRUE" else rows.where
        )
        near = indexed or (source.is_table and (found.table_bytes or 0) <= sizes.SMALL_BYTES)
        sizes.estimate(found, session, source, rows, near)
        stops = columns.about_key(found, session, source, table, rows)
        found.changes = self._changes(source, rows)
        found.reads_again = not self.is_first and reads_again(
            table, source, rows, self.seen, self.warehouse
        )
        found.does = "would fail" if found.fails else told(found, table)
        return Extracted(found, source, rows, stops)

    def _changes(self, source: SourceTable, rows: Reading) -> Changes:
        if self.is_first:
            return "yes"
        if self.table.incremental:
            return of_increment(self.found, self.table, source)
        return of_whole(self.found, self.pipeline, self.session, source, rows, self.seen)

    def _decided(self, source: SourceTable) -> Reading | None:
        """What the engine itself would decide now, without its patience for open transactions."""
        found, table, spec = self.found, self.table, self.table.incremental
        if spec and spec.by == "data_interval":
            self._interval(source, spec)
            return None
        hasty = replace(table, incremental=replace(spec, hold_back=timedelta(0))) if spec else table
        last = None if self.is_first else last_of(self.seen)
        code = "hold-back" if spec else "mode"
        rows: Reading | None = asked(
            found, code, lambda: reading.decide(self.session, hasty, source, last, _REQUEST)
        )
        if rows is None and not found.fails:
            found.does = f"rows by {spec.cursor}, how many is not known" if spec else "all rows"
        return rows

    def _interval(self, source: SourceTable, spec: Incremental) -> None:
        """What can be said although nobody knows the run's interval yet."""
        found = self.found
        mode: Mode | None = asked(found, "mode", lambda: reading.refuse_mode(self.table, source))
        if mode:
            asked(found, "mode", lambda: reading.refuse_appended_interval(source, mode))
        asked(found, "hold-back", lambda: holdback.sees(self.session, source, spec.cursor))
        self._identity(source, "merge")
        # which rows, nobody knows; the cursor is looked at in all of them
        self._values(source, "FALSE")
        found.does = f"rows of the run's interval by {spec.cursor}"

    def _identity(self, source: SourceTable, action: str) -> None:
        _, changes, lags = identity.observe(self.session, self.seen.source)
        changes += identity.table_changes(source, self.seen.source_oid)
        if changes and self.table.incremental and action != "replace":
            asked(
                self.found,
                "source-changed",
                lambda: identity.refuse(source, self.pipeline.name, changes, lags),
            )

    def _values(self, source: SourceTable, where: str) -> None:
        """Values that the warehouse cannot hold, or that nothing can follow."""
        values = (self.session, source, self.table, where, self.warehouse)
        asked(self.found, "values", lambda: fitness.refuse_values(*values))


def _described(
    found: StepPreview, pipeline: Pipeline, table: Table, session: Session
) -> SourceTable | None:
    """The table as its catalog describes it, or every name the spec has wrong."""
    described: SourceTable | None = asked(
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
        asked(found, "catalog", lambda name=name: whole.column(name))  # type: ignore[misc]
    return None


def _can_be_written(pipeline: Pipeline, source: SourceTable) -> None:
    Layout(file_format(pipeline, source), source.columns, source.key).encoder()


def of_increment(found: StepPreview, table: Table, source: SourceTable) -> Changes:
    """Whether rows would be read. A run that waits for who holds it back may find more than there
    is now."""
    if not found.rows_are_exact or (not found.rows and found.held_by and _waits(table, source)):
        return "maybe"
    return "yes" if found.rows else "no"


def _waits(table: Table, source: SourceTable) -> bool:
    spec = table.incremental
    by_time = spec is not None and without_modifier(source.column(spec.cursor).type) == TIMESTAMPTZ
    return not by_time or table.mode_with_key(bool(source.key)) != "merge"


def of_whole(
    found: StepPreview,
    pipeline: Pipeline,
    session: Session,
    source: SourceTable,
    rows: Reading,
    seen: Scope,
) -> Changes:
    """Whether the content differs from the last load's, where it is small enough to be compared."""
    if found.fails or (found.table_bytes or 0) > sizes.COMPARED_BYTES or not source.is_table:
        return "maybe"
    try:
        content = sizes.content_sha256(pipeline, session, source, rows)
    except UNANSWERED:
        return "maybe"
    return "no" if content == seen.content_sha256 else "yes"


def reads_again(
    table: Table, source: SourceTable, rows: Reading, seen: Scope, warehouse: Session
) -> bool:
    """Whether what is read may all be there already: below the watermark, above one that had to
    stay low, or in a whole table whose content is another one only by its columns, or was never
    compared."""
    spec = table.incremental
    if not spec:
        before = {column["name"]: column["type"] for column in seen.columns or ()}
        return seen.content_sha256 is None or before != {
            column.name: column.type for column in source.columns
        }
    if rows.action != "merge":
        return False
    if seen.watermark is None or spec.lookback is not None or spec.nulls == "include":
        return True
    kind = source.column(spec.cursor).type
    is_fine = kind == TIMESTAMPTZ or without_modifier(kind) not in TIME_TYPES
    return not is_fine or last_was_held(warehouse, seen)


def told(found: StepPreview, table: Table) -> str:
    """The extract in words."""
    cursor = table.incremental.cursor if table.incremental else ""
    if found.changes == "no":
        return (
            f"nothing new since {cursor} {found.lower}"
            if cursor
            else "nothing new: its content is as it was loaded"
        )
    if not cursor:
        return (
            f"all rows{_size(found)}{'; loaded if they differ' if found.changes == 'maybe' else ''}"
        )
    above = f"rows of {cursor} above {found.lower}" if found.lower is not None else "all rows"
    if found.held_by and not found.rows:
        return f"{above}, when those who hold them back have ended"
    return f"{above}{_size(found)}"


def _size(found: StepPreview) -> str:
    if found.rows is None:
        return ""
    return f": {'' if found.rows_are_exact else 'about '}{found.rows:,} rows, {sizes.shown(found.bytes or 0)}"
