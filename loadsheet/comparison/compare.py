"""Finds the rows by which two sides differ: first the buckets, then the rows in them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, Literal, NamedTuple

from loadsheet.comparison.digest import Side
from loadsheet.postgres import Session

# A server-side cursor hands over this many rows at a time, so memory does not grow with the table.
_BLOCK_ROWS = 10_000


class Sides(NamedTuple):
    """The same table on both servers, in the snapshots that the sessions have open."""

    source_session: Session
    source: Side
    warehouse_session: Session
    target: Side
    settled: str
    """SQL condition on the source's rows that the target must have as they are."""


class Totals(NamedTuple):
    """The rows of both sides, and the buckets in which they differ."""

    source_rows: int
    target_rows: int
    buckets: list[int]


Finding = Literal["missing", "extra", "different", "newer"]


class Found(NamedTuple):
    """Rows of one key that are not the same on both sides."""

    kind: Finding
    key: tuple[int, str] | None
    """Hash and text of the primary key; None for rows that have none."""
    rows: int = 1
    is_in_target: bool = True
    """Whether the target has a row of this key."""


def totals(sides: Sides) -> Totals:
    """Hash both sides at the same time, each in one scan."""
    with ThreadPoolExecutor(1, thread_name_prefix="loadsheet-comparison") as pool:
        target = pool.submit(_digests, sides.warehouse_session, sides.target)
        in_source = _digests(sides.source_session, sides.source)
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


def _digests(session: Session, side: Side) -> dict[int, tuple[int, str, str]]:
    rows = session.execute(side.digests()).fetchall()
    return {bucket: (count, first, second) for bucket, count, first, second in rows}


def differing_rows(sides: Sides, buckets: list[int]) -> Iterator[Found]:
    """The rows in `buckets` that differ, in no order that means anything."""
    if sides.source.key:
        yield from _differing_keys(sides, buckets)
    else:
        yield from _differing_counts(sides, buckets)


def _differing_keys(sides: Sides, buckets: list[int]) -> Iterator[Found]:
    in_source = _stream(sides.source_session, sides.source.rows(buckets, sides.settled))
    in_target = _stream(sides.warehouse_session, sides.target.rows(buckets, "TRUE"))
    for source, target in _side_by_side(_by_key(in_source), in_target, width=2):
        if source is None:
            yield Found("extra", target[:2])
            continue
        *key, versions = source
        if target is not None and target[2:4] in versions:
            continue
        kind: Finding = "different"
        if not all(versions.values()):
            kind = "newer"
        elif target is None:
            kind = "missing"
        yield Found(kind, tuple(key), is_in_target=target is not None)


def _by_key(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """For each key its hash, its text, and whether its row is settled, by the row's two hashes.

    Nothing makes a view's key unique, and a load keeps only one row of each key.
    """
    for key, same in groupby(rows, key=lambda row: row[:2]):
        yield *key, {row[2:4]: row[4] for row in same}


def _differing_counts(sides: Sides, buckets: list[int]) -> Iterator[Found]:
    in_source = _stream(sides.source_session, sides.source.counts(buckets, sides.settled))
    in_target = _stream(sides.warehouse_session, sides.target.counts(buckets, "TRUE"))
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


def _stream(session: Session, query: str) -> Iterator[tuple[Any, ...]]:
    with session.cursor("loadsheet_comparison") as cursor:
        cursor.itersize = _BLOCK_ROWS
        cursor.execute(query)
        yield from cursor


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
    """Every column as text, for each of the rows with these keys, by the key's text."""
    if not keys:
        return {}
    return dict(session.execute(side.texts(keys)).fetchall())
