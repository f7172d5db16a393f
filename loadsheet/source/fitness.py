"""Refuses tables that cannot be loaded faithfully, before any row is read. Each refusal names the
columns, their types and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.source import zones
from loadsheet.spec.models import Table
from loadsheet.spec.schedule import is_number
from loadsheet.sql.extensions import is_known
from loadsheet.sql.text import ident, literal, typed
from loadsheet.sql.types import (
    MAX_COLUMNS,
    NUMBER_TYPES,
    REMEDY,
    TIME_TYPES,
    Column,
    has_order,
    unfit,
    without_modifier,
)
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.source.table import SourceTable

# Types whose values can grow in the order in which rows are written. A text is ordered by its
# collation, a boolean has two values, a random uuid may be anywhere.
_CURSOR_TYPES = (*TIME_TYPES, *NUMBER_TYPES)
# PostgreSQL 17 gave infinity to intervals and encodes it as their lowest and highest values: to
# older servers the same bytes are an ordinary interval.
_INFINITE_SINCE = 170000
_INFINITE = "infinity|178956970 years .*(2147483648 days|2147483647 days 2562047788:00:54.775807)"


def refuse_unfit(source: SourceTable, table: Table) -> None:
    """Raises Refused, naming every column and its type, when the table cannot be loaded as the spec
    of `table` asks."""
    if len(source.columns) > MAX_COLUMNS:
        raise Refused(
            f"{source.relation} has {counted(len(source.columns), 'column')}. With _load_id the"
            " target would need more than the 1,600 columns PostgreSQL allows: leave some out with"
            " columns.exclude"
        )
    # A load fills a new table under such a name before it replaces the target.
    if re.fullmatch(r"_loadsheet_\d+", source.relation.name):
        raise Refused(
            f"{source.relation} has a name that Loadsheet reserves: read the table through a view"
            " with another name"
        )
    problems = [
        *_value_problems(source),
        *_key_problems(source, table),
        *_cursor_problems(source, table),
    ]
    if problems:
        raise Refused(f"{source.relation}: {'; '.join(problems)}")


def refuse_for_parquet(source: SourceTable) -> None:
    """Raises Refused, naming every column and its type, when Parquet cannot hold the table's values
    exactly."""
    problems = unfit(source.columns)
    if problems:
        raise Refused(f"{source.relation}: {'; '.join([*problems, REMEDY])}")


def _value_problems(source: SourceTable) -> Iterator[str]:
    for column in source.columns:
        nature = source.natures[column.name]
        if not nature.own_text or not column.cast:
            continue
        if is_known(nature.extension, nature.element):
            yield (
                f"{_described(column)} is of the extension {nature.extension} and lands only as"
                " itself: the warehouse needs the extension, in a schema that its role may use (run"
                f" CREATE EXTENSION {nature.extension}; there), and lake.format must not be binary."
                " Or leave the column out with columns.exclude"
            )
        else:
            yield (
                f"{_described(column)} has a user-defined cast to text, which may not show the"
                " whole value: read it through a view, or leave it out with columns.exclude"
            )


def _key_problems(source: SourceTable, table: Table) -> Iterator[str]:
    for name in source.key:
        column = source.column(name)
        nature = source.natures[name]
        # An enum becomes text in the target: other values, but equal where they are equal here.
        changes_equality = nature.loose or (column.cast and not nature.is_enum)
        if not has_order(nature.element):
            yield (
                f"{_described(column)} cannot be part of a key, because its type has no order: name"
                " another primary_key"
            )
        elif changes_equality and table.mode_with_key(True) == "merge":
            yield (
                f"{_described(column)} cannot be part of a key to merge by: in the target it is"
                f" {column.type}, where values that are equal in the source may differ. Name"
                " another primary_key, or replace the table (mode: replace)"
            )


def _cursor_problems(source: SourceTable, table: Table) -> Iterator[str]:
    if not table.incremental:
        return
    column = source.column(table.incremental.cursor)
    if column.cast or without_modifier(column.type) not in _CURSOR_TYPES:
        yield (
            f"{_described(column)} cannot be a cursor: only the values of a time or a number can"
            " grow with each row that is written. Name such a column, or read the whole table"
            " (remove incremental)"
        )
        return
    kind = without_modifier(column.type)
    if table.incremental.time_zone is not None and not zones.is_zoneless(kind):
        yield (
            "incremental.time_zone is for a cursor without a time zone, and"
            f" {_described(column)} is not one: remove it"
        )
    lookback = table.incremental.lookback
    is_time = kind in TIME_TYPES
    if lookback is not None and is_number(lookback) == is_time:
        wanted = "a duration, such as 15m" if is_time else "a number, such as 100"
        yield (
            f"incremental.lookback {lookback} does not fit the cursor, {_described(column)}: write"
            f" {wanted}"
        )


def refuse_values(
    source: Session, described: SourceTable, table: Table, where: str, warehouse: Session
) -> None:
    """Raises Refused when the rows that `where` selects (empty: all) have values that the warehouse
    cannot store or would read as other values.

    Queries the table only where the two servers differ, and for a cursor that could be infinite.
    """
    rows = f"FROM {described.relation.sql}"
    if where:
        rows += f" WHERE {where}"
    _refuse_endless_cursor(source, described, table)
    _refuse_infinite_intervals(source, described, rows, warehouse)
    _refuse_foreign_text(source, described, rows, warehouse)


def _refuse_endless_cursor(source: Session, described: SourceTable, table: Table) -> None:
    if not table.incremental:
        return
    column = described.column(table.incremental.cursor)
    kind = without_modifier(column.type)
    if kind not in ("numeric", "real", "double precision"):
        return
    # NaN sorts above infinity. Before PostgreSQL 14, numeric had no infinity.
    first = "Infinity"
    if kind == "numeric" and source.info.server_version < 140000:
        first = "NaN"
    endless = f"{ident(column.name)} >= {typed(first, kind)}"
    row = source.execute(
        f"SELECT count(*) FROM {described.relation.sql} WHERE {endless}"
    ).fetchone()
    if row and row[0]:
        raise Refused(
            f"{described.relation}: {_described(column)} is infinite or NaN in"
            f" {counted(row[0], 'row')}, and no later row could be above them: correct them, or"
            " use another cursor"
        )


def _refuse_infinite_intervals(
    source: Session, described: SourceTable, rows: str, warehouse: Session
) -> None:
    source_has_infinity = source.info.server_version >= _INFINITE_SINCE
    warehouse_has_infinity = warehouse.info.server_version >= _INFINITE_SINCE
    if source_has_infinity == warehouse_has_infinity:
        return
    for column in described.columns:
        if described.natures[column.name].element != "interval":
            continue
        is_infinite = f"CAST({ident(column.name)} AS text) ~ '{_INFINITE}'"
        row = source.execute(f"SELECT count(*) FILTER (WHERE {is_infinite}) {rows}").fetchone()
        if row and row[0]:
            raise Refused(
                f"{described.relation}: {_described(column)} is infinite in"
                f" {counted(row[0], 'row')}, which PostgreSQL before 17 reads as another value:"
                " correct them, or leave the column out with columns.exclude"
            )


def _refuse_foreign_text(
    source: Session, described: SourceTable, rows: str, warehouse: Session
) -> None:
    """Text is sent as UTF8. A source in SQL_ASCII may send bytes that are no UTF8, and a warehouse
    in another encoding lacks characters."""
    source_encoding = source.info.parameter_status("server_encoding") or ""
    encoding = warehouse.info.parameter_status("server_encoding") or ""
    if encoding in (source_encoding, "SQL_ASCII"):
        return
    if encoding == "UTF8" and source_encoding != "SQL_ASCII":
        return
    for column in described.columns:
        as_utf8 = f"convert_to(CAST({ident(column.name)} AS text), 'UTF8')"
        text = f"convert({as_utf8}, 'UTF8', {literal(encoding)})"
        try:
            source.execute(f"SELECT count({text}) {rows}")
        except psycopg.DataError as error:
            raise Refused(
                f"{described.relation}: {_described(column)} has text that a warehouse in"
                f" {encoding} cannot store: {error.diag.message_primary}. Correct it, or leave the"
                " column out with columns.exclude"
            ) from error


def _described(column: Column) -> str:
    return f"column {column.name} ({column.source_type})"
