"""Writes the rows that arrived into a target that keeps its others: merges them by key, fills
columns, or appends them."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

import psycopg

from loadsheet.errors import Overtaken, Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql import merging
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import lookups, side_effects, tables, unique_indexes
from loadsheet.warehouse.ledger import Effect
from loadsheet.warehouse.lookups import Access, IndexLookup

_log = logging.getLogger(__name__)


def merge(
    session: Session,
    incoming: Relation,
    target: Relation,
    key: tuple[str, ...],
    load_no: int | None,
    guard: str = "",
    *,
    adds_rows: bool = True,
    arrived: int | None = None,
) -> Effect:
    """Insert or update the rows of `incoming` by key, touching only rows that differ. Only update
    those that the target has, unless it `adds_rows`.

    `guard` is an SQL condition that a row must also meet to be updated; `arrived` is the number of
    rows in `incoming`, where it is known.
    """
    known = tables.look_before_merge(session, incoming, target)
    has_key = set(known.key) == set(key)
    if has_key:
        key = known.key
    statements = merging.Merge(
        target=target.sql,
        source=incoming.sql,
        changed=Relation("pg_temp", f"{incoming.name}_changed").sql,
        key=key,
        values=_values_in_target_types(known.arriving, known.types, load_no),
        types=known.types,
        long=known.long,
        # Copying a long value takes longer than looking its key up again
        # (docs/performance-merging.md).
        keeps_new=adds_rows and not (known.long and known.is_mostly_long),
        adds_rows=adds_rows,
        load_no=load_no,
        guard=guard,
    )
    is_counted = arrived is not None
    if arrived is None:
        lookups.analyze_key(session, incoming, key)
        arrived = tables.size_of(session, incoming).rows
    size = known.size if has_key else None
    access = lookups.choose(session, incoming, target, statements.order, arrived, size)
    if is_counted and not access.by_index:
        # Only for the planner: ANALYZE takes a tenth of the time of a small merge.
        lookups.analyze_key(session, incoming, key)
    if access.by_index and known.takes_merge:
        effect = _merge_at_once(session, statements, target, known, access)
    else:
        effect = _merge_in_steps(session, statements, incoming, target, access)
    reach("merge.written")
    return effect


def _merge_at_once(
    session: Session,
    statements: merging.Merge,
    target: Relation,
    known: tables.Merging,
    access: Access,
) -> Effect:
    """Merge in one statement, which looks the target's rows up by index."""
    lookup = IndexLookup(session)
    lookup.set(True)
    try:
        written = session.execute(statements.in_one_statement(access.in_order)).rowcount
    except psycopg.errors.CardinalityViolation as error:
        if error.diag.context:  # of a function that somebody has hung on the target
            raise
        # Not `from error`: the advice for its class is about a subquery.
        raise Refused(
            f"{target}: rows that arrive are different in the source, and the same by the target's"
            f" key ({', '.join(statements.key)}): give the key's columns the source's types and"
            " collations"
        ) from None
    except unique_indexes.NOT_UNIQUE as error:
        raise Overtaken(
            f"{target}: another session has written a row with the key of one that arrives while"
            f" rows were merged ({error.diag.message_primary}); nothing was written. Retry"
        ) from error
    lookup.set(False)
    inserted = tables.inserted_by_merge(session, target, known, written)
    return Effect(inserted=inserted, updated=written - inserted)


def _merge_in_steps(
    session: Session,
    statements: merging.Merge,
    incoming: Relation,
    target: Relation,
    access: Access,
) -> Effect:
    """Keep the rows that differ, then update and insert them."""
    lookup = IndexLookup(session)
    lookup.set(access.by_index)
    kept = session.execute(statements.keep_changed(access.in_order)).rowcount
    # After the comparison, which may take long: somebody may have added some meanwhile.
    unique = unique_indexes.besides_key(session, target)
    savepoint: AbstractContextManager[object] = nullcontext()
    if unique:
        # Rows that exchange their unique values cannot be updated one after the other.
        lookup.set(False)
        savepoint = session.transaction()
    try:
        with savepoint:
            effect = _write_changed(session, statements, access.by_index, kept, lookup)
    except unique_indexes.NOT_UNIQUE as error:
        if error.diag.constraint_name not in unique:
            raise
        _log.info("%s: rows may exchange values of %s", target, error.diag.constraint_name)
        with unique_indexes.named(target, unique):
            return unique_indexes.exchange_rows(session, statements, incoming, target)
    missing = kept - effect.updated
    if statements.keeps_new:
        missing -= effect.inserted
    # Not before: what is written locks the target, so there are no other triggers than these.
    if missing or not statements.keeps_new:
        triggers = side_effects.suppressing_triggers(session, target)
        if triggers and not statements.keeps_new and statements.adds_rows:
            missing += tables.count_rows(session, statements.lacking)
        side_effects.refuse_suppressed(target, triggers, missing)
    return effect


def fill(
    session: Session, incoming: Relation, target: Relation, key: tuple[str, ...], load_no: int
) -> Effect:
    """Give the target's rows the values of `incoming` by key, touching only rows that differ.

    In one statement, because most rows are expected to differ: keeping them aside first, as a merge
    does, took 4.5 of 19 s for 600,000 rows. Rows that may collide, or that a trigger may keep, are
    merged.
    """
    unique = unique_indexes.besides_key(session, target)
    if unique or side_effects.suppressing_triggers(session, target):
        return merge(session, incoming, target, key, load_no, adds_rows=False)
    types = tables.columns_of(session, target)
    arriving = tables.columns_of(session, incoming)
    values = _values_in_target_types(arriving, types, load_no)
    with lookups.lookup_of(session, incoming, target, key) as rows:
        statement = merging.update_values(target.sql, rows, key, values, types, load_no)
        updated = session.execute(statement).rowcount
    reach("fill.updated")
    return Effect(inserted=0, updated=updated)


def _write_changed(
    session: Session, statements: merging.Merge, by_index: bool, kept: int, lookup: IndexLookup
) -> Effect:
    """Update the rows that differ and insert the new ones; `kept` of them are in the temporary
    table. If the target's rows were looked up `by_index`, they are there in the order in which they
    have arrived, and new rows that are not there are looked up likewise."""
    # The changed rows carry the place (ctid) of the target's row, so each is fetched directly.
    lookup.set(True)
    updated = session.execute(statements.update_found(in_order=not by_index)).rowcount
    inserted = 0
    lookup.set(statements.adds_rows and by_index and not statements.keeps_new)
    if statements.adds_rows:
        inserted = session.execute(statements.insert_new()).rowcount
    lookup.set(False)
    written = updated
    if statements.keeps_new:
        written += inserted
    # Another session moved a row between the comparison and the update: its place is outdated, so
    # it is found again by key.
    if written < kept:
        updated += session.execute(statements.update_moved()).rowcount
        # Without `keeps_new`, they are among the new rows by now.
        if statements.keeps_new:
            inserted += session.execute(statements.insert_gone()).rowcount
    return Effect(inserted=inserted, updated=updated)


def count_guarded(
    session: Session, incoming: Relation, target: Relation, key: tuple[str, ...], guard: str
) -> int:
    """How many rows of `incoming` the `guard` of a merge keeps from being written."""
    row = session.execute(merging.count_guarded(target.sql, incoming.sql, key, guard)).fetchone()
    assert row
    return int(row[0])


def append(session: Session, incoming: Relation, target: Relation, load_no: int | None) -> Effect:
    """Insert all rows of `incoming` into the target."""
    types = tables.columns_of(session, target)
    arriving = tables.columns_of(session, incoming)
    values = _values_in_target_types(arriving, types, load_no)
    statement = merging.insert_rows(target.sql, incoming.sql, values, load_no)
    unique = unique_indexes.besides_key(session, target)
    with unique_indexes.named(target, unique):
        inserted = session.execute(statement).rowcount
    triggers = side_effects.suppressing_triggers(session, target)
    if triggers:
        missing = tables.count_rows(session, incoming.sql) - inserted
        side_effects.refuse_suppressed(target, triggers, missing)
    return Effect(inserted=inserted)


def _values_in_target_types(
    arriving: dict[str, str], types: dict[str, str], load_no: int | None
) -> dict[str, str]:
    """Each arrived column as SQL in the target's type; every arrived column is one of `types`.

    A load sets `_load_id` itself. In a mart it is a column like others, of `SELECT t.*`.
    """
    values = {}
    for name, arrived_type in arriving.items():
        if name == LOAD_ID and load_no is not None:
            continue
        value = f"s.{ident(name)}"
        if types[name] != arrived_type:
            value = f"CAST({value} AS {types[name]})"
        values[name] = value
    return values
