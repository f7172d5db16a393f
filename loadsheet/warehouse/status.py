"""What the ledger knows of a pipeline's tables, for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

_STATUS = """
SELECT scope.pipeline, scope.table_name AS "table", scope.target, scope.watermark, scope.fence,
       last.load_id, last.load_no, last.action, last.committed_at AS loaded_at, last.extracted, last.inserted,
       last.updated, last.deleted, last.bytes, coalesce(last.held_by, '') AS held_by,
       last.extract_seconds, last.load_seconds
FROM loadsheet.scope
LEFT JOIN loadsheet.load last ON last.load_no = scope.last_load_no
WHERE scope.pipeline = %s ORDER BY scope.table_name
"""


@dataclass(frozen=True, kw_only=True)
class TableStatus:
    """A table's last committed load; all fields of the load are None before the first one."""

    pipeline: str
    table: str
    target: str
    watermark: str | None
    fence: int
    load_id: str | None
    load_no: int | None
    action: str | None
    loaded_at: datetime | None
    extracted: int | None
    inserted: int | None
    updated: int | None
    deleted: int | None
    bytes: int | None
    held_by: str
    extract_seconds: float | None
    load_seconds: float | None


def status_rows(session: psycopg.Connection[Any], pipeline: str) -> list[TableStatus]:
    """One entry per table that was ever extracted, by name; empty before the first run."""
    if session.execute("SELECT to_regclass('loadsheet.scope')").fetchone() == (None,):
        return []
    with session.cursor(row_factory=class_row(TableStatus)) as cursor:
        return cursor.execute(_STATUS, (pipeline,)).fetchall()
