"""Which rows of a source table the target must have, and as they are now.

A row that was written after the last load is newer, not different. Two things show that a row is
older. Its transaction: what an open snapshot did not see has an id from its oldest open transaction
on (`ties.written_since`). And its cursor: hold-back keeps the watermark below what transactions can
still write, so a row below it was there, or no increment will ever read it.
"""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.source import identity, ties
from loadsheet.source.bounds import Cursor
from loadsheet.source.rows import INITIAL_VALUE
from loadsheet.source.table import SourceTable
from loadsheet.source.window import before
from loadsheet.spec.models import Incremental, Table
from loadsheet.sql.text import typed
from loadsheet.warehouse import intervals
from loadsheet.warehouse.fence import Scope

_LONGEST_BUCKET = "1 day"
"""Applications cut times off, to the hour for example, and their rows come late (`bounds`)."""


def settled_rows(session: Session, table: Table, source: SourceTable, scope: Scope) -> str:
    """SQL condition on the source's rows that the last load must have left in the target as they
    are now. FALSE where nothing shows it, which is so for a view without a cursor."""
    facts = scope.source or {}
    new_leaves = identity.new_leaves(source, scope.source_oid, facts)
    if new_leaves and not source.is_table:
        return "FALSE"
    look = ties.look(session, source, source.columns[0].name)
    written_since = look.written_since(facts.get("oldest_transaction"))
    unchanged = "FALSE" if written_since is None else f"NOT ({written_since})"
    condition = unchanged
    if table.incremental:
        condition = _read_by(session, source, table.incremental, scope, unchanged)
    if new_leaves:
        # The next run reads the rows of an attached partition.
        oids = ", ".join(map(str, new_leaves))
        condition = f"({condition}) AND tableoid NOT IN ({oids})"
    return condition


def _read_by(
    session: Session, source: SourceTable, spec: Incremental, scope: Scope, unchanged: str
) -> str:
    """SQL condition on the rows that increments have read."""
    cursor = Cursor(session, source, spec)
    if spec.by == "data_interval":
        condition = _within_intervals(session, cursor, spec, scope, unchanged)
    else:
        condition = _below_watermark(session, cursor, spec, scope, unchanged)
    if spec.nulls == "include":
        condition = f"{condition} OR ({cursor.sql} IS NULL AND {unchanged})"
    return condition


def _below_watermark(
    session: Session, cursor: Cursor, spec: Incremental, scope: Scope, unchanged: str
) -> str:
    if scope.watermark is None:
        return "FALSE"
    watermark = typed(scope.watermark, cursor.type)
    # The watermark's own value and a lookback are read again, so rows there may be newer.
    lower = before(session, cursor, spec, watermark)
    condition = f"({cursor.sql} < {lower} OR {cursor.sql} <= {watermark} AND {unchanged})"
    start = (scope.source or {}).get(INITIAL_VALUE)
    if start:
        condition += f" AND {cursor.sql} >= {typed(start, cursor.type)}"
    return condition


def _within_intervals(
    session: Session, cursor: Cursor, spec: Incremental, scope: Scope, unchanged: str
) -> str:
    conditions = []
    for start, end in intervals.as_list(scope.intervals):
        upper = cursor.at(end.isoformat())
        # The next run reads the rows of the lookback again, or those with a time that later rows
        # may share.
        settled = before(session, cursor, spec, upper)
        if spec.lookback is None:
            settled = f"{upper} - interval '{_LONGEST_BUCKET}'"
        bounds = [f"{cursor.sql} < {upper}", f"({cursor.sql} < {settled} OR {unchanged})"]
        if start is not None:
            bounds.append(f"{cursor.sql} >= {cursor.at(start.isoformat())}")
        conditions.append(f"({' AND '.join(bounds)})")
    return f"({' OR '.join(conditions) or 'FALSE'})"
