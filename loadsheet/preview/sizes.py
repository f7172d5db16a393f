"""How much a table holds and a reading would bring: estimated, counted or compared, whichever is
near at hand."""

from __future__ import annotations

from typing import Any, cast

from loadsheet.engine.extract import file_format, read_and_store
from loadsheet.lake.parts import Layout, PartStore
from loadsheet.postgres import Session
from loadsheet.preview.models import StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED
from loadsheet.source.reading import Reading
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline

# With what inherits from it, partitions too, and with the long values that are kept outside of the
# rows.
_SIZE = """
WITH RECURSIVE part (oid) AS (
    SELECT %(oid)s::oid UNION SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = part.oid
)
SELECT CASE WHEN min(reltuples) >= 0 THEN sum(reltuples)::bigint END, sum(pg_table_size(oid))::bigint
FROM pg_class JOIN part USING (oid) WHERE relkind IN ('r', 'm')
"""
# Read in a moment, so that what the planner would guess may as well be counted.
SMALL_BYTES = 64 << 20
_MOST_COUNTED = 100_000
# Read, hashed and thrown away in a moment.
COMPARED_BYTES = 8 << 20


def of_table(session: Session, source: SourceTable) -> tuple[int | None, int | None]:
    """Rows and bytes of the whole table by its catalog; no rows where it was never analyzed,
    nothing of a view."""
    return session.execute(_SIZE, {"oid": source.oid}).fetchone() or (None, None)


def estimate(
    found: StepPreview, session: Session, source: SourceTable, rows: Reading, near: bool
) -> None:
    """The planner's guess, or the number itself where it is near at hand."""
    try:
        row = session.execute(f"EXPLAIN (FORMAT JSON) {found.sql}").fetchone()
        plan = row[0][0]["Plan"] if row else {"Plan Rows": 0, "Plan Width": 0}
        found.rows, width = int(plan["Plan Rows"]), int(plan["Plan Width"])
        if near:
            where = f" WHERE {rows.where}" if rows.where else ""
            few = f"SELECT FROM {source.relation.sql}{where} LIMIT {_MOST_COUNTED + 1}"
            row = session.execute(f"SELECT count(*) FROM ({few}) few").fetchone()
            counted = row[0] if row else 0
            found.rows_are_exact = counted <= _MOST_COUNTED
            found.rows = counted if found.rows_are_exact else max(found.rows, counted)
        found.bytes = found.rows * width
    except UNANSWERED:
        found.tell("note", "size", f"the number of rows is {NOT_KNOWN}")


def content_sha256(
    pipeline: Pipeline, session: Session, source: SourceTable, rows: Reading
) -> str | None:
    """The hash that the engine would compare with the last one; the rows themselves go nowhere."""
    layout = Layout(file_format(pipeline, source), source.columns, source.key)
    store = PartStore(cast(Any, _Nowhere()), lambda: "", layout, lambda rows, size: None)
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        stored = read_and_store(session, source, rows, store)
    stored.abandon()
    return stored.content_sha256


class _Nowhere:
    """A lake that keeps nothing."""

    def put(self, name: str, data: bytes) -> None:
        """Forget `data`."""


def shown(count: int) -> str:
    """A number of bytes for people."""
    size, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while size >= 1000 and (larger := next(units, None)):
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
