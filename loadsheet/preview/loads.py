"""What the load of one table would do in the warehouse: DDL, drift, and what would stop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadsheet.errors import LoadsheetError
from loadsheet.plan.preview import StepPreview
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.extracts import Extracted
from loadsheet.source.catalog import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.warehouse import drift, tables
from loadsheet.warehouse.drift import Drift
from loadsheet.warehouse.fence import Scope
from loadsheet.warehouse.load import REBUILD, column_list, drop_first, existing_columns


def preview_load(
    pipeline: Pipeline, table: Table, extracted: Extracted, session: Session, seen: Scope, has_schema: bool
) -> StepPreview:
    """The load that follows `extracted`."""
    found = StepPreview(id=step_id("load", table.name), changes=extracted.preview.changes)
    source = extracted.source
    if extracted.preview.fails or source is None:
        found.changes, found.does, found.is_cut_off = "no", "not reached: its extract would fail", True
        return found
    work = _Load(found, session, Relation(pipeline.warehouse.schema, table.name), table, source, seen)
    action = found.action = extracted.rows.action if extracted.rows else "merge"
    existing = work.existing() if has_schema else {}
    if found.fails:
        found.does = "would fail"
        return found
    if found.changes == "no":
        work.pending(existing)
    elif not existing:
        work.create()
    else:
        work.keep(action, existing)
    found.does = "would fail" if found.fails else found.does
    return found


class _Load:
    def __init__(
        self, found: StepPreview, session: Session, target: Relation, table: Table, source: SourceTable, seen: Scope
    ):
        self.found, self.session, self.target, self.table = found, session, target, table
        self.source, self.seen = source, seen
        keyed = table.mode_with_key(bool(source.key)) != "append"
        self.key = source.key if keyed else ()

    def existing(self) -> dict[str, str]:
        columns: dict[str, str] = {}
        self._refusing("target", lambda: columns.update(existing_columns(self.session, self.target)))
        return columns

    def pending(self, existing: dict[str, str]) -> None:
        """Nothing arrives, so nothing is altered yet."""
        self.found.does = "skipped: nothing was extracted"
        notes = self._drift(existing).notes if existing else []
        if notes:
            self.found.tell("note", "drift", f"with the next rows: {'; '.join(notes)}")

    def create(self) -> None:
        """The first load makes the table."""
        self.found.does = f"creates {self.target}"
        key = f", PRIMARY KEY ({idents(self.key)})" if self.key else ""
        columns = column_list(self.source.columns, {})
        self.found.ddl.append(f"CREATE TABLE {self.target.sql} ({columns}, {ident(LOAD_ID)} bigint NOT NULL{key})")

    def keep(self, action: str, existing: dict[str, str]) -> None:
        """A target that is there is swapped, altered in place, or refused."""
        changed = self._drift(existing)
        if self.table.schema_contract == "freeze":
            self._refusing("drift", lambda: drift.refuse_if_frozen(self.target, changed))
        for note in changed.notes:
            self.found.tell("note", "drift", note)
        dependents = tables.dependents(self.session, self.target)
        if action == "replace" and not dependents:
            self._swap(changed)
            return
        remedy = drop_first(dependents[0]) if action == "replace" else REBUILD
        if action != "replace":
            self._refusing("drift", lambda: drift.refuse_replaced(self.target, changed, remedy))
        self._refusing("drift", lambda: drift.refuse_incompatible(self.target, changed, remedy))
        self._refusing(
            "key", lambda: drift.refuse_changed_key(self.session, self.target, self.key, remedy, changed.renamed)
        )
        self._alter(changed)
        self._rights(action, dependents)

    def _drift(self, existing: dict[str, str]) -> Drift:
        return drift.compare(self.source.columns, self.source.oid, existing, self.seen)

    def _swap(self, changed: Drift) -> None:
        self.found.does = "built beside the old table and swapped"
        rights.owns(self.found, self.session, self.target, "replace")
        held = tables.key_of(self.session, self.target)
        same_key = set(held[1] if held else ()) == set(self.key)
        if changed.notes or changed.replaced or changed.incompatible or not same_key:
            self.found.does = "built anew beside the old table and swapped"
            fresh = Relation(self.target.schema, "_loadsheet_<number>")
            columns = column_list(self.source.columns, changed.kept)
            self.found.ddl += [
                f"CREATE TABLE {fresh.sql} ({columns}, {ident(LOAD_ID)} bigint NOT NULL)",
                *([f"ALTER TABLE {fresh.sql} ADD PRIMARY KEY ({idents(self.key)})"] if self.key else []),
                f"DROP TABLE {self.target.sql}",
                f"ALTER TABLE {fresh.sql} RENAME TO {ident(self.target.name)}",
            ]
            for name, what in changed.incompatible.items():
                self.found.tell("note", "drift", f"{name} {what}: the new table has the source's type")

    def _alter(self, changed: Drift) -> None:
        renames = [f"RENAME COLUMN {ident(old)} TO {ident(new)}" for old, new in changed.renamed.items()]
        self.found.ddl += [f"ALTER TABLE {self.target.sql} {what}" for what in (*renames, *drift.clauses(changed))]
        if self.found.ddl:
            rights.owns(self.found, self.session, self.target, "alter")

    def _rights(self, action: str, dependents: list[str]) -> None:
        by = f" by {', '.join(self.key)}" if self.key else ""
        writes = ["SELECT", "INSERT", *(["UPDATE"] if self.key else [])]
        if action == "replace":
            self.found.does = f"the difference is applied in place, because {dependents[0]} depends on the table"
            writes += ["DELETE"]
        else:
            self.found.does = f"merged{by}" if action == "merge" else "appended"
        rights.has_rights(self.found, self.session, self.target, writes)
        rights.in_database(self.found, self.session, "TEMPORARY", "create temporary tables")

    def _refusing(self, code: str, question: Callable[[], Any]) -> None:
        try:
            question()
        except LoadsheetError as error:
            self.found.error(code, str(error))
