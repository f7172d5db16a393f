"""How many rows the targets have, asked for many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import psycopg

from loadsheet.answers import at
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.status.models import RowCount

One = TypeVar("One")
# One statement reads so many tables.
_AT_ONCE = 100
# Counting that many pages (8 MB) takes about 20 ms.
_COUNTED_PAGES = 1_000
_SIZES = """
SELECT place - 1, relkind IN ('r', 'p', 'm'),
       coalesce(pg_relation_size(oid), 0) / current_setting('block_size')::int,
       reltuples::bigint
FROM unnest(%s::text[]) WITH ORDINALITY AS target (name, place)
JOIN pg_class ON oid = to_regclass(target.name)
"""
_NOT_KNOWN = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
)


def batches(many: Sequence[One]) -> Iterator[Sequence[One]]:
    """Parts that are asked about in one statement each."""
    for start in range(0, len(many), _AT_ONCE):
        yield many[start : start + _AT_ONCE]


def rows_in(session: Session, targets: Sequence[Relation]) -> dict[Relation, RowCount]:
    """The rows of each table. Those of a large one are estimated by its last VACUUM or ANALYZE."""
    rows: dict[Relation, RowCount] = {}
    for some in batches(targets):
        try:
            rows |= _rows_in(session, some)
        except _NOT_KNOWN:
            # One of them is locked or may not be read: that is told of it alone.
            for target in some:
                try:
                    rows |= _rows_in(session, [target])
                except _NOT_KNOWN:
                    rows[target] = RowCount(number=None)
    return rows


def _rows_in(session: Session, targets: Sequence[Relation]) -> dict[Relation, RowCount]:
    rows = {target: RowCount(number=None, target_exists=False) for target in targets}
    counts = []
    for place, is_table, pages, estimate in session.execute(
        _SIZES, ([target.sql for target in targets],)
    ):
        target = at(session, targets, place)
        # A view is not counted: its query could take long. -1: never estimated
        is_estimated = is_table and estimate >= 0
        rows[target] = RowCount(number=estimate if is_estimated else None)
        if is_table and pages <= _COUNTED_PAGES:
            counts.append(f"SELECT {place}, count(*) FROM {target.sql}")
    if counts:
        for place, number in session.execute(" UNION ALL ".join(counts).encode()):
            rows[at(session, targets, place)] = RowCount(number=number, exact=True)
    return rows
