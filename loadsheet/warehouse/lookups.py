"""How the target's rows are found by the keys of those that arrived: each by its primary key's
index, or all of them by reading the target."""

from __future__ import annotations

from collections.abc import Iterator
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


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the target's rows are found that arrived."""

    by_index: bool
    """Whether each is looked up by the primary key, and not all of the target read."""
    in_order: bool
    """Whether that is in the primary key's order, and not in that of their arrival."""


def choose(
    session: Session, target: Relation, arrived: int, size: tables.Size | None, part: int = 2
) -> Access:
    """How to find `arrived` rows in the target of that `size`, which is None where its primary key
    is not the key.

    By index up to an eighth of its rows, or up to a `part`th (half) where they lie in the primary
    key's order: then look-ups in that order go from page to page (docs/performance-merging.md).
    """
    if size is None:
        return Access(by_index=False, in_order=False)
    in_order = (
        arrived * part <= size.rows
        and arrived * size.bytes > _MANY_BYTES * size.rows
        and tables.lies_in_key_order(session, target)
    )
    return Access(by_index=in_order or arrived * 8 <= size.rows, in_order=in_order)


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
    arrived, size, source = tables.size_of(session, incoming).rows, None, incoming.sql
    primary_key = tables.primary_key_of(session, target)
    if primary_key and set(primary_key[1]) == set(key):
        key = primary_key[1]
        size = tables.size_of(session, target)
    access = choose(session, target, arrived, size, part)
    if access.in_order:
        values = {name: f"s.{ident(name)}" for name in key}
        source = merging.in_key_order(source, values, tables.columns_of(session, incoming))
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
