"""What becomes of a staging table that is there: the DDL, what forbids it, and what a load would refuse."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.errors import LoadsheetError
from loadsheet.plan.preview import StepPreview
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.asking import asked
from loadsheet.preview.sessions import UNANSWERED
from loadsheet.spec.models import Table
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.sql.types import Column
from loadsheet.warehouse import build, drift, tables
from loadsheet.warehouse.drift import Drift
from loadsheet.warehouse.load import column_list


def shrink(found: StepPreview, session: Session, target: Relation, table: Table, extract: StepPreview) -> None:
    """Adds that too many rows would go, as the load would say; by the planner's guess where they are not counted."""
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
    found: StepPreview, session: Session, target: Relation, changed: Drift, key: tuple[str, ...],
    arriving: Sequence[Column],
) -> None:  # fmt: skip
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
    found: StepPreview, session: Session, target: Relation, changed: Drift, key: tuple[str, ...], remedy: str
) -> None:
    """The target is brought up to date where it is; errors, with the `remedy`, where it cannot be."""
    asked(found, "drift", lambda: drift.refuse_incompatible(target, changed, remedy))
    asked(found, "key", lambda: drift.refuse_changed_key(session, target, key, remedy, changed.renamed))
    clauses = [*drift.renames(changed), *drift.clauses(changed)]
    found.ddl += [f"ALTER TABLE {target.sql} {clause}" for clause in clauses]
    if clauses:
        rights.owns(found, session, target, "alter")
    before = {now: was for was, now in changed.renamed.items()}
    for column in changed.widened:
        if users := tables.users_of(session, target, before.get(column.name, column.name)):
            what = f"{target}: cannot ALTER COLUMN {ident(column.name)} TYPE {column.type}"
            found.error("drift", f"{what}: {users[0]} uses it; drop what uses it first")
