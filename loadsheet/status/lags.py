"""The lags of many tables, asked for together: a table by itself takes ten questions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from loadsheet.answers import at
from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.redact import summary
from loadsheet.source import catalog, holdback, nothing_new
from loadsheet.source.bounds import Cursor
from loadsheet.source.origins import Place
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql.text import typed
from loadsheet.sql.types import NUMBER_TYPES
from loadsheet.status.models import Lag, TableStatus

_log = logging.getLogger(__name__)


def add_known_lags(
    session: Session, schema: str, specs: Mapping[str, Table], tables: Sequence[TableStatus]
) -> None:
    """Add the lag to those of the tables where it is found in a moment: plain tables, by an index,
    or small ones. The others stay as they are, and so do all where the source refuses one."""
    try:
        with session.transaction():
            session.execute(nothing_new.NOT_COMPILED)
            _add(session, schema, specs, {table.name: table for table in tables})
    except psycopg.Error as error:
        if isinstance(error, psycopg.OperationalError) and session.broken:
            raise
        _log.debug("each table is asked about by itself: %s", summary(error))


@dataclass(frozen=True)
class _Asked:
    table: TableStatus
    source: SourceTable
    cursor: Cursor
    newest: str
    """SQL for the highest value."""

    @property
    def query(self) -> str:
        """SQL for the highest value, and how far it is from the watermark."""
        high = f"CAST(newest AS {self.cursor.type})"
        apart = distance(self.cursor, high, self.table.watermark or "")
        return f"newest, {apart} FROM (SELECT ({self.newest})) found (newest)"


def _add(
    session: Session, schema: str, specs: Mapping[str, Table], tables: Mapping[str, TableStatus]
) -> None:
    plain = nothing_new.plain(session, schema, [specs[name] for name in tables])
    described = catalog.describe_plain(session, schema, plain)
    asked = list(_asked(session, specs, tables, described.values()))
    if not asked:
        return
    queries = [f"SELECT {number}, {one.query}" for number, one in enumerate(asked)]
    lags: list[tuple[_Asked, Lag]] = []
    for number, newest, ahead, apart in session.execute(" UNION ALL ".join(queries).encode()):
        one = at(session, asked, number)
        lag = Lag(newest=None, ahead=False)
        if newest is not None:
            lag = lag_of(one.cursor, newest, ahead, apart)
        lags.append((one, lag))
    behind = [one.source.oid for one, lag in lags if lag.ahead]
    sees_writers = bool(behind) and holdback.sees_writers_of(session, behind)
    holder = holdback.open_since(session, holdback.now(session)) if sees_writers else None
    for one, lag in lags:
        if lag.ahead and not sees_writers:
            continue  # the writers of some tables may be seen: each is asked about by itself
        one.table.lag = lag
        one.table.held_back_by = holder if lag.ahead else None


def _asked(
    session: Session,
    specs: Mapping[str, Table],
    tables: Mapping[str, TableStatus],
    described: Iterable[SourceTable],
) -> Iterator[_Asked]:
    """Those of the tables whose highest values are found in a moment."""
    cursors: dict[Place, tuple[SourceTable, Cursor]] = {}
    for source in described:
        spec = specs[source.relation.name].incremental
        assert spec, "`_why_no_lag` has left out those without a cursor"
        with suppress(Refused):
            place = Place(source.oid, source.column(spec.cursor).attnum)
            cursors[place] = source, Cursor(session, source, spec)
    quick = nothing_new.searched_quickly(session, list(cursors))
    presents: dict[tuple[str, str | None, bool], str] = {}
    for source, cursor in cursors.values():
        if source.oid not in quick:
            continue
        with suppress(Refused):  # the table by itself says why
            if cursor.kind not in presents:
                presents[cursor.kind] = cursor.present()
            newest = cursor.newest_query(presents[cursor.kind])
            yield _Asked(tables[source.relation.name], source, cursor, newest)


def distance(cursor: Cursor, high: str, watermark: str) -> str:
    """SQL for whether the value `high` (SQL) is above the watermark, and by how much; NULL where a
    difference means nothing."""
    low = typed(watermark, cursor.type)
    difference = "NULL"
    if cursor.is_time:
        difference = f"extract(epoch FROM CAST({high} AS timestamp) - CAST({low} AS timestamp))"
    elif cursor.type in NUMBER_TYPES:
        difference = f"CAST({high} AS numeric) - CAST({low} AS numeric)"
    return f"{high} > {low}, ({difference})::float8"


def lag_of(cursor: Cursor, newest: str, ahead: bool, apart: float | None) -> Lag:
    """The lag, from what `distance` gives."""
    # A watermark can be above the newest value, for example after rows were deleted.
    if apart is not None and not ahead:
        apart = 0.0
    elif apart is not None and not math.isfinite(apart):
        apart = None
    if cursor.is_time:
        return Lag(newest=newest, ahead=ahead, seconds=apart)
    return Lag(newest=newest, ahead=ahead, distance=apart)
