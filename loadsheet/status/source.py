"""How far each table lags behind its source, and which session holds it back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.engine.diagnosis import diagnose
from loadsheet.errors import LoadsheetError, Refused, TimedOut
from loadsheet.postgres import Session, connect_source
from loadsheet.source import catalog, holdback
from loadsheet.source.bounds import Cursor
from loadsheet.source.holdback import Holder
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import typed
from loadsheet.status.models import Lag, PipelineStatus, TableStatus

# In the planner's units. The end of an index costs about 0.5, a scan of a million short rows
# 20,000.
_MOST_COST = 25_000.0
_QUERY_TIMEOUT = "2s"
_NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision"}


def begin_on_source(session: psycopg.Connection[Any]) -> str:
    """Make the session one that only asks, and briefly; returns the source's clock."""
    session.execute(
        "SELECT set_config('statement_timeout', %s, false),"
        " set_config('default_transaction_read_only', 'on', false)",
        (_QUERY_TIMEOUT,),
    )
    return holdback.now(session)


def table_lag(
    session: psycopg.Connection[Any], schema: str, table: Table, watermark: str
) -> tuple[Lag, Holder | None]:
    """The table's lag behind its source, and the oldest transaction open there when something is
    ahead.

    Raises Refused, with the reason, where it cannot be known or would cost too much.
    """
    assert table.incremental
    described = catalog.describe(session, schema, table)
    cursor = Cursor(session, described, table.incremental)
    query = cursor.newest_query()
    _refuse_dear(
        session, query, f"{table.incremental.cursor} has no index to find its highest value by"
    )
    try:
        row = session.execute(query).fetchone()
    except psycopg.errors.QueryCanceled as error:
        raise Refused(
            f"its highest {table.incremental.cursor} was not found within {_QUERY_TIMEOUT}"
        ) from error
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
    ahead, apart = session.execute(f"SELECT {high} > {low}, ({distance})::float8").fetchone() or (
        False,
        None,
    )
    if apart is not None:
        apart = (apart if math.isfinite(apart) else None) if ahead else 0.0
    return Lag(
        newest=newest,
        ahead=ahead,
        seconds=apart if cursor.is_time else None,
        distance=None if cursor.is_time else apart,
    )


# A source that does not answer must not keep what the warehouse knows from being shown.
_SOURCE_TIMEOUT = timedelta(seconds=20)


def add_source_lag(pipeline: Pipeline, connections: Connections, found: PipelineStatus) -> None:
    """Fill in what the source says of the tables in `found`, or why it says nothing."""
    named = {table.name: table for table in pipeline.tables}
    specs = {t.name: named.get(t.name) or pipeline.table(t.name) for t in found.tables if t.in_spec}
    for table in found.tables:
        table.lag_unknown = _unasked(specs.get(table.name), table)
    asked = [table for table in found.tables if not table.lag_unknown]
    try:
        with (
            limited("asking the source", _SOURCE_TIMEOUT),
            connect_source(connections(pipeline.source.conn_id)) as session,
        ):
            found.source_clock = datetime.fromisoformat(begin_on_source(session))
            for table in asked:
                _ask(session, pipeline.source.schema, specs[table.name], table)
    except TimedOut:
        _give_up(
            f"it was not done answering after {_SOURCE_TIMEOUT.total_seconds():g} s", asked, found
        )
    except Exception as error:
        _give_up(_words(error), asked, found)


def _give_up(why: str, asked: list[TableStatus], found: PipelineStatus) -> None:
    found.source_unknown = why
    for table in asked:
        table.lag_unknown = (
            "" if table.lag else table.lag_unknown or "the source could not be asked"
        )


def _unasked(spec: Table | None, table: TableStatus) -> str:
    """Why there is nothing to ask the source about this table; empty when there is."""
    if spec is None:
        return "it is not in the spec"
    if spec.incremental is None:
        return "it is copied whole, without a cursor"
    if spec.incremental.by == "data_interval":
        return "it is read by data interval, without a watermark"
    if table.watermark is None:
        return "it has no watermark yet"
    if table.cursor and table.cursor != spec.incremental.cursor:
        return f"its watermark is of {table.cursor}, its cursor now is {spec.incremental.cursor}"
    return ""


def _ask(session: Session, schema: str, spec: Table, table: TableStatus) -> None:
    with _one_table(table):
        table.lag, table.held_back_by = table_lag(session, schema, spec, table.watermark or "")


@contextmanager
def _one_table(table: TableStatus) -> Iterator[None]:
    """What one table is refused for says nothing about the others; a lost line does."""
    try:
        yield
    except (
        Refused,
        psycopg.ProgrammingError,
        psycopg.DataError,
        psycopg.errors.QueryCanceled,
    ) as error:
        table.lag_unknown = _words(error)


def _words(error: Exception) -> str:
    """What cannot be known and why, in one line. Raises `error` again when it is a bug."""
    if isinstance(error, LoadsheetError):
        return str(error)
    found = diagnose(error)
    if found is None:
        raise error
    return f"{found.text} ({found.code})"
