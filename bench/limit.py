"""The limit: `psql COPY TO | psql COPY FROM` into bare tables, each with its primary key at the
end, two at a time.

An increment is the same pipe of the changed rows, into a temporary table, and an upsert from there:
the interval is given by hand, and what is sent is known to have changed. Nothing between the
servers can be faster than this: no lake, no checks, no ledger, no types looked at.

With a lake, `tee` gives the same rows to `zstd -1` as well, and `curl` stores what that writes:
what a copy of each row in S3 costs, without any check of it. It needs both programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

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
    lake = job["options"].get("lake")
    if lake:
        # It may exist already. If it does not now, no upload succeeds.
        _curl(lake, lake["bucket"], "--request", "PUT", "--output", "/dev/null")
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
            name=table["name"],
        )
    elif table["cursor"]:
        new = ", ".join(f"{name} = excluded.{name}" for name in names.split(", "))
        _pipe(
            job,
            f"SELECT {names} FROM {source} WHERE {table['cursor']} >= '{job['interval'][0]}'",
            f"CREATE TEMPORARY TABLE arrived ({definition})",
            "COPY arrived FROM STDIN (FORMAT binary)",
            f"INSERT INTO {target} SELECT * FROM arrived ON CONFLICT ({key}) DO UPDATE SET {new}",
            name=table["name"],
        )


def _pipe(job: dict[str, Any], select: str, *statements: str, name: str) -> None:
    """The rows of `select`, of the table `name`, into one psql with `statements`, of which one
    takes them."""
    reading = subprocess.Popen(
        [_PSQL, "-qXc", f"COPY ({select}) TO STDOUT (FORMAT binary)", job["source"]],
        stdout=subprocess.PIPE,
    )
    options = [option for statement in statements for option in ("-c", statement)]
    command = [_PSQL, "-qX", "-v", "ON_ERROR_STOP=1", *options, job["warehouse"]]
    assert reading.stdout
    with _also_stored(job, name, reading.stdout) as rows:
        writing = subprocess.Popen(command, stdin=rows)
    if writing.wait() or reading.wait():
        raise RuntimeError(f"{select} failed")


@contextmanager
def _also_stored(job: dict[str, Any], name: str, rows: IO[bytes]) -> Iterator[IO[bytes]]:
    """`rows`, which are stored in the job's lake as well, if it has one. At its end they are."""
    lake = job["options"].get("lake")
    if not lake:
        yield rows
        return
    file = Path(job["state"]) / f"{name}.zst"
    with file.open("wb") as stored:
        zstd = subprocess.Popen(["zstd", "-1qc"], stdin=subprocess.PIPE, stdout=stored)
    assert zstd.stdin
    into = zstd.stdin.fileno()
    tee = subprocess.Popen(
        ["tee", f"/dev/fd/{into}"], stdin=rows, stdout=subprocess.PIPE, pass_fds=(into,)
    )
    zstd.stdin.close()
    assert tee.stdout
    yield tee.stdout
    if tee.wait() or zstd.wait():
        raise RuntimeError(f"the rows of {name} were not compressed")
    path = f"{lake['bucket']}/{job['target_schema']}/{name}.zst"
    _curl(lake, path, "--fail", "--upload-file", str(file))
    file.unlink()


def _curl(lake: dict[str, Any], path: str, *options: str) -> None:
    command = ["curl", "--silent", "--show-error", "--config", "-", *options]
    # Not among the arguments, which everybody on the machine can read.
    login = (
        f'user = "{lake["access_key"]}:{lake["secret_key"]}"\naws-sigv4 = "aws:amz:us-east-1:s3"'
    )
    subprocess.run([*command, f"{lake['endpoint']}/{path}"], input=login.encode(), check=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
