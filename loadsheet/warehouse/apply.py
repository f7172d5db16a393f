"""Makes the rows that arrived all of a target's rows: puts their table in its place, or writes the
difference. And the checks of what arrived."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

import psycopg

from loadsheet.checks import Check
from loadsheet.errors import CheckFailed, Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql import merging
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import belongings, side_effects, swap, tables, write
from loadsheet.warehouse.ledger import Effect
from loadsheet.warehouse.lookups import analyze_key
from loadsheet.wording import counted

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
    analyze_key(session, fresh, key)
    deleted = _delete_gone(session, fresh, target, key if by_key else ())
    reach("difference.deleted")
    written = (
        write.merge(session, fresh, target, key, load_no)
        if by_key
        else write.append(session, fresh, target, load_no)
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
    analyze_key(session, fresh, key)
    marking = merging.mark_gone(target.sql, fresh.sql, key, deleted_at, load_no)
    marked = session.execute(marking).rowcount
    written = write.merge(session, fresh, target, key, load_no)
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
