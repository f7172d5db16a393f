"""Whether a target holds what the source holds: row counts and a checksum over every column, after
every run."""

from __future__ import annotations

from bench.data import Table
from bench.job import Job
from bench.world import ask

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
    return [wrong for table in job.tables if (wrong := _difference(job, table, broken))]


def _difference(job: Job, table: Table, broken: frozenset[str]) -> str:
    source, target = f"{job.source_schema}.{table.name}", f"{job.target_schema}.{table.name}"
    names = [row[0] for row in ask(job.source, _COLUMNS, source) if row[0] not in broken]
    expected, found = (
        _content(dsn, name, names) for dsn, name in ((job.source, source), (job.warehouse, target))
    )
    if found != expected:
        return f"{target}: (rows, checksum) {found}, source {expected}"
    return "" if ask(job.warehouse, _KEY, target) else f"{target} has no primary key"


def _content(dsn: str, table: str, names: list[str]) -> tuple[int, str]:
    row = ", ".join(f"{name}::text" for name in names)
    # A sum does not depend on the order of rows; as text, every type has a hash.
    query = (
        f"SELECT count(*), coalesce(sum(hashtextextended(ROW({row})::text, 0)), 0)::text FROM"
        f" {table}"
    )
    count, checksum = ask(f"{dsn}?options=-c%20TimeZone%3DUTC", query)[0]
    return count, checksum
