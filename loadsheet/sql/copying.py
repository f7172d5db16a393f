"""The text of COPY, in and out, for both formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from loadsheet.sql.text import Relation, ident, idents
from loadsheet.sql.types import Column

WireFormat = Literal["binary", "csv"]
"""What COPY writes and reads."""
FileFormat = Literal["binary", "csv", "parquet"]
"""What a part is; Parquet is made from csv, and read as csv."""

# Signature, flags and extension length of a binary COPY stream, and its end (PostgreSQL manual,
# COPY, File Formats).
BINARY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
BINARY_TRAILER = b"\xff\xff"


def select_columns(
    relation: Relation, columns: Sequence[Column], where: str, is_only: bool = False
) -> str:
    """The SELECT that reads `columns` under their own names; `where` is a condition or empty, and
    `is_only` leaves out the rows of tables that inherit from this one.

    The columns are named one by one: `COPY table` would skip generated columns and refuse
    partitioned tables.
    """
    expressions = []
    for column in columns:
        name = ident(column.name)
        if column.cast:
            expressions.append(f"CAST({name} AS {column.type}) AS {name}")
        else:
            expressions.append(name)
    only = "ONLY " if is_only else ""
    select = f"SELECT {', '.join(expressions)} FROM {only}{relation.sql}"
    if where:
        select += f" WHERE {where}"
    return select


def rows_of(stream: bytes, wire: WireFormat) -> bytes:
    """The rows of a whole COPY stream, without what is before and after them."""
    if wire == "csv":
        return stream
    return stream.removeprefix(BINARY_HEADER).removesuffix(BINARY_TRAILER)


def copy_out(select: str, wire: WireFormat) -> str:
    """COPY of a query's rows to the client. csv comes without a header: each part gets its own."""
    return f"COPY ({select}) TO STDOUT (FORMAT {wire})"


def copy_in(
    relation_sql: str,
    columns: Sequence[str],
    wire: WireFormat,
    server_version: int,
    freeze: bool = False,
) -> str:
    """COPY of one part into a table. From PostgreSQL 15 on the csv header must match the columns.

    `freeze` is for a table created in the same transaction: no session has to visit its rows again
    to find them committed, and a reader with an older snapshot, to whom such a table would look
    empty, sees them.
    """
    options = [f"FORMAT {wire}"]
    if wire == "csv":
        options.append("HEADER MATCH" if server_version >= 150000 else "HEADER TRUE")
    if freeze:
        options.append("FREEZE")
    return f"COPY {relation_sql} ({idents(columns)}) FROM STDIN ({', '.join(options)})"


def wire_of(format: FileFormat) -> WireFormat:
    """What COPY reads for parts of this format."""
    return "binary" if format == "binary" else "csv"


def ends(format: FileFormat, columns: Sequence[str]) -> tuple[bytes, bytes]:
    """What COPY FROM expects before and after the rows."""
    if wire_of(format) == "binary":
        return BINARY_HEADER, BINARY_TRAILER
    return csv_header(columns), b""


def csv_header(columns: Sequence[str]) -> bytes:
    """The csv header line: every name quoted, so that it is read back exactly."""
    return (",".join(ident(name) for name in columns) + "\n").encode()
