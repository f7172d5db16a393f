"""Rows on their way into PostgreSQL, with COPY, some thousand at a time."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

_CHUNK = 60_000


class Spool:
    """Collects lines of COPY's text format per table and writes them in the order the tables were
    given.

    That order must put a table after those its foreign keys point to.
    """

    def __init__(self, cursor: psycopg.Cursor[Any], *tables: str):
        self._cursor = cursor
        self._lines: dict[str, list[str]] = {table: [] for table in tables}
        self.written = dict.fromkeys(tables, 0)

    def table(self, name: str) -> list[str]:
        """The list to append lines to; it stays the same list for the life of the spool."""
        return self._lines[name]

    def flush_when_full(self) -> None:
        """Write everything once enough has gathered."""
        if sum(map(len, self._lines.values())) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write everything."""
        for table, lines in self._lines.items():
            if lines:
                self._write(table, lines)

    def _write(self, table: str, lines: list[str]) -> None:
        with self._cursor.copy(
            sql.SQL("COPY bookings.{} FROM STDIN").format(sql.Identifier(table))
        ) as copy:
            copy.write("".join(lines))
        self.written[table] += len(lines)
        lines.clear()
