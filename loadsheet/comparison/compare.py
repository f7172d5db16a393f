"""Finds the rows by which two sides differ: whether any do, in which buckets they are, which rows
of those."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, groupby, islice
from typing import Any, Literal, NamedTuple

from loadsheet.answers import at, key_texts, known, take_once, unreadable, whole_number
from loadsheet.comparison.digest import BUCKETS, Side
from loadsheet.comparison.ranges import with_pauses
from loadsheet.comparison.storable import storable
from loadsheet.postgres import Session

# A server-side cursor hands over this many rows at a time, so memory does not grow with the table.
_BLOCK_ROWS = 10_000
# Their keys become part of a statement.
_BLOCK_KEYS = 1_000


class Sides(NamedTuple):
    """The same table on both servers, in the snapshots that the sessions have open. Where only the
    keys are values, it is the same keys."""

    source_session: Session
    source: Side
    warehouse_session: Session
    target: Side
    settled: str
    """SQL condition on the source's rows that the target must have as they are."""
    unsettled: str = "FALSE"
    """SQL condition on rows of the source, quick to look up. Where one meets it, the tables are
    likely to differ as a whole, although no row differs for certain."""
    source_ranges: Sequence[str] = ("TRUE",)
    """Conditions that divide the source's rows into ranges; there is a pause between two."""

    @property
    def are_filtered(self) -> bool:
        """Whether a condition on their values chooses the rows to compare."""
        return self.source.chosen != "TRUE"


class Totals(NamedTuple):
    """The rows of both sides, and the buckets in which they differ."""

    source_rows: int
    target_rows: int
    buckets: list[int]


Finding = Literal["missing", "extra", "different", "newer"]
ChosenBy = Literal["both", "source", "target", "neither"]
"""The sides whose condition on the rows to compare a row of one key meets."""


class Found(NamedTuple):
    """Rows of one key that are not the same on both sides."""

    kind: Finding
    key: tuple[int, str] | None
    """Hash and text of the primary key; None for rows that have none."""
    rows: int = 1
    is_in_target: bool = True
    """Whether the target has a row of this key."""
    is_in_source: bool = True
    """Whether the source has a row of this key."""
    key_in_target: tuple[int, str] | None = None
    """Hash and text of a key that is written in another way there; None: as in the source."""


def totals(sides: Sides, buckets: Sequence[int] = range(BUCKETS)) -> Totals:
    """Hash both sides at the same time: as a whole, in one scan, and by buckets, in another one,
    only where they differ. Without groups, a scan takes about half of the CPU.

    It is by buckets at once where they are likely to differ, and for a share of the buckets.
    """
    if len(buckets) == BUCKETS and not _has_unsettled(sides):
        found = _compared(sides, lambda side, within: side.total(within), [0])
        if not found.buckets:
            return found
    return by_buckets(sides, buckets)


def by_buckets(sides: Sides, buckets: Sequence[int] = range(BUCKETS)) -> Totals:
    """Hash both sides at the same time, by buckets: for tables that are known to differ."""
    return _compared(sides, lambda side, within: side.digests(buckets, within), buckets)


def _has_unsettled(sides: Sides) -> bool:
    if sides.unsettled == "FALSE":
        return False
    for within in with_pauses(sides.source_ranges):
        row = sides.source_session.execute(sides.source.exists(sides.unsettled, within)).fetchone()
        if row == (True,):
            return True
    return False


def _compared(sides: Sides, query: Callable[[Side, str], str], buckets: Sequence[int]) -> Totals:
    """The totals of both sides; `query` asks for those of these buckets."""
    with ThreadPoolExecutor(1, thread_name_prefix="loadsheet-comparison") as pool:
        in_all = [query(sides.target, "TRUE")]
        target = pool.submit(_digests, sides.warehouse_session, in_all, buckets)
        queries = [query(sides.source, within) for within in sides.source_ranges]
        in_source = _digests(sides.source_session, queries, buckets)
        in_target = target.result()
    differing = [
        bucket
        for bucket in sorted(in_source.keys() | in_target.keys())
        if in_source.get(bucket) != in_target.get(bucket)
    ]
    return Totals(
        source_rows=sum(count for count, *_ in in_source.values()),
        target_rows=sum(count for count, *_ in in_target.values()),
        buckets=differing,
    )


def _digests(
    session: Session, queries: Sequence[str], buckets: Sequence[int]
) -> dict[int, tuple[int, int, int]]:
    digests: dict[int, tuple[int, int, int]] = {}
    for query in with_pauses(queries):
        # Rows under the wrong number would be looked for where they are not.
        left = set(buckets)
        for bucket, count, first, second in session.execute(query):
            take_once(session, left, bucket)
            before = digests.get(bucket, (0, 0, 0))
            sums = (whole_number(session, first), whole_number(session, second))
            digests[bucket] = (before[0] + count, before[1] + sums[0], before[2] + sums[1])
    return digests


def differing_rows(sides: Sides, buckets: Sequence[int]) -> Iterator[Found]:
    """The rows in `buckets` that differ, in no order that means anything."""
    if not sides.source.key:
        yield from _differing_counts(sides, buckets)
        return
    if sides.are_filtered:
        found = _differing_chosen(sides, buckets)
    else:
        found = (one for one, _ in _differing_keys(sides, buckets))
    yield from found if sides.source.key_has_one_form else _with_same_keys(sides, found)


def _with_same_keys(sides: Sides, found: Iterator[Found]) -> Iterator[Found]:
    """`found`, with one row instead of two where both sides have a key and write it in different
    ways, such as 1.0 and 1.00: a load would merge the two."""
    while batch := list(islice(found, _BLOCK_KEYS)):
        theirs = [one for one in batch if not one.is_in_target]
        ours = [one for one in batch if not one.is_in_source]
        one_side, other_side = sides.source_session, sides.warehouse_session
        in_target = _same_keys(other_side, sides.target, one_side, theirs, "TRUE")
        in_source = _same_keys(one_side, sides.source, other_side, ours, sides.settled)
        for one in batch:
            same = in_source.get(one.key) if not one.is_in_source else in_target.get(one.key)
            if same is None or (one.is_in_source and one.is_in_target):
                yield one
            elif one.is_in_source:
                kind: Finding = "newer" if one.kind == "newer" else "different"
                yield one._replace(kind=kind, is_in_target=True, key_in_target=same.key)
            # A chosen row of the source is found itself.
            elif not same.is_chosen:
                kind = "different" if same.is_settled else "newer"
                yield Found(kind, same.key, key_in_target=one.key)


class _SameKey(NamedTuple):
    """A row of the other side that has the same key, and writes it in another way."""

    key: tuple[int, str]
    is_settled: bool
    is_chosen: bool


def _same_keys(
    session: Session, side: Side, found_by: Session, found: Sequence[Found], settled: str
) -> dict[tuple[int, str] | None, _SameKey]:
    """The rows of `side` whose keys are equal to those of the rows that were `found` on the other
    one."""
    width = len(side.key)
    by_texts = {tuple(key_texts(found_by, one.key[1], width)): one.key for one in found if one.key}
    keys = storable(session, list(by_texts))
    if not keys:
        return {}
    rows = session.execute(side.same_keys(keys, settled).encode())
    return {
        by_texts[at(session, keys, place)]: _SameKey((key_hash, text), is_settled, is_chosen)
        for place, key_hash, text, is_settled, is_chosen in rows
    }


def _differing_chosen(sides: Sides, buckets: Sequence[int]) -> Iterator[Found]:
    """A row whose cursor differs may be among the chosen rows of one side alone. So those that seem
    to be on one side are looked for among all rows of the other."""
    unsure: set[int] = set()
    for found, _ in _differing_keys(sides, buckets):
        if found.kind == "missing" or not found.is_in_source:
            assert found.key
            unsure.add(Side.bucket_of(found.key[0]))
        else:
            yield found
    if not unsure:
        return
    for found, chosen_by in _differing_keys(sides, sorted(unsure), unfiltered=True):
        # Newer rows that the source has chosen were found before, and so was what both have.
        if chosen_by == "target" or (chosen_by == "source" and found.kind != "newer"):
            yield found


def _differing_keys(
    sides: Sides, buckets: Sequence[int], unfiltered: bool = False
) -> Iterator[tuple[Found, ChosenBy]]:
    queries = [
        sides.source.rows(buckets, sides.settled, within, unfiltered)
        for within in sides.source_ranges
    ]
    in_source = _stream(sides.source_session, "source", queries)
    query = sides.target.rows(buckets, "TRUE", unfiltered=unfiltered)
    in_target = _stream(sides.warehouse_session, "target", [query])
    for source, target in _side_by_side(_by_key(in_source), _by_key(in_target), width=1):
        chosen_by = _chosen_by(source, target)
        if source is None:
            yield Found("extra", target.key, target.rows, is_in_source=False), chosen_by
            continue
        # Only where the target has lost its primary key.
        if target is not None and target.rows > 1:
            yield Found("extra", source.key, target.rows - 1), chosen_by
        if target is not None and target.versions.keys() & source.versions.keys():
            continue
        kind: Finding = "different"
        if not all(source.versions.values()):
            kind = "newer"
        elif target is None:
            kind = "missing"
        yield Found(kind, source.key, is_in_target=target is not None), chosen_by


class _OfOneKey(NamedTuple):
    """The rows of one side that have one key. Nothing makes a view's key unique, and a load keeps
    only one row of each key."""

    key: tuple[int, str]
    versions: dict[tuple[int, int], bool]
    """Whether a row is settled, by its two hashes."""
    rows: int
    is_chosen: bool


def _chosen_by(source: _OfOneKey | None, target: _OfOneKey | None) -> ChosenBy:
    in_source = source is not None and source.is_chosen
    in_target = target is not None and target.is_chosen
    if in_source and in_target:
        return "both"
    if in_source:
        return "source"
    return "target" if in_target else "neither"


def _by_key(rows: Iterator[tuple[Any, ...]]) -> Iterator[_OfOneKey]:
    for key, same in groupby(rows, key=lambda row: row[:2]):
        versions: dict[tuple[int, int], bool] = {}
        count = 0
        is_chosen = False
        for row in same:
            versions[row[2:4]] = row[4]
            count += 1
            is_chosen = is_chosen or row[5]
        yield _OfOneKey(key, versions, count, is_chosen)


def _differing_counts(sides: Sides, buckets: Sequence[int]) -> Iterator[Found]:
    queries = [
        sides.source.counts(buckets, sides.settled, within) for within in sides.source_ranges
    ]
    in_source = _summed(_stream(sides.source_session, "source", queries))
    query = sides.target.counts(buckets, "TRUE")
    in_target = _stream(sides.warehouse_session, "target", [query])
    for source, target in _side_by_side(in_source, in_target, width=2):
        _, _, rows, settled = source or (0, 0, 0, 0)
        present = target[2] if target else 0
        missing = max(settled - present, 0)
        if missing:
            yield Found("missing", None, missing)
        if rows - missing > present:
            yield Found("newer", None, rows - missing - present)
        if present > rows:
            yield Found("extra", None, present - rows)


def _summed(counts: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The counts of equal rows, which may be in several ranges."""
    for hashes, same in groupby(counts, key=lambda row: row[:2]):
        pairs = [row[2:] for row in same]
        yield *hashes, sum(rows for rows, _ in pairs), sum(settled for _, settled in pairs)


def _stream(session: Session, name: str, queries: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of all queries, in the order that each has them in. Cursors begin with `name`."""
    streams = []
    with ExitStack() as stack:
        for number, query in enumerate(with_pauses(queries)):
            cursor = stack.enter_context(session.cursor(f"loadsheet_{name}_{number}"))
            cursor.itersize = max(_BLOCK_ROWS // len(queries), 1)
            cursor.execute(query)
            rows = iter(cursor)
            # The server works when the first row is fetched, and the pause comes after that.
            first = next(rows, None)
            if first is not None:
                streams.append(chain([first], rows))
        yield from heapq.merge(*streams, key=lambda row: row[:2])


def _side_by_side(
    left: Iterator[tuple[Any, ...]], right: Iterator[tuple[Any, ...]], width: int
) -> Iterator[tuple[Any, Any]]:
    """Pairs of rows whose first `width` columns are equal; None where one side has none. Both are
    sorted by them."""
    one = next(left, None)
    other = next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[:width] < other[:width]):
            yield one, None
            one = next(left, None)
        elif one is None or other[:width] < one[:width]:
            yield None, other
            other = next(right, None)
        else:
            yield one, other
            one = next(left, None)
            other = next(right, None)


def texts_of(session: Session, side: Side, keys: list[tuple[int, str]]) -> dict[str, list[Any]]:
    """Every column as it is shown, for each of the rows with these keys, by the key's text. Raises
    Unreadable where the server does not answer for all of them."""
    if not keys:
        return {}
    found = dict(session.execute(side.texts(keys)).fetchall())
    for _, key in keys:
        if len(known(session, found, key)) != len(side.values):
            raise unreadable(session, "a row with more or fewer columns than were asked for")
    return found
