"""Whether a target holds what the source holds: row counts and a checksum over every column, after
every run."""

from __future__ import annotations

from typing import Any

import psycopg

from bench.data import Table
from bench.job import Job

Session = psycopg.Connection[tuple[Any, ...]]

_COLUMNS = (
    "SELECT quote_ident(attname) FROM pg_attribute "
    "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname"
)
_KEY = "SELECT indkey::text FROM pg_index WHERE indrelid = %s::regclass AND indisprimary"


def differences(job: Job, broken: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with the job's targets, in words; empty when they equal the source, keys
    included.

    `broken` columns are not compared.
    """
    # One session per server: thousands of tables would open five each.
    with _session(job.source) as source, _session(job.warehouse) as warehouse:
        found = [_difference(job, table, broken, source, warehouse) for table in job.tables]
    return [wrong for wrong in found if wrong]


def _session(dsn: str) -> Session:
    return psycopg.connect(f"{dsn}?options=-c%20TimeZone%3DUTC", autocommit=True)


def _difference(
    job: Job, table: Table, broken: frozenset[str], source: Session, warehouse: Session
) -> str:
    read, target = f"{job.source_schema}.{table.name}", f"{job.target_schema}.{table.name}"
    columns = source.execute(_COLUMNS, (read,)).fetchall()
    names = [name for (name,) in columns if name not in broken]
    expected, found = _content(source, read, names), _content(warehouse, target, names)
    if found != expected:
        return f"{target}: (rows, checksum) {found}, source {expected}"
    if not warehouse.execute(_KEY, (target,)).fetchall():
        return f"{target} has no primary key"
    return ""


def _content(session: Session, table: str, names: list[str]) -> tuple[int, str] | None:
    row = ", ".join(f"{name}::text" for name in names)
    # A sum does not depend on the order of rows; as text, every type has a hash.
    query = (
        f"SELECT count(*), coalesce(sum(hashtextextended(ROW({row})::text, 0)), 0)::text FROM"
        f" {table}"
    )
    return session.execute(query.encode()).fetchone()
