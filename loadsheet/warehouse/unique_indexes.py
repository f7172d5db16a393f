"""Unique indexes that the user has added to a target, and rows that collide in them.

PostgreSQL checks a unique index row by row. So an UPDATE of rows that exchange their values fails,
although all values are unique in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.sql.merging import LOAD_ID, Merge
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import side_effects, tables
from loadsheet.warehouse.ledger import Effect

_BESIDES_KEY = """
SELECT i.relname, EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) AS of_constraint
FROM pg_index JOIN pg_class i ON i.oid = indexrelid
WHERE indrelid = to_regclass(%s) AND (indisunique OR indisexclusion) AND NOT indisprimary
"""
_IS_REFERENCED = """
SELECT EXISTS (SELECT FROM pg_constraint WHERE confrelid = to_regclass(%s) AND contype = 'f')
"""
NOT_UNIQUE = (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation)
"""The errors of rows that collide."""


def besides_key(session: Session, target: Relation) -> dict[str, str]:
    """The indexes that keep the target's rows unique, without the primary key: the name of each,
    and the statement that drops it."""
    found = {}
    for name, is_of_constraint in session.execute(_BESIDES_KEY, (target.sql,)):
        found[name] = f"DROP INDEX {Relation(target.schema, name).sql};"
        if is_of_constraint:
            found[name] = f"ALTER TABLE {target.sql} DROP CONSTRAINT {ident(name)};"
    return found


@contextmanager
def named(target: Relation, unique: dict[str, str]) -> Iterator[None]:
    """Within, Refused is raised when rows break one of the target's `unique` indexes, with the
    statement that drops it."""
    try:
        yield
    except NOT_UNIQUE as error:
        name = error.diag.constraint_name or ""
        if name not in unique:
            raise
        raise Refused(
            f"{target}: rows that arrive break its unique index {name}; correct the rows, or run: "
            f"{unique[name]}"
        ) from error


def exchange_rows(
    session: Session, statements: Merge, incoming: Relation, target: Relation
) -> Effect:
    """Delete all rows of the merge that differ, then insert them again with the new ones. Columns
    that do not arrive keep their values.

    Raises Refused where a foreign key refers to the target: it would be told that rows are gone;
    and where a trigger has kept rows from being inserted.
    """
    if session.execute(_IS_REFERENCED, (target.sql,)).fetchone() == (True,):
        names = ", ".join(besides_key(session, target))
        raise Refused(
            f"{target}: rows that arrive exchange values of a unique index ({names}). They would "
            "have to be deleted and inserted again, but a foreign key refers to the table: drop "
            "the unique index or the foreign key"
        )
    own = []
    for name in tables.columns_to_write(session, target):
        if name not in statements.values and (name != LOAD_ID or statements.load_no is None):
            own.append(name)
    exchanged = Relation("pg_temp", f"{incoming.name}_exchanged").sql
    session.execute(statements.keep_exchanged(exchanged, own))
    updated = session.execute(statements.delete_exchanged(exchanged)).rowcount
    missing = updated - session.execute(statements.insert_exchanged(exchanged, own)).rowcount
    inserted = 0
    if statements.adds_rows:
        inserted = session.execute(statements.insert_new()).rowcount
    triggers = side_effects.suppressing_triggers(session, target)
    if triggers and statements.adds_rows:
        missing = tables.count_rows(session, statements.lacking)
    side_effects.refuse_suppressed(target, triggers, missing)
    return Effect(inserted=inserted, updated=updated)
