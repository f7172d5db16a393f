"""A large table in ranges of its pages, to be read side by side in one snapshot."""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.source.catalog import SourceTable

# Smaller ones are read in a fraction of a second.
_LEAST_BYTES = 32 << 20
# A reader that is done takes another range, so that no one has half of the table left when the others have ended.
_PER_READER = 4
# Before PostgreSQL 14 a range of ctids was found by reading the whole table.
_RANGE_SCANS_SINCE = 140000
_PAGES = """
SELECT pg_relation_size(c.oid) / current_setting('block_size')::int, current_setting('block_size')::int
FROM pg_class c JOIN pg_am ON pg_am.oid = relam
WHERE c.oid = %s AND relkind = 'r' AND amname = 'heap' AND NOT relhassubclass
"""


def split(session: Session, source: SourceTable, readers: int) -> list[str]:
    """Conditions on `source`, each of which holds for the rows of one range of pages, in their order.

    A single condition that holds for all rows where the table is small, is no plain table, or one reader must do.
    """
    if readers < 2 or session.info.server_version < _RANGE_SCANS_SINCE:
        return ["TRUE"]
    pages, page_bytes = session.execute(_PAGES, (source.oid,)).fetchone() or (0, 1)
    count = min(pages * page_bytes // _LEAST_BYTES, readers * _PER_READER)
    if count < 2:
        return ["TRUE"]
    starts = [pages * n // count for n in range(1, count)]
    # The last is open: rows may have been added beyond the pages that were counted, before the snapshot.
    lows = ["", *(f"ctid >= '({start},0)'" for start in starts)]
    highs = [*(f"ctid < '({start},0)'" for start in starts), ""]
    return [" AND ".join(filter(None, pair)) for pair in zip(lows, highs, strict=True)]
