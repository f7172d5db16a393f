"""The loader everybody writes first: rows in chunks, and a file that says how far it has come. The
kills' control."""

from __future__ import annotations

from pathlib import Path

import psycopg


def load(source: str, warehouse: str, mark: str, mark_first: bool) -> None:
    """Append the rows of `public.event` above the mark to `naive.event`; the mark moves before or
    after them."""
    file = Path(mark)
    with psycopg.connect(source) as reading, psycopg.connect(warehouse, autocommit=True) as writing:
        (upper,) = reading.execute("SELECT max(id) FROM event").fetchone() or (0,)
        rows = reading.execute(
            "SELECT * FROM event WHERE id > %s AND id <= %s", (file.read_text(), upper)
        )
        if mark_first:
            file.write_text(str(upper))
        while chunk := rows.fetchmany(200):
            with writing.cursor().copy("COPY naive.event FROM STDIN") as copy:
                for row in chunk:
                    copy.write_row(row)
        file.write_text(str(upper))
