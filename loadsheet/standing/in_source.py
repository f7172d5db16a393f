"""How far the tables are behind their source, and who holds them back there: asked just now, and briefly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import psycopg

from loadsheet.connections import Connections
from loadsheet.errors import LoadsheetError, Refused, TimedOut
from loadsheet.limit import limited
from loadsheet.postgres import Session, connect_source
from loadsheet.source import lag
from loadsheet.spec.models import Pipeline, Table
from loadsheet.standing.models import PipelineStanding, TableStanding
from loadsheet.steps.diagnosis import diagnose

# A source that does not answer must not keep what the warehouse knows from being shown.
_LONGEST = timedelta(seconds=20)


def ask(pipeline: Pipeline, connections: Connections, found: PipelineStanding) -> None:
    """Fill in what the source says of the tables in `found`, or why it says nothing."""
    named = {table.name: table for table in pipeline.tables}
    specs = {t.name: named.get(t.name) or pipeline.table(t.name) for t in found.tables if t.in_spec}
    for table in found.tables:
        table.lag_unknown = _unasked(specs.get(table.name), table)
    asked = [table for table in found.tables if not table.lag_unknown]
    try:
        with limited("asking the source", _LONGEST), connect_source(connections(pipeline.source.conn_id)) as session:
            found.source_clock = datetime.fromisoformat(lag.begin(session))
            for table in asked:
                _ask(session, pipeline.source.schema, specs[table.name], table)
    except TimedOut:
        _give_up(f"it was not done answering after {_LONGEST.total_seconds():g} s", asked, found)
    except Exception as error:
        _give_up(_words(error), asked, found)


def _give_up(why: str, asked: list[TableStanding], found: PipelineStanding) -> None:
    found.source_unknown = why
    for table in asked:
        table.lag_unknown = "" if table.lag else table.lag_unknown or "the source could not be asked"


def _unasked(spec: Table | None, table: TableStanding) -> str:
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


def _ask(session: Session, schema: str, spec: Table, table: TableStanding) -> None:
    with _one_table(table):
        table.lag, table.held_back_by = lag.lag(session, schema, spec, table.watermark or "")


@contextmanager
def _one_table(table: TableStanding) -> Iterator[None]:
    """What one table is refused for says nothing about the others; a lost line does."""
    try:
        yield
    except (Refused, psycopg.ProgrammingError, psycopg.DataError, psycopg.errors.QueryCanceled) as error:
        table.lag_unknown = _words(error)


def _words(error: Exception) -> str:
    """What cannot be known and why, in one line. Raises `error` again when it is a bug."""
    if isinstance(error, LoadsheetError):
        return str(error)
    found = diagnose(error)
    if found is None:
        raise error
    return f"{found.text} ({found.code})"
