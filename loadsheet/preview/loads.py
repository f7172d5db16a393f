"""What a load step would do to its staging table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from loadsheet.errors import LoadsheetError
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.extracts import Extracted
from loadsheet.preview.models import StepPreview
from loadsheet.preview.sessions import UNANSWERED, asked
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.sql.types import Column
from loadsheet.warehouse import build, drift, tables
from loadsheet.warehouse.drift import Drift
from loadsheet.warehouse.fence import Scope
from loadsheet.warehouse.load_transaction import REBUILD, column_list, drop_first, existing_columns


def preview_load(
    pipeline: Pipeline,
    table: Table,
    extracted: Extracted,
    session: Session,
    seen: Scope,
    has_schema: bool,
) -> StepPreview:
    """The load that follows `extracted`; its schema is yet to be made unless it `has_schema`."""
    found = StepPreview(id=step_id("load", table.name), changes=extracted.preview.changes)
    source = extracted.source
    if extracted.preview.fails:
        found.does, found.is_cut_off = "not reached: its extract would fail", True
    elif source is None:
        is_known = found.changes == "no"
        found.does = (
            "skipped: nothing was extracted"
            if is_known
            else "not known, as what would be extracted is not"
        )
    else:
        target = Relation(pipeline.warehouse.schema, table.name)
        _Load(found, session, target, table, source, seen, extracted).look(has_schema)
    return found


class _Load:
    def __init__(
        self,
        found: StepPreview,
        session: Session,
        target: Relation,
        table: Table,
        source: SourceTable,
        seen: Scope,
        extracted: Extracted,
    ):
        self.found, self.session, self.target, self.table = found, session, target, table
        self.source, self.seen, self.extracted = source, seen, extracted
        keyed = table.mode_with_key(bool(source.key)) != "append"
        self.key = source.key if keyed else ()
        found.action = extracted.rows.action if extracted.rows else "merge"

    def look(self, has_schema: bool) -> None:
        existing = self._existing() if has_schema else {}
        if not self.found.fails:
            if self.found.changes == "no":
                self._pending(existing)
            elif not existing:
                self._create(has_schema)
            else:
                self._keep(existing)
        if self.extracted.stops_load and self.found.changes != "no":
            self.found.error("key", f"{self.target}: {self.extracted.stops_load}")
        if self.found.fails:
            self.found.does = "would fail"
        elif (
            self.found.changes == "yes"
            and self.extracted.preview.reads_again
            and not self.found.is_rebuilt
        ):
            self.found.changes = "maybe"
            self.found.does += ", where they differ from what was loaded before"

    def _existing(self) -> dict[str, str]:
        columns: dict[str, str] = {}
        self._asked("target", lambda: columns.update(existing_columns(self.session, self.target)))
        return columns

    def _pending(self, existing: dict[str, str]) -> None:
        """Nothing arrives, so nothing is altered yet."""
        self.found.does = "skipped: nothing was extracted"
        notes = self._drift(existing).notes if existing else []
        if notes:
            self.found.tell("note", "drift", f"with the next rows: {'; '.join(notes)}")

    def _create(self, has_schema: bool) -> None:
        """The first load makes the table."""
        self.found.does, self.found.is_rebuilt = f"creates {self.target}", True
        if has_schema:
            rights.creates_in(self.found, self.session, self.target.schema)
        key = f", PRIMARY KEY ({idents(self.key)})" if self.key else ""
        columns = column_list(self.source.columns, {})
        self.found.ddl.append(
            f"CREATE TABLE {self.target.sql} ({columns}, {ident(LOAD_ID)} bigint NOT NULL{key})"
        )

    def _keep(self, existing: dict[str, str]) -> None:
        """A target that is there is swapped, altered in place, or refused."""
        changed = self._drift(existing)
        if self.table.schema_contract == "freeze":
            self._asked("drift", lambda: drift.refuse_if_frozen(self.target, changed))
        for note in changed.notes:
            self.found.tell("note", "drift", note)
        if self.found.action != "replace":
            self._asked("drift", lambda: drift.refuse_replaced(self.target, changed, REBUILD))
            alter(self.found, self.session, self.target, changed, self.key, REBUILD)
            self._merge()
            return
        rights.creates_in(self.found, self.session, self.target.schema)
        shrink(self.found, self.session, self.target, self.table, self.extracted.preview)
        if dependents := tables.dependents(self.session, self.target):
            remedy = drop_first(dependents[0])
            alter(self.found, self.session, self.target, changed, self.key, remedy)
            self._apply(dependents[0])
        else:
            swap(self.found, self.session, self.target, changed, self.key, self.source.columns)

    def _drift(self, existing: dict[str, str]) -> Drift:
        return drift.compare(self.source.columns, self.source.oid, existing, self.seen)

    def _merge(self) -> None:
        by = f" by {', '.join(self.key)}" if self.key else ""
        self.found.does = f"merged{by}" if self.found.action == "merge" else "appended"
        self._write(("SELECT", "INSERT", "UPDATE") if self.key else ("INSERT",))

    def _apply(self, dependent: str) -> None:
        self.found.does = (
            f"the difference is applied in place, because {dependent} depends on the table"
        )
        self.found.may_remove = True
        self._write(("SELECT", "INSERT", "UPDATE", "DELETE"))

    def _write(self, needed: tuple[str, ...]) -> None:
        rights.has_rights(self.found, self.session, self.target, needed)
        rights.in_database(self.found, self.session, "TEMPORARY", "create temporary tables")

    def _asked(self, code: str, question: Callable[[], Any]) -> None:
        asked(self.found, code, question)


def shrink(
    found: StepPreview, session: Session, target: Relation, table: Table, extract: StepPreview
) -> None:
    """Adds that too many rows would go, as the load would say; by the planner's guess where they
    are not counted."""
    rows, most = extract.rows, table.max_shrink
    if rows is None or most is None or not rights.has_rights(found, session, target, ["SELECT"]):
        return
    try:
        build.refuse_shrinking(session, rows, target, most)
    except LoadsheetError as error:
        guess = "" if extract.rows_are_exact else "by the planner's guess, "
        found.tell("warning" if guess else "error", "shrink", f"{guess}{error}")
    except UNANSWERED:
        found.tell("note", "shrink", f"whether {target} would shrink too much is not known")


def swap(
    found: StepPreview,
    session: Session,
    target: Relation,
    changed: Drift,
    key: tuple[str, ...],
    arriving: Sequence[Column],
) -> None:
    """All rows go into a fresh table, which takes the place of the old one."""
    found.does, found.is_rebuilt = "built beside the old table and swapped", True
    rights.owns(found, session, target, "replace")
    held = tables.key_of(session, target)
    same_key = set(held[1] if held else ()) == set(key)
    if changed.notes or changed.replaced or changed.incompatible or not same_key:
        found.does = "built anew beside the old table and swapped"
        fresh = Relation(target.schema, "_loadsheet_<number>")
        columns = column_list(arriving, changed.kept)
        found.ddl += [
            f"CREATE TABLE {fresh.sql} ({columns}, {ident(LOAD_ID)} bigint NOT NULL)",
            *([f"ALTER TABLE {fresh.sql} ADD PRIMARY KEY ({idents(key)})"] if key else []),
            f"DROP TABLE {target.sql}",
            f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}",
        ]
        for name, what in changed.incompatible.items():
            found.tell("note", "drift", f"{name} {what}: the new table has the source's type")


def alter(
    found: StepPreview,
    session: Session,
    target: Relation,
    changed: Drift,
    key: tuple[str, ...],
    remedy: str,
) -> None:
    """The target is brought up to date where it is; errors, with the `remedy`, where it cannot be."""
    asked(found, "drift", lambda: drift.refuse_incompatible(target, changed, remedy))
    asked(
        found,
        "key",
        lambda: drift.refuse_changed_key(session, target, key, remedy, changed.renamed),
    )
    clauses = [*drift.renames(changed), *drift.clauses(changed)]
    found.ddl += [f"ALTER TABLE {target.sql} {clause}" for clause in clauses]
    if clauses:
        rights.owns(found, session, target, "alter")
    before = {now: was for was, now in changed.renamed.items()}
    for column in changed.widened:
        if users := tables.users_of(session, target, before.get(column.name, column.name)):
            what = f"{target}: cannot ALTER COLUMN {ident(column.name)} TYPE {column.type}"
            found.error("drift", f"{what}: {users[0]} uses it; drop what uses it first")
