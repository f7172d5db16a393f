"""Ranges of a source table's pages, read with pauses: one long scan would slow down a source under
load."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.source import stream
from loadsheet.source.table import SourceTable

_LEAST_BYTES = 64 << 20
"""Such a range is read in less than a second."""
_MOST_RANGES = 64
"""Each answers with a line per bucket, and keeps a cursor open where rows differ."""
_LEAVES = """
SELECT coalesce(max(pages), 0),
    CAST(coalesce(sum(pages), 0) * current_setting('block_size')::int AS bigint),
    coalesce(bool_and(is_heap), true)
FROM (
    SELECT pg_relation_size(c.oid) / current_setting('block_size')::int AS pages,
        relkind = 'r' AND coalesce(amname = 'heap', false) AS is_heap
    FROM pg_class c LEFT JOIN pg_am ON pg_am.oid = relam WHERE c.oid = ANY (%s)
) leaf
"""
_Range = TypeVar("_Range")


def gentle_ranges(session: Session, source: SourceTable) -> list[str]:
    """Conditions that divide the rows of a table, or of each of its partitions, into ranges of
    pages.

    Raises Refused where its rows have no pages, or the server would read all of them for each
    range.
    """
    if session.info.server_version < stream.RANGE_SCANS_SINCE:
        raise Refused(
            f"{source.relation}: --gentle reads ranges of pages, which needs PostgreSQL 14 on the"
            " source. Compare it without --gentle"
        )
    row = session.execute(_LEAVES, (list(source.beneath.leaves),)).fetchone()
    assert row
    pages, size, are_heaps = row
    if not source.is_table or not are_heaps:
        raise Refused(
            f"{source.relation}: --gentle reads ranges of pages, and only plain and partitioned"
            " tables have those. Compare it without --gentle"
        )
    return stream.cut(pages, min(size // _LEAST_BYTES, _MOST_RANGES, pages))


def with_pauses(ranges: Iterable[_Range]) -> Iterator[_Range]:
    """The ranges. Between two, a pause as long as the work on the one before took: so the source
    works for half of the time at most, and less the slower it is."""
    started = None
    for each in ranges:
        if started is not None:
            time.sleep(time.monotonic() - started)
        started = time.monotonic()
        yield each
