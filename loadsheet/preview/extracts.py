"""What an extract step would read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg

from loadsheet.engine import deletes
from loadsheet.engine.attempt import last_of
from loadsheet.engine.diagnosis import told
from loadsheet.engine.reading import file_format
from loadsheet.errors import LoadsheetError
from loadsheet.lake.parts import Layout
from loadsheet.outcome import RunRequest
from loadsheet.pinned import PinnedSession
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import columns, rights, sizes
from loadsheet.preview.models import Changes, StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED, ask
from loadsheet.source import catalog, fitness, identity, selection, window, zones
from loadsheet.source.discovery import has_relation
from loadsheet.source.rows import Last, Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode, Pipeline, Table
from loadsheet.sql.copying import select_columns
from loadsheet.sql.extensions import Offered, is_known
from loadsheet.sql.text import Relation
from loadsheet.sql.types import TIME_TYPES, without_modifier
from loadsheet.warehouse import adopt, extensions, integrity
from loadsheet.warehouse.integrity import Change
from loadsheet.warehouse.scope import Scope, held_by
from loadsheet.wording import counted

_REQUEST = RunRequest(run_id="plan")


@dataclass(frozen=True)
class ExtractPreview:
    """What the preview of the load needs to know about its extract."""

    step: StepPreview
    source: SourceTable | None = None
    """None where it is not known."""
    to_read: Selection | None = None
    """None where it is not known."""
    stops_load: str = ""
    """Why the load of these rows would fail."""


def preview_extract(
    pipeline: Pipeline,
    table: Table,
    session: PinnedSession,
    warehouse: Session,
    scope: Scope,
    is_first: bool,
    other: str | None,
) -> ExtractPreview:
    """What the extract of the table would read.

    `session` is one of the source; its rows are read only where that is quick. `other` is the
    pipeline that has loaded the target before, where this one never has. Raises psycopg's
    errors only when a session is lost.
    """
    preview = StepPreview(id=step_id("extract", table.name))
    if table.matched and not has_relation(session, pipeline.source.schema, table.name):
        preview.changes = "no"
        preview.does = "skipped: the source does not have it; what was loaded stays"
        return ExtractPreview(preview)
    extract = _ExtractPreviewer(
        preview, pipeline, table, session, warehouse, scope, is_first, other
    )
    try:
        return extract.run()
    except UNANSWERED:
        preview.does = f"what it would read is {NOT_KNOWN}"
    except psycopg.Error as error:
        if session.broken or warehouse.broken:
            raise
        preview.add_error("source", told(error))
        preview.does = "would fail"
    return ExtractPreview(preview)


class _ExtractPreviewer:
    """Asks the engine's own questions in the engine's order, and notes where it would fail."""

    def __init__(
        self,
        preview: StepPreview,
        pipeline: Pipeline,
        table: Table,
        session: PinnedSession,
        warehouse: Session,
        scope: Scope,
        is_first: bool,
        other: str | None,
    ):
        self.preview = preview
        self.pipeline = pipeline
        self.table = table
        self.session = session
        self.warehouse = warehouse
        self.scope = scope
        self.is_first = is_first
        self.other = other

    def run(self) -> ExtractPreview:
        """Fill in the preview."""
        preview, session, table = self.preview, self.session, self.table
        # Everything below needs the catalog's description and the right to read the table.
        source = self._describe()
        if source is None or not rights.may_read(preview, session, source):
            preview.does = "would fail"
            return ExtractPreview(preview)
        ask(preview, "format", lambda: self._refuse_format(source))
        ask(preview, "deletes", lambda: deletes.refuse_unfit(table, source))
        self._note_texts(source)
        # First, because the check of the cursor and the estimates depend on it.
        is_changed = self._is_target_changed()
        self._check_name(source)
        preview.table_rows, preview.table_bytes = sizes.table_size(session, source)
        has_index = columns.check_cursor(preview, session, source, table)
        to_read = self._decide(source)
        if to_read is None:
            if preview.fails:
                preview.does = "would fail"
            return ExtractPreview(preview, source)
        self._check_identity(source, to_read.action, to_read.facts)
        last = self._last()
        ask(
            preview,
            "hold-back",
            lambda: selection.refuse_sequence_set_back(session, table, source, to_read, last),
        )
        self._check_values(source, to_read.where)
        preview.action = to_read.action
        preview.lower = to_read.lower
        preview.upper = to_read.upper
        preview.held_by = to_read.held_by
        where = "" if to_read.where == "TRUE" else to_read.where
        preview.sql = select_columns(source.relation, source.columns, where)
        # With an index on the cursor, the server counts the new rows without reading the others.
        is_small = source.is_table and (preview.table_bytes or 0) <= sizes.COUNTED_BYTES
        sizes.estimate_rows(preview, session, source, to_read, count=has_index or is_small)
        stops_load = columns.check_key(preview, session, source, table, to_read)
        must_fill = table.fill is not None and self.scope.unfilled is not None
        if self.is_first or is_changed or must_fill:
            preview.changes = "yes"
        elif table.incremental:
            preview.changes = self._has_new_rows(source, table.incremental)
        else:
            preview.changes = self._has_new_content(source, to_read)
        preview.reads_again = not self.is_first and self._may_be_loaded_already(source, to_read)
        preview.does = "would fail" if preview.fails else self._text()
        if table.deletes and not self.is_first and to_read.action == "merge":
            # How many are gone, only a comparison of all keys tells.
            preview.does += "; searches for deleted rows"
            if preview.changes == "no":
                preview.changes = "maybe"
        return ExtractPreview(preview, source, to_read, stops_load)

    def _describe(self) -> SourceTable | None:
        """The table as its catalog describes it; None, and an error for every wrong name in the
        spec, if that fails."""
        schema, table = self.pipeline.source.schema, self.table
        last = catalog.last_read(self.scope.source_oid, self.scope.columns)
        source: SourceTable | None = ask(
            self.preview,
            "catalog",
            lambda: catalog.describe(self.session, schema, table, self._ask_types, last),
        )
        if source:
            return source
        # The refusal names one column. Without the spec's columns, all of them can be looked up.
        without_columns = replace(table, include=(), exclude=(), primary_key=(), incremental=None)
        try:
            whole = catalog.describe(self.session, schema, without_columns, self._ask_types)
        except LoadsheetError:
            return None
        names = [*table.include, *table.exclude, *table.primary_key]
        if table.incremental:
            names.append(table.incremental.cursor)
        for name in dict.fromkeys(names):
            ask(self.preview, "catalog", lambda name=name: whole.column(name))  # type: ignore[misc]
        return None

    def _ask_types(self) -> Offered:
        target = Relation(self.pipeline.warehouse.schema, self.table.name)
        return extensions.offered(self.warehouse, self.pipeline, target, in_full=False)

    def _note_texts(self, source: SourceTable) -> None:
        """Add a note for each column that would land as itself if the warehouse had its type."""
        for column in source.columns:
            nature = source.natures[column.name]
            if not column.cast or not is_known(nature.extension, nature.element):
                continue
            message = (
                f"{column.name} ({column.source_type}) lands as {column.type}. It lands as itself"
                f" if the warehouse has the extension {nature.extension} at the first load or at a"
                " full refresh, the column is not part of the key, and lake.format is not binary"
            )
            self.preview.add_remark("note", "extension", message)

    def _last(self) -> Last | None:
        if self.is_first:
            return None
        target = Relation(self.pipeline.warehouse.schema, self.table.name)
        return last_of(self.warehouse, self.pipeline.name, target, self.scope)

    def _refuse_format(self, source: SourceTable) -> None:
        """Raises what the engine would raise if the columns cannot be stored in the format."""
        Layout(file_format(self.pipeline, source), source.columns, source.key).encoder()

    def _decide(self, source: SourceTable) -> Selection | None:
        """What the engine would decide to read now; None if that is not known.

        The engine waits for open transactions, the preview does not.
        """
        preview, table, spec = self.preview, self.table, self.table.incremental
        if spec and spec.by == "data_interval":
            self._preview_interval(source, spec)
            return None
        code = "mode"
        if spec:
            code = "hold-back"
            table = replace(table, incremental=replace(spec, hold_back=timedelta(0)))
        last = self._last()
        to_read: Selection | None = ask(
            preview,
            code,
            lambda: selection.decide(self.session, table, source, last, _REQUEST),
        )
        if to_read is None and not preview.fails:
            preview.does = "all rows"
            if spec:
                preview.does = f"rows by {spec.cursor}; their number is not known"
        return to_read

    def _preview_interval(self, source: SourceTable, spec: Incremental) -> None:
        """What can be checked without a data interval, which only a run has."""
        preview = self.preview
        mode: Mode | None = ask(preview, "mode", lambda: selection.refuse_mode(self.table, source))
        if mode:
            ask(preview, "mode", lambda: window.refuse_appended_interval(source, mode))
        last = self._last()
        ask(
            preview,
            "hold-back",
            lambda: selection.refuse_changed_cursor(source, spec, last),
        )
        ask(
            preview,
            "hold-back",
            lambda: window.refuse_unseen_writers(self.session, source, spec),
        )
        ask(
            preview,
            "hold-back",
            lambda: selection.refuse_unknown_zone(self.session, source, spec),
        )
        self._check_identity(source, "merge", zones.facts(source, spec))
        # No row's values are checked, because the rows are not known; the cursor is, in all rows.
        self._check_values(source, "FALSE")
        preview.does = f"rows of the run's interval by {spec.cursor}"

    def _is_target_changed(self) -> bool:
        """Whether the target is no longer what its loads left; adds an error where that stops the
        extract."""
        target = Relation(self.pipeline.warehouse.schema, self.table.name)
        if self.is_first:
            return False
        if not rights.has_privileges(self.preview, self.warehouse, target, ("SELECT",)):
            return False
        change: Change | None = ask(
            self.preview,
            "target-changed",
            lambda: integrity.observe(self.warehouse, target, self.scope.storage)[1],
        )
        if change is None:
            return False
        self.preview.add_remark("note", "target-changed", f"{target} {change.what}")
        is_first = ask(
            self.preview,
            "target-changed",
            lambda: integrity.is_first_load(
                target, self.pipeline, self.table, change, explicit_interval=False
            ),
        )
        self.is_first = bool(is_first)
        return True

    def _check_name(self, source: SourceTable) -> None:
        """Tell of a target that another pipeline has loaded, and this one never has; add an error
        where that stops the extract."""
        if self.other is None:
            return
        other, name = self.other, self.pipeline.name
        target = Relation(self.pipeline.warehouse.schema, self.table.name)
        is_appended = self.table.mode_with_key(bool(source.key)) == "append"
        errors = len(self.preview.remarks)
        if is_appended and rights.has_privileges(self.preview, self.warehouse, target, ["SELECT"]):
            ask(
                self.preview,
                "renamed",
                lambda: adopt.refuse_first_append(self.warehouse, target, other, name),
            )
        if len(self.preview.remarks) == errors:
            self.preview.add_remark(
                "note", "renamed", adopt.note(target, other, name, self.table, _REQUEST)
            )

    def _check_identity(self, source: SourceTable, action: str, facts: Mapping[str, str]) -> None:
        """Add an error if the source is not the one that the watermark was read from."""
        scope = self.scope
        difference = identity.see(self.session).since(scope.source or {})
        changes = identity.table_changes(source, scope.source_oid, scope.source, facts)
        changes = [*difference.changes, *changes]
        if changes and self.table.incremental and action != "replace":
            ask(
                self.preview,
                "source-changed",
                lambda: identity.refuse(source, self.pipeline.name, changes, difference.lags),
            )

    def _check_values(self, source: SourceTable, where: str) -> None:
        """Add an error for values that the warehouse cannot hold, and for a cursor that nothing can
        follow."""
        ask(
            self.preview,
            "values",
            lambda: fitness.refuse_values(self.session, source, self.table, where, self.warehouse),
        )

    def _has_new_rows(self, source: SourceTable, spec: Incremental) -> Changes:
        preview = self.preview
        # The planner estimates at least one row, so its estimate does not show that there is none.
        if not preview.rows_are_exact:
            return "maybe"
        if preview.rows:
            return "yes"
        # A run that waits for the transactions that hold the rows back may find some.
        is_time = without_modifier(source.column(spec.cursor).type) in TIME_TYPES
        is_merged = self.table.mode_with_key(bool(source.key)) == "merge"
        run_waits = not (is_time and is_merged)
        return "maybe" if preview.held_by and run_waits else "no"

    def _has_new_content(self, source: SourceTable, to_read: Selection) -> Changes:
        """Whether the content differs from the last load's, if it is small enough to compare."""
        is_large = (self.preview.table_bytes or 0) > sizes.COMPARED_BYTES
        if self.preview.fails or is_large or not source.is_table:
            return "maybe"
        try:
            content = sizes.content_sha256(self.pipeline, self.session, source, to_read)
        except UNANSWERED:
            return "maybe"
        return "no" if self.scope.has_content(content, to_read.action) else "yes"

    def _may_be_loaded_already(self, source: SourceTable, to_read: Selection) -> bool:
        """Whether all rows to read may be loaded already, unchanged, so that nothing changes."""
        scope, spec = self.scope, self.table.incremental
        if not spec:
            # The content's hash covers the columns, and was not always recorded.
            before = {column["name"]: column["type"] for column in scope.columns or ()}
            now = {column.name: column.type for column in source.columns}
            return scope.content_sha256 is None or before != now
        if to_read.action != "merge":
            return False
        if scope.watermark is None or spec.lookback is not None or spec.nulls == "include":
            return True
        if to_read.repeats and to_read.upper == scope.watermark:
            return True
        # The watermark of a cursor of whole seconds stays below the current second, which may still
        # get rows, so its newest rows are read again.
        cursor_type = source.column(spec.cursor).type
        is_coarse = cursor_type != zones.TIMESTAMPTZ and without_modifier(cursor_type) in TIME_TYPES
        return is_coarse or held_by(self.warehouse, scope) != ""

    def _text(self) -> str:
        """What the extract would read, for people."""
        preview, spec = self.preview, self.table.incremental
        if not spec:
            if preview.changes == "no":
                return "nothing new: its content is as it was loaded"
            if_different = "; loaded if they differ" if preview.changes == "maybe" else ""
            return f"all rows{self._size_text()}{if_different}"
        if preview.changes == "no":
            return f"nothing new since {spec.cursor} {preview.lower}"
        rows = "all rows"
        if preview.lower is not None:
            rows = f"rows of {spec.cursor} above {preview.lower}"
        if preview.held_by and not preview.rows:
            return f"{rows}, when the transactions that hold them back have ended"
        return f"{rows}{self._size_text()}"

    def _size_text(self) -> str:
        preview = self.preview
        if preview.rows is None:
            return ""
        about = "" if preview.rows_are_exact else "about "
        return f": {about}{counted(preview.rows, 'row')}, {sizes.size_text(preview.bytes or 0)}"
