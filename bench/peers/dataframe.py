"""The DataFrame way: fetchall, to_csv, an object (or a local file), read_csv, upserts by
SQLAlchemy, 1,000 rows each.

The baseline of most home-made pipelines. Tuned only where its documentation says so: SQLAlchemy
gets a chunk as a list of parameters ("insertmanyvalues"); two tables at a time, a process each.
Repaired where it would spoil the data: read_csv keeps text as text (`dtype=str`, or ticket numbers
lose their zeros), jsonb and point travel as text. An empty text and NULL are the same in such a
CSV. Targets are created first, with the source's types and the primary key.

Options: `parallel` is how many tables at a time (such pipelines usually carry one after the other).
`style`: "values" builds one statement per chunk, "rows" executes one per row, as a loop over a
chunk's rows does, "pangres" leaves it to the library of that name. `limit_rows` reads only so many
rows of every table, the time for all of them is then extrapolated linearly;
`s3` ({endpoint, access_key, secret_key, bucket}) sends the CSV through S3 instead of a file in the
state folder.
"""

from __future__ import annotations

import io
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas
import psycopg2
import psycopg2.extras
import sqlalchemy as sa
from minio import Minio
from sqlalchemy.dialects.postgresql import insert

Job = dict[str, Any]
_CHUNK = 1_000
_COLUMNS = (
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
    "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)


def main(job: Job) -> None:
    """Carry every table, `parallel` at a time."""
    parallel = job["options"].get("parallel", job["parallel"])
    with psycopg2.connect(job["warehouse"]) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {job['target_schema']}")
    with ProcessPoolExecutor(parallel) as pool:
        list(pool.map(partial(carry, job), job["tables"]))


def carry(job: Job, table: dict[str, Any]) -> None:
    """Read one table into a frame, store it as CSV, read that again and upsert it."""
    frame, types = read(job, table)
    store(job, table["name"], frame.to_csv(index=False).encode())
    del frame
    upsert(job, table, pandas.read_csv(io.BytesIO(fetch(job, table["name"])), dtype=str), types)


def read(job: Job, table: dict[str, Any]) -> tuple[pandas.DataFrame, dict[str, str]]:
    """All rows, or those of the interval; and each column's type."""
    name = f"{job['source_schema']}.{table['name']}"
    query, parameters = f"SELECT * FROM {name}", None
    if job["kind"] == "increment":
        query, parameters = (
            f"{query} WHERE {table['cursor']} >= %s AND {table['cursor']} <= %s",
            job["interval"],
        )
    if limit := job["options"].get("limit_rows"):
        query += f" LIMIT {int(limit)}"
    with (
        psycopg2.connect(job["source"], options="-c TimeZone=UTC") as session,
        session.cursor() as cursor,
    ):
        psycopg2.extras.register_default_jsonb(session, loads=lambda text: text)
        cursor.execute(_COLUMNS, (name,))
        types = dict(cursor.fetchall())
        cursor.execute(query, parameters)
        return pandas.DataFrame(cursor.fetchall(), columns=list(types)), types


def store(job: Job, name: str, data: bytes) -> None:
    """Keep the CSV for `fetch`."""
    if "s3" in job["options"]:
        client, bucket = _bucket(job)
        client.put_object(bucket, f"{name}.csv", io.BytesIO(data), len(data))
    else:
        (Path(job["state"]) / f"{name}.csv").write_bytes(data)


def fetch(job: Job, name: str) -> bytes:
    """What `store` kept."""
    if "s3" in job["options"]:
        client, bucket = _bucket(job)
        with client.get_object(bucket, f"{name}.csv") as answer:
            return bytes(answer.data)
    return (Path(job["state"]) / f"{name}.csv").read_bytes()


def _bucket(job: Job) -> tuple[Minio, str]:
    s3 = job["options"]["s3"]
    address = urlsplit(s3["endpoint"]).netloc
    return (
        Minio(address, access_key=s3["access_key"], secret_key=s3["secret_key"], secure=False),
        s3["bucket"],
    )


def upsert(job: Job, table: dict[str, Any], frame: pandas.DataFrame, types: dict[str, str]) -> None:
    """Create the target if it is missing, then upsert the frame, in one transaction."""
    # Columns without a type: their text goes to the server as it is, which knows the types.
    target = sa.table(table["name"], *map(sa.column, types), schema=job["target_schema"])
    statement = insert(target)
    others = {name: statement.excluded[name] for name in types if name not in table["key"]}
    statement = statement.on_conflict_do_update(index_elements=table["key"], set_=others)
    engine = sa.create_engine(
        job["warehouse"].replace("://", "+psycopg2://", 1), insertmanyvalues_page_size=_CHUNK
    )
    with engine.begin() as session:
        columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
        key = ", ".join(table["key"])
        session.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {target.fullname} ({columns}, PRIMARY KEY ({key}))"
        )
        for start in range(0, len(frame), _CHUNK):
            chunk = frame.iloc[start : start + _CHUNK]
            style = job["options"].get("style")
            if style == "pangres":
                _by_pangres(session, job, table, chunk)
                continue
            rows = chunk.astype(object).where(chunk.notna(), None).to_dict("records")
            if style == "rows":
                for row in rows:
                    session.execute(statement, row)
            elif style == "values":
                session.execute(statement.values(rows))
            else:
                session.execute(statement, rows)


def _by_pangres(
    session: sa.Connection, job: Job, table: dict[str, Any], chunk: pandas.DataFrame
) -> None:
    import pangres

    pangres.upsert(
        con=session,
        df=chunk.set_index(table["key"]),
        table_name=table["name"],
        schema=job["target_schema"],
        if_row_exists="update",
        create_table=False,
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
