"""What cannot be carried is refused before anything is read, with the columns, their types and the
way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql.text import ident, literal, typed
from loadsheet.sql.types import MAX_COLUMNS, REMEDY, Column, has_order, unfit, without_modifier

if TYPE_CHECKING:
    from loadsheet.source.table import SourceTable

# Collations whose order is that of the bytes in UTF8, hence the same on every server.
_BYTEWISE = ("C", "POSIX", "ucs_basic", "C.UTF-8", "C.utf8", "pg_c_utf8")
# PostgreSQL 17 took an interval's lowest and highest values for infinity: the same bytes mean
# something else before.
_INFINITE_SINCE = 170000
_INFINITE = "infinity|178956970 years .*(2147483648 days|2147483647 days 2562047788:00:54.775807)"


def refuse_unfit(source: SourceTable, table: Table) -> None:
    """Raises Refused, naming every column and its type, when the table cannot be carried as `table`
    asks."""
    if len(source.columns) > MAX_COLUMNS:
        raise Refused(
            f"{source.relation} has {len(source.columns):,} columns, and the target needs one more"
            " (_load_id) than the 1,600 PostgreSQL allows: leave some out with columns.exclude"
        )
    if re.fullmatch(r"_loadsheet_\d+", source.relation.name):
        raise Refused(
            f"{source.relation} is a name Loadsheet needs: read the table through a view with"
            " another name"
        )
    problems = [*_values(source), *_key(source, table), *_cursor(source, table)]
    if problems:
        raise Refused(f"{source.relation}: {'; '.join(problems)}")


def refuse_for_parquet(source: SourceTable) -> None:
    """Raises Refused, naming every column and its type, when the table would not survive in
    Parquet."""
    if problems := unfit(source.columns):
        raise Refused(f"{source.relation}: {'; '.join([*problems, REMEDY])}")


def _values(source: SourceTable) -> Iterator[str]:
    for column in source.columns:
        if source.natures[column.name].own_text:
            yield (
                f"{_named(column)} has a cast to text of its own, which may say less than the"
                " value: read it through a view, or leave it out with columns.exclude"
            )


def _key(source: SourceTable, table: Table) -> Iterator[str]:
    for column in (source.column(name) for name in source.key):
        nature = source.natures[column.name]
        if not has_order(nature.element):
            yield (
                f"{_named(column)} cannot be part of a key, because its type has no order: name"
                " another primary_key"
            )
        elif table.mode_with_key(True) == "merge" and (
            nature.loose or (column.cast and not nature.is_enum)
        ):
            yield (
                f"{_named(column)} cannot be part of a key to merge by: values that are equal in"
                f" the source are not in the target, where it is {column.type}. Name another"
                " primary_key, or replace the table (mode: replace)"
            )


def _cursor(source: SourceTable, table: Table) -> Iterator[str]:
    if not table.incremental:
        return
    column = source.column(table.incremental.cursor)
    nature = source.natures[column.name]
    if column.cast or not has_order(nature.element):
        yield (
            f"{_named(column)} cannot be a cursor, because it has no order in the target: use a"
            " time or a number"
        )
        return
    # An enforced key needs no comparing of cursors in the target, so there the source's order alone
    # counts.
    compared = nature.own_collation or (source.key and not source.key_is_enforced)
    if compared and nature.collation and nature.collation not in _BYTEWISE:
        yield (
            f"{_named(column)} cannot be a cursor, because its order ({nature.collation}) is not"
            ' the target\'s: use a time or a number, or a view that gives it COLLATE "C"'
        )


def refuse_values(
    source: Session, described: SourceTable, table: Table, where: str, warehouse: Session
) -> None:
    """Raises Refused when rows `where` hold what the warehouse would take for something else, or
    cannot hold.

    Looks only where the two servers differ in what they can hold, and at cursors that nothing can
    follow.
    """
    rows = f"FROM {described.relation.sql}" + (f" WHERE {where}" if where else "")
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
    # NaN is above infinity, which numerics have had since PostgreSQL 14.
    first = "NaN" if kind == "numeric" and source.info.server_version < 140000 else "Infinity"
    endless = f"{ident(column.name)} >= {typed(first, kind)}"
    row = source.execute(
        f"SELECT count(*) FROM {described.relation.sql} WHERE {endless}"
    ).fetchone()
    if row and row[0]:
        raise Refused(
            f"{described.relation}: {_named(column)} is infinite or NaN in {row[0]} rows, so that"
            " nothing could come after them: correct them, or use another cursor"
        )


def _refuse_infinite_intervals(
    source: Session, described: SourceTable, rows: str, warehouse: Session
) -> None:
    if (source.info.server_version >= _INFINITE_SINCE) == (
        warehouse.info.server_version >= _INFINITE_SINCE
    ):
        return
    for column in described.columns:
        if described.natures[column.name].element != "interval":
            continue
        found = (
            f"SELECT count(*) FILTER (WHERE CAST({ident(column.name)} AS text) ~ '{_INFINITE}')"
            f" {rows}"
        )
        row = source.execute(found).fetchone()
        if row and row[0]:
            raise Refused(
                f"{described.relation}: {_named(column)} is infinite in {row[0]} rows, which means"
                " something else before PostgreSQL 17: correct them, or leave the column out with"
                " columns.exclude"
            )


def _refuse_foreign_text(
    source: Session, described: SourceTable, rows: str, warehouse: Session
) -> None:
    """Text travels as UTF8: SQL_ASCII sends unchecked bytes, and other encodings
    lack characters."""
    mine, theirs = (
        session.info.parameter_status("server_encoding") or "" for session in (source, warehouse)
    )
    if theirs in (mine, "SQL_ASCII") or (theirs == "UTF8" and mine != "SQL_ASCII"):
        return
    for column in described.columns:
        text = (
            f"convert(convert_to(CAST({ident(column.name)} AS text), 'UTF8'), 'UTF8',"
            f" {literal(theirs)})"
        )
        try:
            source.execute(f"SELECT count({text}) {rows}")
        except psycopg.DataError as error:
            raise Refused(
                f"{described.relation}: {_named(column)} holds text that a warehouse in {theirs}"
                f" cannot hold: {error.diag.message_primary}. Correct it, or leave the column out"
                " with columns.exclude"
            ) from error


def _named(column: Column) -> str:
    return f"column {column.name} ({column.source_type})"
