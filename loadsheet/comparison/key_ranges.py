"""Finds the ranges of an integer key in which a target's keys are not the source's, by index alone.

Hashing keys into buckets reads every page of the table, and forms a group for each row. Where the
index of the key holds all that is asked for, a range of it is summed without either:

    ranges: keys of the target, one of every few hundred or more (a sample)
    per range and side: count(*), sum(hash(key))

3 million keys took 0.42 s of a server's CPU so, and 0.88 s in buckets; a binary COPY of their table
took 1.31 s.

Right only where the server reads nothing but an index in each range: that is looked for in its
plan. Else, every range could read the whole table.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

from loadsheet.answers import plan, take_once, whole_number
from loadsheet.comparison.compare import Sides
from loadsheet.comparison.digest import INTEGERS, Side, Value
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation

_KEYS_IN_A_RANGE = 500
"""Half of the keys that are read once more, where one of them is gone. The way down the index to a
range costs as much as 50 keys."""
_MOST_RANGES = 8192
"""Each is a line of the answer, so that takes less than half a megabyte."""
_MOST_SPANS = 500
"""Each is a condition of the statement that reads their keys."""
_ALL_VISIBLE = 0.9
"""The share of pages that an index needs not look at, as vacuum has left it: the rest is read row
by row, in the order of the key."""
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_LEAF = """
SELECT relkind = 'r' AND NOT relhassubclass AND relallvisible >= %s * relpages AND relpages > 0
FROM pg_class WHERE oid = to_regclass(%s)
"""


_ROWS = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass(%s)"


class Ranges(NamedTuple):
    """What a comparison by ranges has found."""

    keys: int
    """How many the source has."""
    spans: list[tuple[int, int]]
    """The first and the last key of each stretch in which the sides differ, in their order."""


class _Digest(NamedTuple):
    keys: int
    hashes: int


_NONE = _Digest(0, 0)


def differing(sides: Sides) -> Ranges | None:
    """Compare the keys of two tables. The first column of the key divides the ranges.

    None where that is not known to be cheap, or where too much differs: compare by buckets then.
    """
    if not (_has_integers(sides.source) and _has_integers(sides.target)):
        return None
    bounds = _bounds(sides.warehouse_session, sides.target)
    if not _reads_an_index(sides.source_session, sides.source, bounds):
        return None
    with ThreadPoolExecutor(1, thread_name_prefix="loadsheet-comparison") as pool:
        in_target = pool.submit(_digests, sides.warehouse_session, sides.target, bounds)
        in_source = _read(sides.source_session, _by_index(sides.source, bounds), bounds)
        of_target = in_target.result()
    numbers = [
        number
        for number in range(len(bounds) + 1)
        if in_source.get(number, _NONE) != of_target.get(number, _NONE)
    ]
    spans = _spans(numbers, bounds)
    if len(spans) > _MOST_SPANS:
        return None
    return Ranges(sum(digest.keys for digest in in_source.values()), spans)


def within(sides: Sides, spans: Sequence[tuple[int, int]]) -> Sides:
    """The same comparison, of the keys in these stretches alone."""
    return sides._replace(
        source=_limited(sides.source, spans), target=_limited(sides.target, spans)
    )


def _limited(side: Side, spans: Sequence[tuple[int, int]]) -> Side:
    name = _leading(side).landed
    stretches = " OR ".join(
        f"{name} BETWEEN CAST('{first}' AS bigint) AND CAST('{last}' AS bigint)"
        for first, last in spans
    )
    return replace(side, live=f"({side.live}) AND ({stretches})")


def _leading(side: Side) -> Value:
    return side.values[side.key[0]]


def _has_integers(side: Side) -> bool:
    leading = _leading(side)
    return leading.type in INTEGERS and not leading.is_cast


def _bounds(session: Session, side: Side) -> list[int]:
    """The first key of each range but the lowest, in their order."""
    row = session.execute(_ROWS, (side.relation.sql,)).fetchone()
    assert row
    rows = max(row[0], 0)
    count = min(rows // _KEYS_IN_A_RANGE, _MOST_RANGES)
    percent = 100 * count / max(rows, 1)
    sample = session.execute(
        f"SELECT DISTINCT {_leading(side).landed}::bigint FROM {side.relation.sql}"
        f" TABLESAMPLE BERNOULLI ({percent:f}) ORDER BY 1"
    )
    # The lowest of all begins the first range anyway, and nothing is before it.
    return [first for (first,) in sample if first > _LOWEST]


def _spans(numbers: Sequence[int], bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring ranges as one stretch each. Range n begins at the bound before it."""
    edges = [_LOWEST, *bounds, _HIGHEST + 1]
    spans = []
    for _, same in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        stretch = [number for _, number in same]
        spans.append((edges[stretch[0]], edges[stretch[-1] + 1] - 1))
    return spans


def _digests(session: Session, side: Side, bounds: Sequence[int]) -> dict[int, _Digest]:
    if side.live == "TRUE" and _reads_an_index(session, side, bounds):
        return _read(session, _by_index(side, bounds), bounds)
    return _read(session, _by_scan(side, bounds), bounds)


def _read(session: Session, query: str, bounds: Sequence[int]) -> dict[int, _Digest]:
    left = set(range(len(bounds) + 1))
    digests = {}
    for number, count, hashes in session.execute(query):
        take_once(session, left, number)
        digests[number] = _Digest(count, whole_number(session, hashes))
    return digests


def _by_index(side: Side, bounds: Sequence[int]) -> str:
    """SELECT of number, count and sum, in one lookup for each range."""
    firsts = ",".join(map(str, [_LOWEST, *bounds]))
    lasts = ",".join(str(first - 1) for first in [*bounds, _HIGHEST + 1])
    return (
        "SELECT (number - 1)::int, each.* FROM unnest("
        f"CAST('{{{firsts}}}' AS bigint[]), CAST('{{{lasts}}}' AS bigint[])) WITH ORDINALITY"
        " AS _loadsheet_range (first, last, number), LATERAL ("
        f"SELECT count(*), coalesce(sum({side.key_hash}), 0)::text FROM {side.relation.sql}"
        " AS _loadsheet_row"  # whatever its own name is
        f" WHERE {_leading(side).landed} BETWEEN _loadsheet_range.first AND _loadsheet_range.last"
        ") AS each"
    )


def _by_scan(side: Side, bounds: Sequence[int]) -> str:
    """SELECT of number, count and sum for each range that has keys, in one scan."""
    number = "0"
    if bounds:
        firsts = ",".join(map(str, bounds))
        key = f"CAST({_leading(side).landed} AS bigint)"
        number = f"width_bucket({key}, CAST('{{{firsts}}}' AS bigint[]))"
    return (
        f"SELECT {number}, count(*), sum({side.key_hash})::text FROM {side.relation.sql}"
        f" WHERE {side.live} GROUP BY 1"
    )


def _reads_an_index(session: Session, side: Side, bounds: Sequence[int]) -> bool:
    """Whether the server would answer from an index that vacuum has left in order."""
    assert isinstance(side.relation, Relation)
    fit = session.execute(_LEAF, (_ALL_VISIBLE, side.relation.sql)).fetchone()
    if fit != (True,):
        return False
    row = session.execute(f"EXPLAIN (FORMAT JSON) {_by_index(side, bounds)}").fetchone()
    scans = [node for node in _nodes(plan(session, row)) if "Relation Name" in node]
    return bool(scans) and all(
        node["Node Type"] == "Index Only Scan" and "Index Cond" in node for node in scans
    )


def _nodes(one: dict[str, Any]) -> list[dict[str, Any]]:
    below = [node for child in one.get("Plans", ()) for node in _nodes(child)]
    return [one, *below]
