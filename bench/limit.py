"""The limit: `psql COPY TO | psql COPY FROM` into bare tables, each with its primary key at the
end, two at a time.

An increment is the same pipe of the changed rows, into a temporary table, and an upsert from there:
the interval is given by hand, and what is sent is known to have changed. Nothing between the
servers can be faster than this: no lake, no checks, no ledger, no types looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg

from loadsheet.sqltest.embedded import postgres_install

_PSQL = str(postgres_install(16) / "bin" / "psql")
_COLUMNS = (
    "SELECT string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' ORDER"
    " BY attnum), string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE"
    " attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
)


def main(job: dict[str, Any]) -> None:
    """Carry every table of `job`."""
    with psycopg.connect(job["warehouse"], autocommit=True) as session:
        session.execute(f"CREATE SCHEMA IF NOT EXISTS {job['target_schema']}".encode())
    with ThreadPoolExecutor(job["parallel"]) as pool:
        list(pool.map(lambda table: _carry(job, table), job["tables"]))


def _carry(job: dict[str, Any], table: dict[str, Any]) -> None:
    source, target = (
        f"{job['source_schema']}.{table['name']}",
        f"{job['target_schema']}.{table['name']}",
    )
    with psycopg.connect(job["source"]) as session:
        definition, names = session.execute(_COLUMNS, (source,)).fetchone() or ("", "")
    key = ", ".join(table["key"])
    if job["kind"] == "full":
        _pipe(
            job,
            f"SELECT {names} FROM {source}",
            f"CREATE TABLE {target} ({definition})",
            f"COPY {target} FROM STDIN (FORMAT binary)",
            f"ALTER TABLE {target} ADD PRIMARY KEY ({key})",
        )
    elif table["cursor"]:
        new = ", ".join(f"{name} = excluded.{name}" for name in names.split(", "))
        _pipe(
            job,
            f"SELECT {names} FROM {source} WHERE {table['cursor']} >= '{job['interval'][0]}'",
            f"CREATE TEMPORARY TABLE arrived ({definition})",
            "COPY arrived FROM STDIN (FORMAT binary)",
            f"INSERT INTO {target} SELECT * FROM arrived ON CONFLICT ({key}) DO UPDATE SET {new}",
        )


def _pipe(job: dict[str, Any], select: str, *statements: str) -> None:
    """The rows of `select` into one psql with `statements`, of which one takes them."""
    reading = subprocess.Popen(
        [_PSQL, "-qXc", f"COPY ({select}) TO STDOUT (FORMAT binary)", job["source"]],
        stdout=subprocess.PIPE,
    )
    writing = [option for statement in statements for option in ("-c", statement)]
    command = [_PSQL, "-qX", "-v", "ON_ERROR_STOP=1", *writing, job["warehouse"]]
    subprocess.run(command, stdin=reading.stdout, check=True)
    if reading.wait():
        raise RuntimeError(f"{select} failed")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
