"""How far each table lags behind its source, and which session holds it back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg

from loadsheet.answers import plan
from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.engine.diagnosis import diagnose, named
from loadsheet.errors import LoadsheetError, Refused, TimedOut
from loadsheet.pinned import PinnedSession, about
from loadsheet.postgres import Session, connect_source
from loadsheet.source import catalog, holdback
from loadsheet.source.bounds import Cursor
from loadsheet.source.holdback import Holder
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import typed
from loadsheet.status.lags import add_known_lags, distance, lag_of
from loadsheet.status.models import (
    BY_DATA_INTERVAL,
    NO_CURSOR,
    NO_WATERMARK,
    NOT_IN_SPEC,
    Lag,
    PipelineStatus,
    TableStatus,
)
from loadsheet.status.rows import batches

# A source that does not answer must not hide what the warehouse knows.
_SOURCE_TIMEOUT = timedelta(seconds=20)
_QUERY_TIMEOUT = "2s"
# In the planner's units. The end of an index costs about 0.5, a scan of a million short rows
# 20,000.
_MOST_COST = 25_000.0


def add_source_lag(pipeline: Pipeline, connections: Connections, status: PipelineStatus) -> None:
    """Add to the tables in `status` how far the source is ahead, or why that is not known."""
    specs = {table.name: table for table in pipeline.tables}
    for table in status.tables:
        # A pattern brought it in, so the file does not list it.
        if table.in_spec and table.name not in specs:
            specs[table.name] = pipeline.table(table.name)
    for table in status.tables:
        table.lag_unknown = _why_no_lag(specs.get(table.name), table)
    tables = [table for table in status.tables if not table.lag_unknown]
    seconds = f"{_SOURCE_TIMEOUT.total_seconds():g} s"
    try:
        connection = connections(pipeline.source.conn_id)
        with (
            limited("asking the source", _SOURCE_TIMEOUT),
            connect_source(connection) as session,
        ):
            status.source_clock = datetime.fromisoformat(begin_on_source(session))
            schema = pipeline.source.schema
            for some in batches(tables):
                add_known_lags(session, schema, specs, some)
                for table in some:
                    if table.lag is None:
                        with about(table.name):
                            _add_lag(session, schema, specs[table.name], table)
    except TimedOut:
        _give_up(f"it did not answer within {seconds}", tables, status)
    except Exception as error:
        _give_up(_reason(error), tables, status)


def begin_on_source(session: PinnedSession) -> str:
    """Give the session, which only reads, a short timeout; returns the source's clock."""
    session.pin({"statement_timeout": _QUERY_TIMEOUT})
    return holdback.now(session)


def _why_no_lag(spec: Table | None, table: TableStatus) -> str:
    """Why there is nothing to ask the source about this table; empty if there is."""
    if spec is None:
        return NOT_IN_SPEC
    if spec.incremental is None:
        return NO_CURSOR
    if spec.incremental.by == "data_interval":
        return BY_DATA_INTERVAL
    if table.watermark is None:
        return NO_WATERMARK
    if table.cursor and table.cursor != spec.incremental.cursor:
        cursor = spec.incremental.cursor
        return f"its watermark belongs to {table.cursor}, but its cursor is now {cursor}"
    return ""


def _add_lag(session: Session, schema: str, spec: Table, table: TableStatus) -> None:
    # An error of one table's query tells nothing about the other tables; a lost connection, which
    # is no error of these kinds, ends the loop over them.
    try:
        table.lag, table.held_back_by = table_lag(session, schema, spec, table.watermark or "")
    except (
        Refused,
        psycopg.ProgrammingError,
        psycopg.DataError,
        psycopg.errors.QueryCanceled,
    ) as error:
        table.lag_unknown = _reason(error)


def table_lag(
    session: psycopg.Connection[Any], schema: str, table: Table, watermark: str
) -> tuple[Lag, Holder | None]:
    """The table's lag behind its source, and the oldest transaction open there if the source is
    ahead.

    Raises Refused, with the reason, if the lag cannot be known or would cost too much to find.
    """
    assert table.incremental
    column = table.incremental.cursor
    described = catalog.describe(session, schema, table)
    cursor = Cursor(session, described, table.incremental)
    query = cursor.newest_query()
    # EXPLAIN without ANALYZE: the query itself does not run.
    row = session.execute(f"EXPLAIN (FORMAT JSON) {query}").fetchone()
    if plan(session, row)["Total Cost"] > _MOST_COST:
        raise Refused(f"{column} has no index, so finding its highest value could take long")
    try:
        row = session.execute(query).fetchone()
    except psycopg.errors.QueryCanceled as error:
        # Or somebody has cancelled it: the server's words tell.
        why = _reason(error)
        raise Refused(
            f"its highest {column} was not found within {_QUERY_TIMEOUT}: {why}"
        ) from error
    if row is None:
        return Lag(newest=None, ahead=False), None
    lag = _lag_between(session, cursor, row[0], watermark)
    holder = None
    if lag.ahead and holdback.sees_open_transactions(session, described):
        holder = holdback.open_since(session, holdback.now(session))
    return lag, holder


def _lag_between(
    session: psycopg.Connection[Any], cursor: Cursor, newest: str, watermark: str
) -> Lag:
    high = typed(newest, cursor.type)
    row = session.execute(f"SELECT {distance(cursor, high, watermark)}").fetchone()
    assert row
    return lag_of(cursor, newest, *row)


def _give_up(why: str, tables: list[TableStatus], status: PipelineStatus) -> None:
    """Note why the source was not asked, for the pipeline and for the tables without an answer."""
    status.source_unknown = why
    for table in tables:
        if not table.lag and not table.lag_unknown:
            table.lag_unknown = "the source could not be asked"


def _reason(error: Exception) -> str:
    """Why something is not known, in one line. Raises `error` again if it is a bug."""
    if isinstance(error, LoadsheetError):
        return str(error)
    diagnosis = diagnose(error)
    if diagnosis is None:
        raise error
    return f"{named(error)}{diagnosis.text_with_code}"
