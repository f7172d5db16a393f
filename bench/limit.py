"""The limit: `psql COPY TO | psql COPY FROM` into bare tables, each with its primary key at the end, two at a time.

Nothing between the servers can be faster than this: no lake, no checks, no ledger, no types looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg

from loadsheet.testing.binaries import postgres_install

_PSQL = str(postgres_install(16) / "bin" / "psql")
_COLUMNS = (
    "SELECT string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum), "
    "string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
    "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
)


def main(job: dict[str, Any]) -> None:
    """Carry every table of `job`."""
    with psycopg.connect(job["warehouse"], autocommit=True) as session:
        session.execute(f"CREATE SCHEMA IF NOT EXISTS {job['target_schema']}".encode())
    with ThreadPoolExecutor(job["parallel"]) as pool:
        list(pool.map(lambda table: _carry(job, table), job["tables"]))


def _carry(job: dict[str, Any], table: dict[str, Any]) -> None:
    source, target = f"{job['source_schema']}.{table['name']}", f"{job['target_schema']}.{table['name']}"
    with psycopg.connect(job["source"]) as session:
        definition, names = session.execute(_COLUMNS, (source,)).fetchone() or ("", "")
    _psql(job["warehouse"], f"CREATE TABLE {target} ({definition})")
    reading = subprocess.Popen(
        [_PSQL, "-qXc", f"COPY (SELECT {names} FROM {source}) TO STDOUT (FORMAT binary)", job["source"]],
        stdout=subprocess.PIPE,
    )
    _psql(job["warehouse"], f"COPY {target} FROM STDIN (FORMAT binary)", stdin=reading.stdout)
    if reading.wait():
        raise RuntimeError(f"reading {source} failed")
    _psql(job["warehouse"], f"ALTER TABLE {target} ADD PRIMARY KEY ({', '.join(table['key'])})")


def _psql(dsn: str, statement: str, stdin: Any = None) -> None:
    subprocess.run([_PSQL, "-qXc", statement, dsn], stdin=stdin, check=True, env=os.environ)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
