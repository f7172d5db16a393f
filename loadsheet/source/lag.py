"""How far a source table is ahead of what was loaded, and who is open there: for people, and only where it is cheap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.source import catalog, holdback
from loadsheet.source.bounds import Cursor
from loadsheet.source.holdback import Holder
from loadsheet.spec.models import Table
from loadsheet.sql.text import typed

# In the planner's units. The end of an index costs about 0.5, a scan of a million short rows 20,000.
_MOST_COST = 25_000.0
_LONGEST = "2s"
_NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision"}


@dataclass(frozen=True, kw_only=True)
class Lag:
    """The newest cursor in the source beside the watermark."""

    newest: str | None
    """As the server writes it; None in an empty table. One from the future is not counted."""
    ahead: bool
    """There is something above the watermark."""
    seconds: float | None = None
    """Between the two, for a cursor that is a time; 0 when nothing is ahead."""
    distance: float | None = None
    """The same for a cursor that is a number; None where one of the two is infinite or no number."""


def begin(session: psycopg.Connection[Any]) -> str:
    """Make the session one that only asks, and briefly; returns the source's clock."""
    session.execute(
        "SELECT set_config('statement_timeout', %s, false), set_config('default_transaction_read_only', 'on', false)",
        (_LONGEST,),
    )
    return holdback.now(session)


def lag(session: psycopg.Connection[Any], schema: str, table: Table, watermark: str) -> tuple[Lag, Holder | None]:
    """The table's lag behind its source, and the oldest transaction open there when something is ahead.

    Raises Refused, with the reason, where it cannot be known or would cost too much.
    """
    assert table.incremental
    described = catalog.describe(session, schema, table)
    cursor = Cursor(session, described, table.incremental)
    query = cursor.newest_query()
    _refuse_dear(session, query, f"{table.incremental.cursor} has no index to find its highest value by")
    try:
        row = session.execute(query).fetchone()
    except psycopg.errors.QueryCanceled as error:
        raise Refused(f"its highest {table.incremental.cursor} was not found within {_LONGEST}") from error
    found = _compared(session, cursor, row[0], watermark) if row else Lag(newest=None, ahead=False)
    holder = None
    if found.ahead and holdback.sees(session, described, table.incremental.cursor, required=False):
        holder = holdback.open_since(session, holdback.now(session))
    return found, holder


def _refuse_dear(session: psycopg.Connection[Any], query: str, reason: str) -> None:
    row = session.execute(f"EXPLAIN (FORMAT JSON) {query}").fetchone()
    if row and row[0][0]["Plan"]["Total Cost"] > _MOST_COST:
        raise Refused(reason)


def _compared(session: psycopg.Connection[Any], cursor: Cursor, newest: str, watermark: str) -> Lag:
    high, low = typed(newest, cursor.type), typed(watermark, cursor.type)
    distance = "NULL"
    if cursor.is_time:
        distance = f"extract(epoch FROM CAST({high} AS timestamp) - CAST({low} AS timestamp))"
    elif cursor.type in _NUMBERS:
        distance = f"CAST({high} AS numeric) - CAST({low} AS numeric)"
    ahead, apart = session.execute(f"SELECT {high} > {low}, ({distance})::float8").fetchone() or (False, None)
    if apart is not None:
        apart = (apart if math.isfinite(apart) else None) if ahead else 0.0
    return Lag(
        newest=newest, ahead=ahead, seconds=apart if cursor.is_time else None,
        distance=None if cursor.is_time else apart,
    )  # fmt: skip
