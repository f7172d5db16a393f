"""dlt: `sql_database` to the postgres destination, one pipeline; direct, without a lake.

The option `backend` is "pyarrow" or "connectorx".

Tuned as dlthub.com/docs advises. "SQL database": an Arrow backend for larger tables, full
reflection, connectorx in streaming mode. "Postgres": Arrow tables load fast as csv (COPY) or as
parquet by the ADBC driver (binary COPY); here parquet, which took 5.7 s where csv took 12
(connectorx; 15.8 and 19.5 with pyarrow; 2.3 M rows, measured). "Optimizing dlt": resources in
parallel, larger buffers, files rotated so that one table loads in parallel, a load thread per core.
"Full loading": truncate-and-insert is the fastest. An increment is `merge` with strategy `upsert`
from dlt's own cursor state, with an open range: removing duplicates at the edge of a closed one
costs time. dlt makes no primary keys: the script adds them at the end of a full load, within the
measured time.

Different in the target: char(n) becomes varchar(n), integer bigint, jsonb json, point varchar.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_SETTINGS = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",  # of csv; parquet has its own
    "DATA_WRITER__BUFFER_MAX_ITEMS": "100000",
    "DATA_WRITER__FILE_MAX_ITEMS": "500000",
    "LOAD__DELETE_COMPLETED_JOBS": "true",
}
_CHUNK = 50_000


def main(job: dict[str, Any]) -> None:
    """Do the job. Raises what dlt raises."""
    os.environ.update(
        _SETTINGS
        | {
            "DLT_DATA_DIR": job["state"],
            "EXTRACT__WORKERS": str(job["parallel"]),
            "LOAD__WORKERS": str(job["parallel"]),
        }
    )
    import dlt  # after its settings

    full = job["kind"] == "full"
    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=job["state"],
        destination=dlt.destinations.postgres(job["warehouse"], create_indexes=False),
        dataset_name=job["target_schema"],
    )
    how: Any = (
        {"disposition": "replace", "strategy": "truncate-and-insert"}
        if full
        else {"disposition": "merge", "strategy": "upsert"}
    )
    pipeline.run(
        source(job),
        write_disposition=how,
        loader_file_format=job["options"].get("format", "parquet"),
        refresh="drop_sources" if full else None,
    ).raise_on_failed_jobs()
    if full:
        add_keys(job)


def source(job: dict[str, Any]) -> Any:
    """All tables, each with its key and cursor."""
    from dlt import sources
    from dlt.sources.sql_database import sql_database

    streaming = job["options"]["backend"] == "connectorx"
    tables = sql_database(
        job["source"].replace("://", "+psycopg2://", 1),  # SQLAlchemy 2.1 would take psycopg 3
        schema=job["source_schema"],
        table_names=[table["name"] for table in job["tables"]],
        backend=job["options"]["backend"],
        chunk_size=_CHUNK,
        reflection_level="full_with_precision",
        backend_kwargs=(
            {"return_type": "arrow_stream", "conn": job["source"]} if streaming else {"tz": "UTC"}
        ),
        query_adapter_callback=as_text,
    ).parallelize()
    for table in job["tables"]:
        cursor = (
            sources.incremental(table["cursor"], range_start="open") if table["cursor"] else None
        )
        resource = tables.resources[table["name"]].apply_hints(
            primary_key=table["key"], incremental=cursor
        )
        if job["kind"] == "increment":
            # the driver fails on a file without rows
            resource.add_filter(lambda batch: batch.num_rows > 0)
    return tables


def as_text(query: Any, table: Any) -> Any:
    """The query with jsonb and unknown types (point) as text.

    connectorx cannot read a point and wraps JSON twice; pyarrow makes one struct of a column's
    documents, so that every document gets the keys of all others.
    """
    from sqlalchemy import JSON, Text, cast
    from sqlalchemy.types import NullType

    return query.with_only_columns(
        *(
            (
                cast(column, Text).label(column.name)
                if isinstance(column.type, JSON | NullType)
                else column
            )
            for column in table.columns
        )
    )


def add_keys(job: dict[str, Any]) -> None:
    """A primary key on every target, `parallel` at a time."""
    import psycopg2

    def add(table: dict[str, Any]) -> None:
        with psycopg2.connect(job["warehouse"]) as session, session.cursor() as cursor:
            target = f"{job['target_schema']}.{table['name']}"
            cursor.execute(f"ALTER TABLE {target} ADD PRIMARY KEY ({', '.join(table['key'])})")

    with ThreadPoolExecutor(job["parallel"]) as pool:
        list(pool.map(add, job["tables"]))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
