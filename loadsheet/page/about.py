"""What a table or mart is: file, SQL, columns, comments, keys, lineage, objects in the lake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from psycopg.rows import dict_row

from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.lake.manifest import load_prefix
from loadsheet.lineage.document import document as lineage_document
from loadsheet.lineage.graph import pipeline_lineage
from loadsheet.lineage.models import Dataset, Lineage
from loadsheet.lineage.naming import transforms_for
from loadsheet.pinned import PinnedSession
from loadsheet.plan.step_sql import step_sql, transform_sql
from loadsheet.plan.steps import Step
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.project.folder import display_path
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.status.source import begin_on_source

_RELATIONS = """
SELECT relname AS table, pg_catalog.obj_description(c.oid, 'pg_class') AS comment, ARRAY(
    SELECT attname::text FROM pg_catalog.unnest(conkey) WITH ORDINALITY AS part (attnum, place)
    JOIN pg_catalog.pg_attribute a ON attrelid = c.oid AND a.attnum = part.attnum
    ORDER BY place) AS primary_key
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
LEFT JOIN pg_catalog.pg_constraint k ON conrelid = c.oid AND contype = 'p'
WHERE nspname = %s AND relname = ANY (%s) AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_COLUMNS = """
SELECT relname AS table, attname AS name, pg_catalog.format_type(atttypid, atttypmod) AS type,
    NOT attnotnull AS nullable, pg_catalog.col_description(attrelid, attnum) AS comment
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
JOIN pg_catalog.pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
WHERE nspname = %s AND relname = ANY (%s) AND relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY relname, attnum
"""
_SOURCE_TIMEOUT = timedelta(seconds=20)
_MOST_MANIFESTS = 20

Fields = dict[str, Any]


def is_in_spec(pipeline: Pipeline, kind: str, name: str) -> bool:
    """Whether the pipeline file has the table or transform, itself or by a pattern."""
    if kind == "transform":
        return pipeline.has_transform(name)
    return kind == "table" and (pipeline.has_table(name) or pipeline.pattern_of(name) is not None)


def relation_of(pipeline: Pipeline, kind: str, name: str) -> Relation:
    """Where the rows of a table or transform are in the warehouse."""
    schemas = pipeline.warehouse
    return Relation(schemas.schema if kind == "table" else schemas.mart_schema, name)


def dataset_of(pipeline: Pipeline, kind: str, name: str) -> Dataset:
    """A table or transform as lineages name it."""
    relation = relation_of(pipeline, kind, name)
    return Dataset("staging" if kind == "table" else "mart", relation.schema, name)


def by_spec(pipeline: Pipeline, kind: str, name: str) -> Fields:
    """`file`, `sql` and what else the pipeline file says of a table or transform."""
    if kind == "transform":
        transform = pipeline.transform(name)
        relation = relation_of(pipeline, kind, name)
        sql = transform_sql(relation, transform.materialized, transform.sql)
        return {
            "file": display_path(transform.file),
            "sql": sql,
            "materialized": transform.materialized,
            "primary_key": transform.unique_key,
        }
    table = pipeline.table(name)
    return {
        "file": display_path(pipeline.file),
        "sql": step_sql(Step(kind="extract", name=name), pipeline),
        "mode": table.mode_with_key(True) if _has_sure_mode(table) else None,
        "primary_key": table.primary_key,
        "reads_by": table.incremental.cursor if table.incremental else None,
        "deletes": table.deletes.action if table.deletes else None,
    }


def from_source(
    pipeline: Pipeline, connections: Connections, names: Sequence[str]
) -> dict[str, Fields]:
    """As `by_catalog`, of tables of the source. Raises ConnectionMissing, TimedOut and psycopg
    errors."""
    with (
        limited("asking the source", _SOURCE_TIMEOUT),
        connect_source(connections(pipeline.source.conn_id)) as session,
    ):
        begin_on_source(session)
        return by_catalog(session, pipeline.source.schema, names)


def by_catalogs(
    pipeline: Pipeline, kind: str, name: str, here: Fields | None, source: Fields | None
) -> Fields:
    """What `by_catalog` has found of a table or mart, `here` in the warehouse and in its source;
    None where it was not found or not asked for. A key of the pipeline file comes first, then that
    of the source."""
    here = here or {"columns": [], "comment": None, "primary_key": []}
    if not is_in_spec(pipeline, kind, name):
        return here
    if kind == "transform":
        key = pipeline.transform(name).unique_key
        return {**here, "primary_key": key or here["primary_key"]}
    table = pipeline.table(name)
    if source is None:
        return {**here, "primary_key": table.primary_key or here["primary_key"]}
    key = table.primary_key or source["primary_key"]
    relation = Relation(pipeline.source.schema, name)
    return {
        **here,
        "primary_key": key,
        "mode": table.mode_with_key(bool(key)),
        "source": {"name": str(relation), **source},
    }


def _has_sure_mode(table: Table) -> bool:
    """Whether the mode follows without the primary key that the source's catalog has."""
    return bool(table.mode or table.primary_key or not table.incremental)


def by_catalog(session: PinnedSession, schema: str, names: Sequence[str]) -> dict[str, Fields]:
    """`columns`, `comment` and `primary_key` of the tables of these names that a schema of the
    source or the warehouse has."""
    found: dict[str, Fields] = {}
    with session.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_RELATIONS, (schema, list(names))):
            name = row.pop("table")
            found[name] = {**row, "columns": []}
        for row in cursor.execute(_COLUMNS, (schema, list(names))):
            # One that was created in between is left out.
            if table := found.get(row.pop("table")):
                table["columns"].append(row)
    return found


def lineage_of(pipeline: Pipeline, connections: Connections, kind: str, name: str) -> Fields:
    """`upstream` and `downstream` of a table or transform of the pipeline file: the documents of
    `loadsheet lineage --json`.

    Raises ConnectionMissing, SpecError and psycopg errors.
    """
    dataset = dataset_of(pipeline, kind, name)
    only = transforms_for(pipeline, dataset, down=False)
    only |= transforms_for(pipeline, dataset, down=True)
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        whole = pipeline_lineage(session, pipeline, only)
    return {
        "upstream": _reached(whole, dataset, down=False),
        "downstream": _reached(whole, dataset, down=True),
    }


def in_lake(pipeline: Pipeline, name: str, loads: Sequence[Fields]) -> list[Fields]:
    """Where a table's objects are: the prefix of all its loads, and the newest of `loads`'
    manifests. `loadsheet gc` may have removed some of them."""
    bucket = pipeline.lake.bucket
    prefix = f"s3://{bucket}/{load_prefix(pipeline, name)}"
    places: list[Fields] = [{"kind": "prefix", "name": prefix, "load": None}]
    for load in loads[:_MOST_MANIFESTS]:
        if load["manifest"]:
            address = f"s3://{bucket}/{load['manifest']}"
            places.append({"kind": "manifest", "name": address, "load": load["number"]})
    return places


def _reached(whole: Lineage, dataset: Dataset, down: bool) -> Fields:
    found = whole.reached(whole.columns_of(dataset), down)
    return lineage_document(found, str(dataset), down, display_path)
