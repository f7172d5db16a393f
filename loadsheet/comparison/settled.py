"""Which rows of a source table the target must have, and as they are now.

A row that was written after the last load is newer, not different. Two things show that a row is
older. Its transaction: what an open snapshot did not see has an id from its oldest open transaction
on (`ties.written_since`), and a merge reads all that its snapshot sees. And its cursor: hold-back
keeps the watermark below what transactions can still write, so a row below it was there, or no
increment will ever read it.
"""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.source import identity, ties
from loadsheet.source.bounds import Cursor
from loadsheet.source.rows import INTERVAL_TRANSACTION, LOOKBACK, OLDEST_TRANSACTION, Last
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Table
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import without_modifier
from loadsheet.warehouse import intervals
from loadsheet.warehouse.drift import KEY
from loadsheet.warehouse.scope import Scope

_NO_KEY = "[]"
"""What an append records as its key."""


def settled_rows(
    session: Session, table: Table, source: SourceTable, scope: Scope, last: Last
) -> str:
    """SQL condition on the source's rows that the last load must have left in the target as they
    are now. FALSE where nothing shows it, which is so for a view without a cursor."""
    new_leaves = identity.new_leaves(source, last.source_oid, last.source)
    if new_leaves and not source.is_table:
        return "FALSE"
    look = ties.look(session, source, source.columns[0].name)
    unchanged = _unchanged(look, last.facts.get(OLDEST_TRANSACTION))
    condition = unchanged
    spec = table.incremental
    if spec:
        cursor = Cursor(session, source, spec)
        nulls = unchanged
        if spec.by == "data_interval":
            condition = _within_intervals(cursor, spec, scope, unchanged)
            nulls = _unchanged(look, last.facts.get(INTERVAL_TRANSACTION))
        else:
            condition = _below_watermark(cursor, spec, last, unchanged)
        if spec.nulls == "include":
            condition = f"{condition} OR ({cursor.sql} IS NULL AND {nulls})"
    if new_leaves:
        # The next run reads the rows of an attached partition.
        oids = ", ".join(map(str, new_leaves))
        condition = f"({condition}) AND tableoid NOT IN ({oids})"
    return condition


def quickly_unsettled(table: Table, source: SourceTable, last: Last, settled: str) -> str:
    """SQL condition on rows that are not `settled`. By a watermark it is one that an index on the
    cursor answers, and may miss some of them. FALSE where no row shows whether it is."""
    spec = table.incremental
    if settled == "FALSE":
        return "FALSE"
    if spec is None or spec.by == "data_interval" or last.watermark is None:
        return f"({settled}) IS NOT TRUE"
    cursor = ident(spec.cursor)
    plain = without_modifier(source.column(spec.cursor).type)
    conditions = [f"{cursor} > {typed(last.watermark, plain)}"]
    if last.start:
        conditions.append(f"{cursor} < {typed(last.start, plain)}")
    if spec.nulls == "exclude":
        conditions.append(f"{cursor} IS NULL")
    return " OR ".join(conditions)


def _unchanged(look: ties.Ties, oldest: str | None) -> str:
    """SQL condition on the rows that were written before the snapshot whose oldest open transaction
    was `oldest`."""
    written_since = look.written_since(oldest)
    return "FALSE" if written_since is None else f"NOT ({written_since})"


def _below_watermark(cursor: Cursor, spec: Incremental, last: Last, unchanged: str) -> str:
    # Without a record of where the rows begin, nothing shows which of them were left out.
    if last.watermark is None or last.start is None:
        return "FALSE"
    watermark = typed(last.watermark, cursor.type)
    # The watermark's own value and a lookback are read again, so rows there may be newer.
    lookbacks = (spec.lookback, last.facts.get(LOOKBACK))
    bounds = [cursor.before(watermark, lookback) for lookback in lookbacks]
    # An append stops at the watermark. A merge reads all visible rows above it, also those with a
    # cursor from the future, which no watermark will ever pass.
    was_merged = last.facts.get(KEY, _NO_KEY) != _NO_KEY
    seen = f"{cursor.sql} IS NOT NULL" if was_merged else f"{cursor.sql} <= {watermark}"
    condition = f"({cursor.sql} < least({', '.join(bounds)}) OR {seen} AND {unchanged})"
    if last.start:
        condition += f" AND {cursor.sql} >= {typed(last.start, cursor.type)}"
    return condition


def _within_intervals(cursor: Cursor, spec: Incremental, scope: Scope, unchanged: str) -> str:
    conditions = []
    for start, end in intervals.as_list(scope.intervals):
        upper = cursor.at(end.isoformat())
        # What the next run reads again, as `Window.interval` decides it.
        settled = cursor.before(upper, spec.lookback)
        shared = cursor.shared_below(upper) if spec.lookback is None else None
        if shared is not None:
            settled = typed(shared, cursor.type)
        bounds = [f"{cursor.sql} < {upper}", f"({cursor.sql} < {settled} OR {unchanged})"]
        if start is not None:
            bounds.append(f"{cursor.sql} >= {cursor.at(start.isoformat())}")
        conditions.append(f"({' AND '.join(bounds)})")
    return f"({' OR '.join(conditions) or 'FALSE'})"
