"""The sample of a table that a run for development reads: the same rows each time, and rows that belong together.

A row is taken by the hash of its key's first column, so that `orders (order_no)` and `order_lines (order_no, line_no)`
keep what matches; TABLESAMPLE would draw each table by itself, and not from views and foreign tables at all. The
server reads the table and sends only the sample.
"""

from __future__ import annotations

from dataclasses import replace

from loadsheet.outcome import Sample
from loadsheet.postgres import Session
from loadsheet.source.catalog import SourceTable
from loadsheet.source.reading import Reading
from loadsheet.sql.text import ident, idents

LEAST = 1_000
"""A share of a small table would leave nothing to join with: what has no more rows is read whole."""
_COUNTED = 100_000
_BITS = 1 << 31
# Fewer values than this are no sample: a third of the rows, or none.
_FEW_VALUES = """
SELECT attname FROM pg_stats
WHERE schemaname = %s AND tablename = %s AND n_distinct BETWEEN 0 AND 1000
"""


def sampled(session: Session, source: SourceTable, rows: Reading, sample: Sample) -> Reading:
    """`rows`, but only those of the sample. How many a large table has is the planner's estimate."""
    row = session.execute(f"EXPLAIN (FORMAT JSON) SELECT FROM {source.relation.sql}").fetchone()
    expected = max(row[0][0]["Plan"]["Plan Rows"] if row else 0, 1)
    wanted = sample.rows if sample.rows is not None else max((sample.share or 0) * expected, LEAST)
    if wanted >= expected or _has_at_most(session, source, min(int(wanted), _COUNTED)):
        return rows
    limit = max(round(wanted / expected * _BITS), 1)
    return replace(rows, sample=f"(hashtextextended({_drawn_by(session, source)}, 0) & {_BITS - 1}) < {limit}")


def _has_at_most(session: Session, source: SourceTable, rows: int) -> bool:
    """Counted: a table nobody has analysed is estimated at thousands of rows when it holds ten."""
    first = f"SELECT FROM {source.relation.sql} LIMIT {rows + 1}"
    found = session.execute(f"SELECT count(*) <= {rows} FROM ({first}) first").fetchone()
    return bool(found and found[0])


def _drawn_by(session: Session, source: SourceTable) -> str:
    """What is hashed: the key's first column; the whole key where that has few values, the whole row without a key."""
    if not source.key:
        return f"CAST(ROW({idents([column.name for column in source.columns])}) AS text)"
    few = {row[0] for row in session.execute(_FEW_VALUES, (source.relation.schema, source.relation.name))}
    first = next((name for name in source.key if name not in few), None)
    return f"CAST({ident(first)} AS text)" if first else f"CAST(ROW({idents(source.key)}) AS text)"
