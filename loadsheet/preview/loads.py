"""What a load step would do to its staging table."""

from __future__ import annotations

from loadsheet.errors import LoadsheetError
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.extracts import ExtractPreview
from loadsheet.preview.models import StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED, ask
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.merging import DELETED_AT, LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.warehouse import apply, belongings, drift, gone, side_effects, tables
from loadsheet.warehouse.arrival import column_definitions
from loadsheet.warehouse.drift import Drift
from loadsheet.warehouse.foreseeing import (
    FULL_REFRESH_REMEDY,
    existing_columns,
    refuse_too_many_columns,
)
from loadsheet.warehouse.gone import keeps_deleted
from loadsheet.warehouse.scope import Scope
from loadsheet.warehouse.side_effects import NO_KEY
from loadsheet.wording import listed


def preview_load(
    pipeline: Pipeline,
    table: Table,
    extract: ExtractPreview,
    session: Session,
    scope: Scope,
    has_schema: bool,
) -> StepPreview:
    """What the load that follows `extract` would do. `session` is one of the warehouse.

    `has_schema` tells whether the staging schema exists already.
    """
    preview = StepPreview(id=step_id("load", table.name), changes=extract.step.changes)
    if extract.step.fails:
        preview.does = "not reached: its extract would fail"
        preview.is_cut_off = True
    elif extract.source is None and preview.changes == "no":
        preview.does = "skipped: nothing was extracted"
    elif extract.source is None:
        preview.does = "not known, because what would be extracted is not known"
    else:
        target = Relation(pipeline.warehouse.schema, table.name)
        load = LoadPreviewer(preview, session, target, table, extract.source, scope, extract)
        load.run(has_schema)
    return preview


class LoadPreviewer:
    """Compares what would arrive with the target, as the load itself does."""

    def __init__(
        self,
        preview: StepPreview,
        session: Session,
        target: Relation,
        table: Table,
        source: SourceTable,
        scope: Scope,
        extract: ExtractPreview,
    ):
        self.preview = preview
        self.session = session
        self.target = target
        self.table = table
        self.source = source
        self.scope = scope
        self.extract = extract
        is_appended = table.mode_with_key(bool(source.key)) == "append"
        self.key = () if is_appended else source.key
        preview.action = extract.to_read.action if extract.to_read else "merge"

    def run(self, has_schema: bool) -> None:
        """Fill in the preview."""
        preview = self.preview
        existing: dict[str, str] = {}
        if has_schema:
            known_columns = ask(
                preview, "target", lambda: existing_columns(self.session, self.target)
            )
            existing = known_columns or {}
        if preview.changes == "no" and not preview.fails:
            self._skip(self._compare_columns(existing) if existing else None)
            return
        if existing:
            self._change_target(existing)
        elif not preview.fails:
            self._create_target(has_schema)
        # Also for a target that cannot be used, so that the plan shows all errors at once.
        if self.extract.stops_load and preview.changes != "no":
            preview.add_error("key", f"{self.target}: {self.extract.stops_load}")
        if preview.fails:
            preview.does = "would fail"
            return
        # A swap writes a new table even if every row is the same; a merge then changes nothing.
        may_be_loaded_already = self.extract.step.reads_again and not preview.is_rebuilt
        if preview.changes == "yes" and may_be_loaded_already:
            preview.changes = "maybe"
            preview.does += ", where they differ from what was loaded before"

    def skip(self, existing: dict[str, str]) -> None:
        """Fill in the preview of a load that nothing arrives for, where the target's columns are
        known, and none is of a domain."""
        columns, oid = self.source.columns, self.source.oid
        self._skip(drift.compare_columns(columns, oid, existing, self.scope))

    def _skip(self, changed: Drift | None) -> None:
        # Nothing arrives, so nothing is altered before the next rows do.
        self.preview.does = "skipped: nothing was extracted"
        notes = "; ".join(self._notes(changed)) if changed else ""
        if notes:
            self.preview.add_remark("note", "drift", f"with the next rows: {notes}")

    def _create_target(self, has_schema: bool) -> None:
        """The first load creates the table."""
        self.preview.does = f"creates {self.target}"
        self.preview.is_rebuilt = True
        if has_schema:
            rights.may_create_in(self.preview, self.session, self.target.schema)
        key = f", PRIMARY KEY ({idents(self.key)})" if self.key else ""
        columns = self._staging_columns({})
        self.preview.ddl.append(f"CREATE TABLE {self.target.sql} ({columns}{key})")
        self.preview.columns = (*(column.name for column in self.source.columns), LOAD_ID)

    def _change_target(self, existing: dict[str, str]) -> None:
        """An existing target is swapped, changed in place, or refused."""
        preview = self.preview
        changed = self._compare_columns(existing)
        if self.table.schema_contract == "freeze":
            ask(preview, "drift", lambda: drift.refuse_if_frozen(self.target, changed))
        for note in self._notes(changed):
            preview.add_remark("note", "drift", note)
        # What a swap makes new and what an increment alters has the same columns in the end.
        arriving = tuple(column.name for column in self.source.columns)
        preview.columns = (*arriving, *changed.kept, LOAD_ID)
        preview.renamed = changed.renamed
        preview.dropped = changed.dropped
        columns = self.source.columns
        ask(preview, "drift", lambda: drift.refuse_misfits(self.target, changed, columns))
        unfit = drift.refuse_unfit
        ask(
            preview,
            "drift",
            lambda: unfit(self.session, self.target, changed, columns, self.key),
        )
        ask(preview, "drift", self._refuse_too_many_columns)
        if preview.action == "replace":
            self._replace_target(changed)
            return
        # An increment leaves most rows as they are, so its columns must be those of older rows.
        remedy = FULL_REFRESH_REMEDY
        refuse = drift.refuse_replaced_columns
        ask(preview, "drift", lambda: refuse(self.target, changed, remedy))
        self._alter_target(changed, remedy)
        unfilled = self.scope.unfilled
        if unfilled and self.table.fill and preview.action == "merge":
            names = ", ".join(unfilled.names(self.scope.columns or ()))
            preview.add_remark("note", "drift", f"fills {names} in older rows after the load")
        if preview.action == "merge":
            by_key = f" by {', '.join(self.key)}" if self.key else ""
            preview.does = f"merged{by_key}"
        else:
            preview.does = "appended"
        # A merge also reads the target, to leave rows that have not changed alone.
        privileges: tuple[str, ...] = ("INSERT",)
        if self.key:
            privileges = ("SELECT", "INSERT", "UPDATE")
        if preview.action == "merge" and self.table.deletes:
            preview.may_remove = self.table.deletes.removes
            if self.table.deletes.action == "hard":
                privileges += ("DELETE",)
                self._warn_of_deletes()
        self._check_write(privileges)

    def _warn_of_deletes(self) -> None:
        effects = side_effects.of_deletes(self.session, self.target)
        if effects:
            self.preview.add_remark(
                "warning",
                "deletes",
                f"when deleted rows leave {self.target}, {listed(effects)}",
            )

    def _refuse_too_many_columns(self) -> None:
        refuse_too_many_columns(
            self.session,
            self.target,
            self.source.columns,
            self.source.oid,
            self.scope,
            self.preview.action or "merge",
        )

    def _compare_columns(self, existing: dict[str, str]) -> Drift:
        columns, oid = self.source.columns, self.source.oid
        arrives = DELETED_AT in (column.name for column in columns)
        if not (arrives or keeps_deleted(self.table)) and gone.had_marks(self.session, self.target):
            existing = {name: kind for name, kind in existing.items() if name != DELETED_AT}
        domains = tables.domains_of(self.session, self.target)
        return drift.compare_columns(columns, oid, existing, self.scope, domains)

    def _notes(self, changed: Drift) -> list[str]:
        to_read, action = self.extract.to_read, self.preview.action
        is_merged = action == "merge"
        # A load of a table that is copied whole has this action even where nothing arrives now.
        is_copied_whole = self.table.mode_with_key(bool(self.source.key)) == "replace"
        is_merged_whole = is_merged and to_read is not None and to_read.are_all
        all_arrive = is_copied_whole or action == "replace" or is_merged_whole
        is_filled = self.table.fill == "auto" and self.source.key_is_enforced
        return changed.notes(all_arrive, fills=is_filled and is_merged)

    def _replace_target(self, changed: Drift) -> None:
        """All rows arrive. They replace the table, or change it in place if something depends on
        it."""
        preview = self.preview
        self._check_shrinking()
        session, target = self.session, self.target
        # Whether these columns have values is read from the rows.
        if (changed.own or changed.clashing) and not rights.has_privileges(
            preview, session, target, ("SELECT",)
        ):
            return
        ask(preview, "drift", lambda: drift.refuse_misplaced(session, target, changed))
        key = self.key or None
        obstacles = ask(
            preview,
            "target",
            lambda: [
                *belongings.obstacles(session, target, changed.own, key),
                *drift.given_by_others(session, target, changed, self.scope, self.key),
            ],
        )
        if keeps_deleted(self.table):
            self._alter_target(changed, FULL_REFRESH_REMEDY)
            preview.does = "the difference is applied in place, because deleted rows stay"
            self._check_write(("SELECT", "INSERT", "UPDATE"))
            return
        if obstacles is None:
            preview.does = f"how its rows would be replaced is {NOT_KNOWN}"
            return
        if not obstacles:
            self._swap_target(changed)
            return
        self._alter_target(changed, obstacles[0].remedy)
        if not self.key:
            ask(preview, "target", lambda: side_effects.refuse_referring(session, target, NO_KEY))
        preview.does = f"the difference is applied in place, because {obstacles[0].reason}"
        preview.may_remove = True
        self._check_write(("SELECT", "INSERT", "UPDATE", "DELETE"))

    def _check_write(self, privileges: tuple[str, ...]) -> None:
        rights.has_privileges(self.preview, self.session, self.target, privileges)
        # An increment arrives in a temporary table, and a merge keeps the rows to change in one.
        rights.check_database(self.preview, self.session, "TEMPORARY", "create temporary tables")

    def _check_shrinking(self) -> None:
        """Add an error if too many rows would be lost, as the load would refuse it; a warning if
        the number of rows is an estimate."""
        preview, target = self.preview, self.target
        extract, max_shrink = self.extract.step, self.table.max_shrink
        if extract.rows is None:
            return
        # The load counts the target's rows, and so does the check below.
        if not rights.has_privileges(preview, self.session, target, ["SELECT"]):
            return
        try:
            apply.refuse_shrinking(self.session, extract.rows, target, max_shrink)
        except LoadsheetError as error:
            if extract.rows_are_exact:
                preview.add_remark("error", "shrink", str(error))
            else:
                preview.add_remark("warning", "shrink", f"by the planner's estimate, {error}")
        except UNANSWERED:
            message = f"whether {target} would shrink too much is not known"
            preview.add_remark("note", "shrink", message)

    def _swap_target(self, changed: Drift) -> None:
        """All rows go into a fresh table, which then takes the place of the old one."""
        preview, target, key = self.preview, self.target, self.key
        preview.does = "built next to the old table and swapped in"
        preview.is_rebuilt = True
        rights.may_create_in(preview, self.session, target.schema)
        primary_key = tables.primary_key_of(self.session, target)
        old_key = primary_key[1] if primary_key else ()
        columns_differ = self._notes(changed) or changed.replaced or changed.incompatible
        # After a swap with unchanged columns the catalog looks the same, so no DDL is shown.
        if not columns_differ and set(old_key) == set(key):
            return
        preview.does = "built with its new columns and key next to the old table and swapped in"
        fresh = Relation(target.schema, "_loadsheet_<number>")
        preview.ddl.append(f"CREATE TABLE {fresh.sql} ({self._staging_columns(changed.kept)})")
        if key:
            preview.ddl.append(f"ALTER TABLE {fresh.sql} ADD PRIMARY KEY ({idents(key)})")
        preview.ddl.append(f"DROP TABLE {target.sql}")
        preview.ddl.append(f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}")
        for name, what in changed.incompatible.items():
            message = f"{name} {what}: the new table has the source's type"
            preview.add_remark("note", "drift", message)

    def _staging_columns(self, kept: dict[str, str]) -> str:
        """The columns of CREATE TABLE, with Loadsheet's own at the end."""
        columns = column_definitions(self.source.columns, kept)
        return f"{columns}, {ident(LOAD_ID)} bigint NOT NULL"

    def _alter_target(self, changed: Drift, remedy: str) -> None:
        """The target's columns are altered in place; errors, with the `remedy`, where they cannot
        be."""
        preview, session, target = self.preview, self.session, self.target
        ask(preview, "drift", lambda: drift.refuse_incompatible_columns(target, changed, remedy))
        ask(preview, "drift", lambda: drift.refuse_attached(session, target, changed))
        ask(
            preview,
            "key",
            lambda: drift.refuse_changed_key(session, target, self.key, remedy, changed.renamed),
        )
        clauses = [*drift.rename_clauses(changed), *drift.alter_clauses(changed)]
        preview.ddl += [f"ALTER TABLE {target.sql} {clause}" for clause in clauses]
        if clauses:
            rights.check_owner(preview, session, target, "alter")
        # The catalog still has the old name of a column that is renamed and widened.
        old_names = {new: old for old, new in changed.renamed.items()}
        for column in changed.widened:
            old_name = old_names.get(column.name, column.name)
            dependents = tables.column_dependents(session, target, old_name)
            if dependents:
                clause = f"ALTER COLUMN {ident(column.name)} TYPE {column.type}"
                preview.add_error(
                    "drift",
                    f"{target}: cannot {clause}: {dependents[0]} uses it; drop what uses it first",
                )
