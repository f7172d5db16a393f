"""Copies parts of the lake into a table of the warehouse, each checked against the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from loadsheet.errors import Corrupt, Refused
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Part
from loadsheet.lake.parts import Progress, read_parts
from loadsheet.postgres import Session
from loadsheet.sql.copying import FileFormat, copy_in, wire_of
from loadsheet.sql.text import Relation
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """Parts that belong together, and what the manifest says of them."""

    parts: Sequence[Part]
    rows: int
    format: FileFormat
    columns: Sequence[str]
    rows_before: int = 0
    """How many of the rows have arrived before, in parts that are not among these."""
    bytes_before: int = 0


def copy_parts(
    session: Session,
    lake: Lake,
    arriving: Arriving,
    table: Relation,
    target: Relation,
    progress: Progress,
) -> None:
    """Copy every part into `table`, on its way to `target`.

    Raises Corrupt when the lake's bytes or rows are not those of the manifest, and Refused when the
    target's types cannot hold them.
    """
    rows, size = arriving.rows_before, arriving.bytes_before
    # Closed after an error, too, so that no fetch is in progress when the step ends.
    with closing(read_parts(lake, arriving.parts)) as parts:
        for part, blocks in parts:
            rows += copy_blocks(session, table, target, arriving.columns, arriving.format, blocks)
            size += part.bytes
            progress(rows, size)
            reach("load.part_copied")
    # PostgreSQL accepts a CSV that was cut off, so the manifest's count is what protects us.
    if rows != arriving.rows:
        raise Corrupt(
            f"the lake holds {counted(rows, 'row')}, but the manifest lists"
            f" {arriving.rows}; run the extract step again"
        )


def copy_blocks(
    session: Session,
    table: Relation,
    target: Relation,
    columns: Sequence[str],
    format: FileFormat,
    blocks: Iterable[bytes],
) -> int:
    """Copy what one COPY reads into `table`, on its way to `target`, and return its rows.

    Raises Refused when the target's types cannot hold them.
    """
    # Frozen rows spare the server a later vacuum; a temporary table ends with the transaction.
    freeze = table.schema != "pg_temp"
    version = session.info.server_version
    statement = copy_in(table.sql, columns, wire_of(format), version, freeze=freeze)
    try:
        with session.cursor() as cursor:
            with cursor.copy(statement) as copy:
                for block in blocks:
                    copy.write(block)
            return cursor.rowcount
    # The input functions of some extensions call a value that they cannot read a syntax error.
    except (psycopg.errors.DataError, psycopg.errors.SyntaxError) as error:
        raise Refused(
            f"{target} cannot hold what the source sent: {error.diag.message_primary}"
        ) from error
