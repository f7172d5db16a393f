"""Whether a target holds what the source holds: row counts and a checksum over every column, after
every run."""

from __future__ import annotations

import psycopg

from bench.data import Table
from bench.job import Job

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
    with _session(job.source) as source, _session(job.warehouse) as warehouse:
        found = (_difference(job, table, broken, source, warehouse) for table in job.tables)
        return [wrong for wrong in found if wrong]


def _session(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC")


def _difference(
    job: Job,
    table: Table,
    broken: frozenset[str],
    source: psycopg.Connection,
    warehouse: psycopg.Connection,
) -> str:
    origin, target = f"{job.source_schema}.{table.name}", f"{job.target_schema}.{table.name}"
    columns = source.execute(_COLUMNS, (origin,)).fetchall()
    names = [name for (name,) in columns if name not in broken]
    expected, found = _content(source, origin, names), _content(warehouse, target, names)
    if found != expected:
        return f"{target}: (rows, checksum) {found}, source {expected}"
    has_key = warehouse.execute(_KEY, (target,)).fetchone()
    return "" if has_key else f"{target} has no primary key"


def _content(session: psycopg.Connection, table: str, names: list[str]) -> tuple[int, str]:
    row = ", ".join(f"{name}::text" for name in names)
    # A sum does not depend on the order of rows; as text, every type has a hash.
    query = (
        f"SELECT count(*), coalesce(sum(hashtextextended(ROW({row})::text, 0)), 0)::text FROM"
        f" {table}"
    )
    ((count, checksum),) = session.execute(query.encode()).fetchall()
    return count, checksum
