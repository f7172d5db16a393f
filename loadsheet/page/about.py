"""What a table or mart is: file, SQL, columns, comment, lineage, objects in the lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row

from loadsheet.connections.lookup import Connections
from loadsheet.lake.manifest import load_prefix
from loadsheet.lineage.document import document as lineage_document
from loadsheet.lineage.graph import pipeline_lineage
from loadsheet.lineage.models import Dataset, Lineage
from loadsheet.lineage.naming import transforms_for
from loadsheet.pinned import PinnedSession
from loadsheet.plan.step_sql import step_sql, transform_sql
from loadsheet.plan.steps import Step
from loadsheet.postgres import connect_warehouse
from loadsheet.project.folder import display_path
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation

_COLUMNS = """
SELECT attname AS name, pg_catalog.format_type(atttypid, atttypmod) AS type,
    NOT attnotnull AS nullable, pg_catalog.col_description(attrelid, attnum) AS comment
FROM pg_catalog.pg_attribute
WHERE attrelid = pg_catalog.to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_COMMENT = "SELECT pg_catalog.obj_description(pg_catalog.to_regclass(%s), 'pg_class')"
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


def by_spec(pipeline: Pipeline, kind: str, name: str) -> Fields:
    """`file` and `sql` of a table or transform of the pipeline file."""
    if kind == "transform":
        transform = pipeline.transform(name)
        relation = relation_of(pipeline, kind, name)
        sql = transform_sql(relation, transform.materialized, transform.sql)
        return {"file": display_path(transform.file), "sql": sql}
    sql = step_sql(Step(kind="extract", name=name), pipeline)
    return {"file": display_path(pipeline.file), "sql": sql}


def by_catalog(session: PinnedSession, relation: Relation) -> Fields:
    """`columns` and `comment` of a table as the warehouse has it."""
    with session.cursor(row_factory=dict_row) as cursor:
        columns = cursor.execute(_COLUMNS, (relation.sql,)).fetchall()
    comment = session.execute(_COMMENT, (relation.sql,)).fetchone()
    return {"columns": columns, "comment": comment[0] if comment else None}


def lineage_of(pipeline: Pipeline, connections: Connections, kind: str, name: str) -> Fields:
    """`upstream` and `downstream` of a table or transform of the pipeline file: the documents of
    `loadsheet lineage --json`.

    Raises ConnectionMissing, SpecError and psycopg errors.
    """
    relation = relation_of(pipeline, kind, name)
    dataset = Dataset("staging" if kind == "table" else "mart", relation.schema, name)
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
