"""How the target's rows are found by the keys of those that arrived: each by its primary key's
index, or all of them by reading the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from loadsheet.postgres import Session
from loadsheet.sql import merging
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.warehouse import tables

# Without these settings the planner reads the whole target for a hundredth of its rows, which takes
# two to three times as long, because it assumes that their pages are scattered over a disk. For
# which rows it is told to use the index: `choose`.
_FORCE_INDEX_LOOKUP = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
_RESET_INDEX_LOOKUP = "SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"

# To ask for a target's order takes 3 ms: of as many bytes that is less than a tenth of what a
# merge takes.
_MANY_BYTES = 4_000_000
# Enough to see whether rows lie in order, in a millisecond. To sort those that do would cost a
# quarter of a merge.
_SAMPLED_PAGES = 64
_PAGE_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the target's rows are found that arrived."""

    by_index: bool
    """Whether each is looked up by the primary key, and not all of the target read."""
    in_order: bool
    """Whether that is in the primary key's order, and not in that of their arrival."""


def choose(
    session: Session,
    incoming: Relation,
    target: Relation,
    order: Sequence[str],
    arrived: int,
    size: tables.Size | None,
    part: int = 2,
) -> Access:
    """How to find the `arrived` rows of `incoming` in the target of that `size`, which is None
    where its primary key is not the key. `order` is what sorts them by it (`merging.key_order`).

    By index up to an eighth of its rows, or up to a `part`th (half) where they lie in the primary
    key's order: then look-ups in that order go from page to page (docs/performance-merging.md).
    """
    if size is None:
        return Access(by_index=False, in_order=False)
    goes_by_page = (
        arrived * part <= size.rows
        and arrived * size.bytes > _MANY_BYTES * size.rows
        and tables.lies_in_key_order(session, target)
    )
    if not goes_by_page:
        return Access(by_index=arrived * 8 <= size.rows, in_order=False)
    pages = arrived * size.bytes / size.rows / _PAGE_BYTES
    share = min(100, 100 * _SAMPLED_PAGES / pages)
    sampling = merging.arrives_in_order(incoming.sql, order[0], share)
    is_sorted = session.execute(sampling).fetchone() == (True,)
    return Access(by_index=True, in_order=not is_sorted)


class IndexLookup:
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
    read the rows of `incoming` from. `part` is as for `choose`."""
    # First, because `size_of` has the count of the last ANALYZE.
    analyze_key(session, incoming, key)
    arrived = tables.size_of(session, incoming).rows
    size = None
    primary_key = tables.primary_key_of(session, target)
    if primary_key and set(primary_key[1]) == set(key):
        key = primary_key[1]
        size = tables.size_of(session, target)
    values = {name: f"s.{ident(name)}" for name in key}
    order = merging.key_order(values, tables.columns_of(session, incoming))
    access = choose(session, incoming, target, order, arrived, size, part)
    source = merging.in_key_order(incoming.sql, order) if access.in_order else incoming.sql
    lookup = IndexLookup(session)
    lookup.set(access.by_index)
    yield source
    lookup.set(False)


def analyze_key(session: Session, arrived: Relation, key: tuple[str, ...]) -> None:
    """Let the planner know how many rows arrived.

    Only the key's columns are sampled: all of 60 columns took ten times as long.
    """
    if key:
        session.execute(f"ANALYZE {arrived.sql} ({idents(key)})")
