"""What the extract of one table would read, and what the source says against it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg

from loadsheet.errors import LoadsheetError
from loadsheet.lake.parts import Layout
from loadsheet.outcome import RunRequest
from loadsheet.plan.preview import Changes, StepPreview
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import columns, news, rights, sizes
from loadsheet.preview.asking import asked
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED
from loadsheet.source import catalog, fitness, holdback, identity, reading
from loadsheet.source.catalog import SourceTable
from loadsheet.source.discovery import has_relation
from loadsheet.source.reading import Reading
from loadsheet.spec.models import Incremental, Mode, Pipeline, Table
from loadsheet.sql.copying import select_columns
from loadsheet.steps.diagnosis import diagnose
from loadsheet.steps.extract import file_format, last_of
from loadsheet.warehouse.fence import Scope

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
    pipeline: Pipeline, table: Table, session: Session, warehouse: Session, seen: Scope, is_first: bool
) -> Extracted:
    """Ask the catalogs of the source, and its rows only where the answer is near at hand."""
    found = StepPreview(id=step_id("extract", table.name))
    if table.matched and not has_relation(session, pipeline.source.schema, table.name):
        found.changes, found.does = "no", "skipped: the source does not have it; what was loaded stays"
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
        self, found: StepPreview, pipeline: Pipeline, table: Table, session: Session, warehouse: Session, seen: Scope,
        is_first: bool,
    ):  # fmt: skip
        self.found, self.pipeline, self.table, self.session, self.warehouse = found, pipeline, table, session, warehouse
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
        found.action, found.lower, found.upper, found.held_by = rows.action, rows.lower, rows.upper, rows.held_by
        found.sql = select_columns(source.relation, source.columns, "" if rows.where == "TRUE" else rows.where)
        near = indexed or (source.is_table and (found.table_bytes or 0) <= sizes.SMALL_BYTES)
        sizes.estimate(found, session, source, rows, near)
        stops = columns.about_key(found, session, source, table, rows)
        found.changes = self._changes(source, rows)
        found.reads_again = not self.is_first and news.reads_again(table, source, rows, self.seen, self.warehouse)
        found.does = "would fail" if found.fails else news.told(found, table)
        return Extracted(found, source, rows, stops)

    def _changes(self, source: SourceTable, rows: Reading) -> Changes:
        if self.is_first:
            return "yes"
        if self.table.incremental:
            return news.of_increment(self.found, self.table, source)
        return news.of_whole(self.found, self.pipeline, self.session, source, rows, self.seen)

    def _decided(self, source: SourceTable) -> Reading | None:
        """What the engine itself would decide now, without its patience for open transactions."""
        found, table, spec = self.found, self.table, self.table.incremental
        if spec and spec.by == "data_interval":
            self._interval(source, spec)
            return None
        hasty = replace(table, incremental=replace(spec, hold_back=timedelta(0))) if spec else table
        last = None if self.is_first else last_of(self.seen)
        code = "hold-back" if spec else "mode"
        rows: Reading | None = asked(found, code, lambda: reading.decide(self.session, hasty, source, last, _REQUEST))
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
        self._values(source, "FALSE")  # which rows, nobody knows; the cursor is looked at in all of them
        found.does = f"rows of the run's interval by {spec.cursor}"

    def _identity(self, source: SourceTable, action: str) -> None:
        _, changes, lags = identity.observe(self.session, self.seen.source)
        changes += identity.table_changes(source, self.seen.source_oid)
        if changes and self.table.incremental and action != "replace":
            asked(self.found, "source-changed", lambda: identity.refuse(source, self.pipeline.name, changes, lags))

    def _values(self, source: SourceTable, where: str) -> None:
        """Values that the warehouse cannot hold, or that nothing can follow."""
        values = (self.session, source, self.table, where, self.warehouse)
        asked(self.found, "values", lambda: fitness.refuse_values(*values))


def _described(found: StepPreview, pipeline: Pipeline, table: Table, session: Session) -> SourceTable | None:
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
