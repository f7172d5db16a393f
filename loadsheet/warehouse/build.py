"""Make a target equal to what arrived: replace it whole, or merge the arrived rows into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql import merging
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.warehouse import swap, tables
from loadsheet.warehouse.ledger import Effect

# Left alone, the planner reads the whole target for a hundredth of its rows, which takes two to
# three times as long: it takes their pages for scattered over a disk. Up to an eighth they are
# looked up (docs/performance-merging.md).
_PROBE = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
_PROBE_NO_MORE = "SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"

# Enough for the plans of the transforms that follow: 9,000 rows instead of 30,000, a third of the
# time. Autovacuum looks more closely when rows have changed.
_SAMPLE = """
SELECT set_config('default_statistics_target', '30', true)
WHERE CAST(current_setting('default_statistics_target') AS int) > 30
"""


def replace(
    session: Session,
    fresh: Relation,
    rows: int,
    target: Relation,
    key: tuple[str, ...],
    load_no: int | None,
    max_shrink: float | None,
) -> Effect:
    """Put the `rows` rows of `fresh` (a table beside the target) in the target's place.

    Where nothing depends on the target it is swapped; else the difference is applied in place: what
    is gone is deleted, what differs updated. Raises Refused when that would cost more than the
    share `max_shrink` of the rows.
    """
    exists = tables.kind(session, target) is not None
    if exists and max_shrink is not None:
        refuse_shrinking(session, rows, target, max_shrink)
    if not exists or not tables.dependents(session, target):
        swap.put_in_place(session, fresh, target, key)
        session.execute(_SAMPLE)
        session.execute(f"ANALYZE {target.sql}")
        return Effect(inserted=rows, replaced=True)
    return difference(session, fresh, target, key, load_no)


def merge(
    session: Session,
    incoming: Relation,
    target: Relation,
    key: tuple[str, ...],
    load_no: int | None,
    guard: str = "",
) -> Effect:
    """Insert or update by key, touching only rows that differ; without a key, append."""
    types = tables.columns_of(session, target)
    values = _values(session, incoming, types)
    if not key:
        return Effect(
            inserted=session.execute(
                merging.insert_rows(target.sql, incoming.sql, values, load_no)
            ).rowcount
        )
    changed = Relation("pg_temp", f"{incoming.name}_changed").sql
    long = tables.long_columns(session, target)
    work = merging.Merge(
        target=target.sql,
        source=incoming.sql,
        changed=changed,
        key=key,
        values=values,
        types=types,
        long=long,
        keeps_new=not (long and tables.is_mostly_long(session, target)),
        load_no=load_no,
        guard=guard,
    )
    _analyze(session, incoming, key)
    look_up = tables.is_fraction(session, incoming, target) and _has_index(session, target, key)
    with _probing(session, look_up):
        found = session.execute(work.keep_changed()).rowcount
    with _probing(session):  # a row that is written is fetched from its place anyway
        updated = session.execute(work.update_found()).rowcount
        reach("merge.updated")
    with _probing(session, look_up and not work.keeps_new):
        inserted = session.execute(work.insert_new()).rowcount
    if updated + (inserted if work.keeps_new else 0) < found:
        updated += session.execute(work.update_moved()).rowcount
    return Effect(inserted=inserted, updated=updated)


@contextmanager
def _probing(session: Session, wanted: bool = True) -> Iterator[None]:
    """Within, rows are looked up. An error ends the transaction, and the setting with it."""
    if wanted:
        session.execute(_PROBE)
    yield
    if wanted:
        session.execute(_PROBE_NO_MORE)


def one_row_per_key(
    session: Session, incoming: Relation, key: tuple[str, ...], cursor: str | None
) -> int:
    """Leave one row per key, the newest by `cursor` (SQL), and return how many were dropped.

    Raises Refused when rows lack a complete key, or share one without a cursor to tell which is
    newer.
    """
    nulls = session.execute(merging.count_null_keys(incoming.sql, key)).fetchone()
    if nulls and nulls[0]:
        raise Refused(
            f"{nulls[0]} rows have no complete key ({', '.join(key)}): name a key that is never NULL"
        )
    doubled = session.execute(merging.has_duplicates(incoming.sql, key)).fetchone()
    if not doubled or not doubled[0]:
        return 0
    if cursor is None:
        raise Refused(
            f"rows share the key ({', '.join(key)}): it must be unique, or an incremental cursor tell the newest"
        )
    return session.execute(merging.keep_newest(incoming.sql, key, cursor)).rowcount


def difference(
    session: Session, fresh: Relation, target: Relation, key: tuple[str, ...], load_no: int | None
) -> Effect:
    """Make the target's rows those of `fresh` in place, touching only what differs, and drop
    `fresh`."""
    _analyze(session, fresh, key)
    deleted = session.execute(merging.delete_gone(target.sql, fresh.sql, key)).rowcount
    reach("difference.deleted")
    effect = merge(session, fresh, target, key, load_no)
    session.execute(f"DROP TABLE {fresh.sql}")
    return Effect(inserted=effect.inserted, updated=effect.updated, deleted=deleted)


def _analyze(session: Session, arrived: Relation, key: tuple[str, ...]) -> None:
    """Let the planner know how many rows arrived. Only the key matters: all of 60 columns took ten
    times as long."""
    if key:
        session.execute(f"ANALYZE {arrived.sql} ({idents(key)})")


def _has_index(session: Session, target: Relation, key: tuple[str, ...]) -> bool:
    found = tables.key_of(session, target)
    return found is not None and set(found[1]) == set(key)


def _values(session: Session, incoming: Relation, types: dict[str, str]) -> dict[str, str]:
    """The arrived columns as SQL in the target's types; a column the target lacks cannot be kept."""
    arrived = {
        name: t for name, t in tables.columns_of(session, incoming).items() if name != LOAD_ID
    }
    return {
        name: f"s.{ident(name)}"
        if types[name] == type_name
        else f"CAST(s.{ident(name)} AS {types[name]})"
        for name, type_name in arrived.items()
    }


def refuse_shrinking(session: Session, after: int, target: Relation, max_shrink: float) -> None:
    """Raises Refused when `after` rows are fewer than the share `max_shrink` may take from the
    target's."""
    before = tables.count(session, target.sql)
    if before and after < before * (1 - max_shrink):
        raise Refused(
            f"{target} would shrink from {before:,} to {after:,} rows, more than max_shrink {max_shrink:g} allows; "
            "check the source; if that is right, raise max_shrink"
        )
