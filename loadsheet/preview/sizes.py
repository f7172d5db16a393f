"""How many rows and bytes a table holds, and an extract would read: estimated, counted or compared,
whichever is quick enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from loadsheet.answers import plan
from loadsheet.engine.reading import file_format, read_and_store
from loadsheet.lake.parts import Layout, PartStore
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import Session
from loadsheet.preview.models import StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline

# The sum over the table and what inherits from it, such as partitions, including long values that
# are stored outside the rows (TOAST). reltuples is -1 before the first ANALYZE.
_TABLE_SIZE = """
WITH RECURSIVE part (oid) AS (
    SELECT %(oid)s::oid UNION SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = part.oid
)
SELECT CASE WHEN min(reltuples) >= 0 THEN sum(reltuples)::bigint END,
       sum(pg_table_size(oid))::bigint
FROM pg_class JOIN part USING (oid) WHERE relkind IN ('r', 'm')
"""
_PLAIN_SIZES = """
SELECT oid, CASE WHEN reltuples >= 0 THEN reltuples::bigint END, pg_table_size(oid)
FROM pg_class WHERE oid = ANY (%s::oid[])
"""
COUNTED_BYTES = 64 << 20
"""Up to this size a table is read in a moment, so its rows are counted and not estimated."""
_MOST_COUNTED = 100_000
COMPARED_BYTES = 8 << 20
"""Up to this size a table is read, hashed and thrown away in a moment."""


def plain_sizes(session: Session, oids: Sequence[int]) -> dict[int, tuple[int | None, int | None]]:
    """What `table_size` gives for tables that nothing inherits from, by their oids."""
    rows = session.execute(_PLAIN_SIZES, (list(oids),))
    return {oid: (number, size) for oid, number, size in rows}


def table_size(session: Session, source: SourceTable) -> tuple[int | None, int | None]:
    """Rows and bytes of the whole table, by its catalog.

    Rows are None if it was never analyzed; both are None for a view.
    """
    return session.execute(_TABLE_SIZE, {"oid": source.oid}).fetchone() or (None, None)


def estimate_rows(
    preview: StepPreview, session: Session, source: SourceTable, to_read: Selection, count: bool
) -> None:
    """Set the preview's rows and bytes: the planner's estimate, or the number of rows if `count`
    is set and there are not too many."""
    try:
        row = session.execute(f"EXPLAIN (FORMAT JSON) {preview.sql}").fetchone()
        expected = plan(session, row)
        rows, width = int(expected["Plan Rows"]), int(expected["Plan Width"])
        # Kept if counting takes too long.
        preview.rows = rows
        if count:
            where = f" WHERE {to_read.where}" if to_read.where else ""
            # One more than the most that are counted, which shows that there are too many.
            some = f"SELECT FROM {source.relation.sql}{where} LIMIT {_MOST_COUNTED + 1}"
            row = session.execute(f"SELECT count(*) FROM ({some}) some_rows").fetchone()
            counted = row[0] if row else 0
            preview.rows_are_exact = counted <= _MOST_COUNTED
            preview.rows = counted if preview.rows_are_exact else max(rows, counted)
        preview.bytes = preview.rows * width
    except UNANSWERED:
        preview.add_remark("note", "size", f"the number of rows is {NOT_KNOWN}")


def content_sha256(
    pipeline: Pipeline, session: PinnedSession, source: SourceTable, to_read: Selection
) -> str | None:
    """The hash of the table's content that the engine would compare with the last load's: of a
    table without a cursor, which is read whole. The rows are read and not stored."""
    layout = Layout(file_format(pipeline, source), source.columns, source.key)
    store = PartStore(cast(Any, _DiscardingLake()), lambda: "", layout, lambda rows, size: None)
    # One snapshot, as in the extract. Otherwise the readers' rows may not belong together.
    with session.snapshot():
        session.fix_snapshot()
        stored = read_and_store(session, source, to_read, store, is_hashed=True)
    stored.abandon()
    return stored.content_sha256


class _DiscardingLake:
    """A lake that stores nothing."""

    def put(self, name: str, data: bytes) -> str:
        """Discard `data`."""
        return ""


def size_text(count: int) -> str:
    """A number of bytes as text, such as `828 B` and `1.5 MB`."""
    size = float(count)
    unit = "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    if unit == "B" or size >= 100:
        return f"{size:.0f} {unit}"
    return f"{size:.1f} {unit}"
