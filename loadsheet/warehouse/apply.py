"""Apply arrived rows to a target: replace all of its rows, merge rows into it, or append them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from loadsheet.checks import Check
from loadsheet.errors import CheckFailed, Overtaken, Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql import merging
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.warehouse import belongings, side_effects, swap, tables, unique_indexes
from loadsheet.warehouse.ledger import Effect
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

# Without these settings the planner reads the whole target for a hundredth of its rows, which takes
# two to three times as long, because it assumes that their pages are scattered over a disk. For
# which rows it is told to use the index: `_access`.
_FORCE_INDEX_LOOKUP = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
_RESET_INDEX_LOOKUP = "SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"

# To ask for a target's order takes 3 ms: of as many bytes that is less than a tenth of what a
# merge takes.
_MANY_BYTES = 4_000_000

# Enough for the plans of the transforms that follow: 9,000 rows instead of 30,000, a third of the
# time. Of more than 30 columns fewer rows, down to 3,000: of 200 columns, 9,000 took a second of a
# load of eight. The rows count as changed since, so autovacuum looks more closely within a minute.
_SMALLER_STATISTICS_SAMPLE = """
WITH sample AS (
    SELECT greatest(10, least(30, 900 / greatest(1, count(*)))) AS target
    FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
)
SELECT set_config('default_statistics_target', CAST(target AS text), true) FROM sample
WHERE CAST(current_setting('default_statistics_target') AS int) > target
"""

DEFAULT_MAX_SHRINK = 0.5
"""Of a table that has more than a few rows to lose: an answer of a broken source must not empty the
warehouse because nobody has thought of `max_shrink`."""
_FEW_ROWS = 1_000
"""As many may go without `max_shrink`, as long as some stay: a short list of codes may lose half of
them on a usual day."""


def replace(
    session: Session, fresh: Relation, rows: int, target: Relation, key: tuple[str, ...]
) -> Effect:
    """Make the `rows` rows of `fresh`, a table in the mart's schema with its columns, the rows of
    the mart, for which `belongings.obstacles` has found none.

    Applies the difference in place where something was hung on the mart since.
    """
    try:
        return swap_in(session, fresh, rows, target, key)
    except swap.WouldLose:
        return difference(session, fresh, target, key, None)


def swap_in(
    session: Session,
    fresh: Relation,
    rows: int,
    target: Relation,
    key: tuple[str, ...],
    kept: Collection[str] = (),
) -> Effect:
    """Put `fresh`, with its `rows` rows, into the target's place, or make it the target if there is
    none. The columns `kept` have no values in `fresh`, and may have none in the target.

    Raises swap.WouldLose, with nothing changed, when something on the target would be lost.
    """
    if tables.kind(session, target) is None:
        swap.rename_new(session, fresh, target, key)
    else:
        swap.swap_in(session, fresh, target, key, kept)
    # A new table has no statistics, and the transforms that read it do not wait for autovacuum.
    session.execute(_SMALLER_STATISTICS_SAMPLE, (target.sql,))
    session.execute(f"ANALYZE {target.sql}")
    return Effect(inserted=rows, replaced=True)


def difference(
    session: Session, fresh: Relation, target: Relation, key: tuple[str, ...], load_no: int | None
) -> Effect:
    """Make the rows of `fresh` the rows of the target in place, touching only rows that differ.

    Drops `fresh`. Without a key, all of the target's rows are deleted and inserted again. So they
    are where the target is published without a replica identity, which forbids UPDATE and DELETE:
    such a table is truncated.

    Raises Refused when values of the target's own columns would go with the deleted rows.
    """
    by_key = bool(key) and _may_change_rows(session, target)
    if not by_key:
        why = "its publication takes no UPDATE and no DELETE" if key else side_effects.NO_KEY
        side_effects.refuse_referring(session, target, why)
        _refuse_losing_values(session, fresh, target)
    _analyze_key(session, fresh, key)
    deleted = _delete_gone(session, fresh, target, key if by_key else ())
    reach("difference.deleted")
    written = (
        merge(session, fresh, target, key, load_no)
        if by_key
        else append(session, fresh, target, load_no)
    )
    triggers = side_effects.suppressing_triggers(session, target)
    if triggers:
        wanted = tables.count_rows(session, fresh.sql)
        missing = wanted - tables.count_rows(session, target.sql)
        side_effects.refuse_suppressed(target, triggers, missing)
    session.execute(f"DROP TABLE {fresh.sql}")
    return Effect(inserted=written.inserted, updated=written.updated, deleted=deleted)


def difference_with_marks(
    session: Session,
    fresh: Relation,
    target: Relation,
    key: tuple[str, ...],
    load_no: int,
    deleted_at: str,
) -> tuple[Effect, int]:
    """The same for a target that keeps deleted rows: rows that are not in `fresh` are marked as
    deleted at that time (SQL). Returns the effect, and how many rows were marked.

    Raises Refused where the server takes no UPDATE of the target's rows.
    """
    if not _may_change_rows(session, target):
        raise Refused(
            f"{target}: its publication takes no UPDATE, so no row can be marked as deleted: give"
            " the table a replica identity, or set `deletes: hard`"
        )
    _analyze_key(session, fresh, key)
    marking = merging.mark_gone(target.sql, fresh.sql, key, deleted_at, load_no)
    marked = session.execute(marking).rowcount
    written = merge(session, fresh, target, key, load_no)
    session.execute(f"DROP TABLE {fresh.sql}")
    return Effect(inserted=written.inserted, updated=written.updated + marked), marked


def _delete_gone(session: Session, fresh: Relation, target: Relation, key: tuple[str, ...]) -> int:
    """Delete the target's rows that are not in `fresh`, all of them without a key, and return how
    many."""
    if key or _may_change_rows(session, target):
        return session.execute(merging.delete_gone(target.sql, fresh.sql, key)).rowcount
    deleted = tables.count_rows(session, target.sql)
    session.execute(f"TRUNCATE {target.sql}")
    return deleted


def _refuse_losing_values(session: Session, fresh: Relation, target: Relation) -> None:
    """Raises Refused when the target has values in columns of its own: they cannot be found again
    for rows that are all deleted and inserted.

    A column that the server or a trigger fills has new values in the new rows.
    """
    arrived = tables.columns_of(session, fresh)
    own = []
    for name in tables.columns_to_fill(session, target):
        if name not in arrived and name != LOAD_ID:
            own.append(name)
    for name in belongings.columns_with_values(session, target, own):
        raise Refused(
            f"{target}: column {name} is not part of what is loaded, and its values would be lost: "
            "all rows are written again, and without a primary key they cannot be told apart. Set "
            "a primary_key (a transform: unique_key), or move the values to a table of their own "
            "and drop the column"
        )


def _may_change_rows(session: Session, target: Relation) -> bool:
    """Whether the server takes UPDATE and DELETE of the target's rows.

    It refuses them for a published table without a replica identity, or whose publication reads
    columns that are not part of it. EXPLAIN is refused likewise, and fires no trigger.
    """
    try:
        with session.transaction():
            session.execute(f"EXPLAIN DELETE FROM {target.sql}")
            column = ident(next(iter(tables.columns_of(session, target))))
            session.execute(f"EXPLAIN UPDATE {target.sql} SET {column} = {column}")
    except (
        psycopg.errors.ObjectNotInPrerequisiteState,
        psycopg.errors.InvalidColumnReference,
    ):
        return False
    return True


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
    types, long = known.types, known.long
    has_key = set(known.key) == set(key)
    if has_key:
        key = known.key
    statements = merging.Merge(
        target=target.sql,
        source=incoming.sql,
        changed=Relation("pg_temp", f"{incoming.name}_changed").sql,
        key=key,
        values=_values_in_target_types(known.arriving, types, load_no),
        types=types,
        long=long,
        # Copying a long value takes longer than looking its key up again
        # (docs/performance-merging.md).
        keeps_new=adds_rows and not (long and tables.is_mostly_long(session, target)),
        adds_rows=adds_rows,
        load_no=load_no,
        guard=guard,
    )
    is_counted = arrived is not None
    if arrived is None:
        _analyze_key(session, incoming, key)
        arrived = tables.size_of(session, incoming).rows
    access = _access(session, target, arrived, known.size if has_key else None)
    if is_counted and not access.by_index:
        # Only for the planner: ANALYZE takes a tenth of the time of a small merge.
        _analyze_key(session, incoming, key)
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
    access: _Access,
) -> Effect:
    """Merge in one statement, which looks the target's rows up by index."""
    lookup = _IndexLookup(session)
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
    access: _Access,
) -> Effect:
    """Keep the rows that differ, then update and insert them."""
    lookup = _IndexLookup(session)
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
    with lookup_of(session, incoming, target, key) as rows:
        statement = merging.update_values(target.sql, rows, key, values, types, load_no)
        updated = session.execute(statement).rowcount
    reach("fill.updated")
    return Effect(inserted=0, updated=updated)


def _write_changed(
    session: Session, statements: merging.Merge, by_index: bool, kept: int, lookup: _IndexLookup
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


def one_row_per_key(
    session: Session, incoming: Relation, key: tuple[str, ...], cursor: str | None
) -> int:
    """Keep one row per key, the newest by `cursor` (SQL), and return how many were deleted.

    Raises CheckFailed when rows have no complete key, or when rows share a key and there is no
    cursor to tell which is the newest.
    """
    # A NULL is equal to nothing, so a row with one would be inserted by every merge.
    nulls = session.execute(merging.count_null_keys(incoming.sql, key)).fetchone()
    if nulls and nulls[0]:
        found = f"{counted(nulls[0], 'row')} with NULL"
        check = Check(assertion="not_null", success=False, columns=key, found=found)
        raise CheckFailed(incomplete_key_message(nulls[0], key), "primary_key", nulls[0], check)
    duplicates = session.execute(merging.has_duplicates(incoming.sql, key)).fetchone()
    if not duplicates or not duplicates[0]:
        return 0
    if cursor is None:
        check = Check(assertion="unique", success=False, columns=key)
        raise CheckFailed(duplicate_key_message(key), "primary_key", result=check)
    return session.execute(merging.keep_newest(incoming.sql, key, cursor)).rowcount


def incomplete_key_message(rows: int, key: tuple[str, ...]) -> str:
    """The refusal of rows that have NULL in their key."""
    return (
        f"{counted(rows, 'row has', 'rows have')} no complete key ({', '.join(key)}): choose a key"
        " that is never NULL"
    )


def duplicate_key_message(key: tuple[str, ...]) -> str:
    """The refusal of rows that share a key where no cursor tells which is the newest."""
    return (
        f"rows share the key ({', '.join(key)}): the key must be unique, or the table needs an "
        "incremental cursor that tells which row is the newest"
    )


def most_of(rows: int, share: float) -> int:
    """How many of `rows` the `share` is, as it is written: 0.29 of 100 is 29, though the product of
    the two floats is less."""
    return int(Decimal(str(share)) * rows)


def refuse_shrinking(
    session: Session, after: int, target: Relation, max_shrink: float | None, live: str = "TRUE"
) -> None:
    """Raises CheckFailed when the target would lose more than the share `max_shrink` of its rows;
    where that is None, all of them, or more than half and more than 1,000.

    `after` is the number of rows that it would have. `live` is an SQL condition on the rows that
    count.
    """
    before = tables.count_rows(session, f"{target.sql} WHERE {live}")
    if max_shrink is None and after and before - after <= _FEW_ROWS:
        return
    share = DEFAULT_MAX_SHRINK if max_shrink is None else max_shrink
    if before - after > most_of(before, share):
        allowed = f"max_shrink {share:g} allows"
        if max_shrink is None:
            allowed = "a full load may remove without max_shrink"
        found = f"from {before:,} to {counted(after, 'row')}"
        raise CheckFailed(
            f"{target} would shrink {found}, more than {allowed}; nothing was changed. Check the"
            " source; if the rows are right, set a higher max_shrink for the table (1 allows"
            " everything)",
            "max_shrink",
            before - after,
            Check(assertion="max_shrink", success=False, found=found),
        )


@dataclass(frozen=True, kw_only=True)
class _Access:
    """How the target's rows are found that arrived."""

    by_index: bool
    """Whether each is looked up by the primary key, and not all of the target read."""
    in_order: bool
    """Whether that is in the primary key's order, and not in that of their arrival."""


def _access(
    session: Session, target: Relation, arrived: int, size: tables.Size | None, part: int = 2
) -> _Access:
    """How to find `arrived` rows in the target of that `size`, which is None where its primary key
    is not the key.

    By index up to an eighth of its rows, or up to a `part`th (half) where they lie in the primary
    key's order: then look-ups in that order go from page to page (docs/performance-merging.md).
    """
    if size is None:
        return _Access(by_index=False, in_order=False)
    in_order = (
        arrived * part <= size.rows
        and arrived * size.bytes > _MANY_BYTES * size.rows
        and tables.lies_in_key_order(session, target)
    )
    return _Access(by_index=in_order or arrived * 8 <= size.rows, in_order=in_order)


class _IndexLookup:
    """Whether the planner looks rows up by index in the open transaction. At first it does not.

    An error does not reset the setting: it ends the transaction or savepoint, and the setting with
    it.
    """

    def __init__(self, session: Session):
        self._session = session
        self._is_on = False

    def set(self, wanted: bool) -> None:
        """From the next statement on."""
        if wanted != self._is_on:
            self._session.execute(_FORCE_INDEX_LOOKUP if wanted else _RESET_INDEX_LOOKUP)
            self._is_on = wanted


@contextmanager
def lookup_of(
    session: Session, incoming: Relation, target: Relation, key: tuple[str, ...], part: int = 2
) -> Iterator[str]:
    """Within, the planner looks the target's rows up by index, if that is faster. Gives the SQL to
    read the rows of `incoming` from. `part` is as for `_access`."""
    # First, because `size_of` has the count of the last ANALYZE.
    _analyze_key(session, incoming, key)
    arrived, size, source = tables.size_of(session, incoming).rows, None, incoming.sql
    primary_key = tables.primary_key_of(session, target)
    if primary_key and set(primary_key[1]) == set(key):
        key = primary_key[1]
        size = tables.size_of(session, target)
    access = _access(session, target, arrived, size, part)
    if access.in_order:
        values = {name: f"s.{ident(name)}" for name in key}
        source = merging.in_key_order(source, values, tables.columns_of(session, incoming))
    lookup = _IndexLookup(session)
    lookup.set(access.by_index)
    yield source
    lookup.set(False)


def _analyze_key(session: Session, arrived: Relation, key: tuple[str, ...]) -> None:
    """Let the planner know how many rows arrived.

    Only the key's columns are sampled: all of 60 columns took ten times as long.
    """
    if key:
        session.execute(f"ANALYZE {arrived.sql} ({idents(key)})")


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
