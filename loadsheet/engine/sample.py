"""`loadsheet run --sample`: a part of each table, in schemas that production does not use.

    sampled              the pipeline with the sample's own schemas, lake prefix and ledger name
    sampled_rows         which rows of a table belong to the sample
    created_relations,
    drop_relations       what sample runs created in the warehouse (`loadsheet gc --sample`)

Rows are chosen by the hash of the key's first column, so that `orders (order_no)` and `order_lines
(order_no, line_no)` keep matching rows. TABLESAMPLE would choose rows of each table independently,
and does not work with views and foreign tables. The server reads the whole table and sends the
sample.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import psycopg

from loadsheet.answers import plan
from loadsheet.errors import InputError
from loadsheet.outcome import Sample
from loadsheet.postgres import Session
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.merging import TOMBSTONES
from loadsheet.sql.substitute import in_schemas
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.warehouse import tombstones
from loadsheet.warehouse.scope import extracted_tables

_log = logging.getLogger(__name__)

SUFFIX = "_sample"
_LONGEST_NAME = 63
"""Bytes; PostgreSQL truncates a longer name, and the rest might be the name of production's
schema."""
SMALL_TABLE = 1_000
"""Rows. A table with no more is read whole: a share of it would leave nothing to join with."""
_MOST_COUNTED = 100_000
"""Rows to count at most; beyond that, the planner's estimate has to do."""
_HASH_RANGE = 1 << 31
# A column with fewer values is no basis for a sample: one value may be a third of the rows.
_FEW_VALUES = """
SELECT attname FROM pg_stats
WHERE schemaname = %s AND tablename = %s AND n_distinct BETWEEN 0 AND 1000
"""
# Only what the ledger knows, and only in the sample's own schemas: another pipeline may have its
# sample there as well.
_CREATED = """
WITH made (name) AS (
    SELECT target FROM loadsheet.scope WHERE pipeline = %(pipeline)s
    UNION SELECT target FROM loadsheet.transform_run WHERE pipeline = %(pipeline)s
)
SELECT nspname::text, relname::text, relkind = 'v' FROM pg_class c JOIN pg_namespace n
    ON n.oid = relnamespace
WHERE nspname = ANY (%(schemas)s) AND relkind IN ('r', 'p', 'v') AND (
    nspname || '.' || relname IN (SELECT name FROM made) OR obj_description(c.oid, 'pg_class') IN (
        SELECT %(mark)s || name || %(mark_end)s FROM made))
ORDER BY 1, 2
"""

CreatedRelations = list[tuple[Relation, bool]]
"""Each with whether it is a view."""


def sampled(pipeline: Pipeline) -> Pipeline:
    """The pipeline with schemas, a lake prefix and a name in the ledger that only its samples use.

    Its transforms read the sample's tables. Scripts are left out, because they may write anywhere.
    Raises InputError where a schema's name is too long for a suffix, or is the source's schema.
    """
    warehouse = pipeline.warehouse
    staging = _sample_schema(pipeline, warehouse.schema)
    mart = _sample_schema(pipeline, warehouse.mart_schema)
    names = [table.name for table in pipeline.tables]
    table_names = frozenset((*names, *(name + TOMBSTONES for name in names)))
    mart_names = frozenset(transform.name for transform in pipeline.transforms)
    moved = {warehouse.schema: (staging, table_names), warehouse.mart_schema: (mart, mart_names)}
    left_out = scripts(pipeline)
    transforms: list[Transform] = []
    for transform in pipeline.transforms:
        if transform not in left_out:
            transforms.append(replace(transform, sql=in_schemas(transform.sql, moved)))
    # One sample may be much smaller than the one before it.
    tables = tuple(replace(table, max_shrink=1.0) for table in pipeline.tables)
    return replace(
        pipeline,
        # A name that no pipeline can have: the ledger keeps the sample's failures and runs by it.
        name=f"{pipeline.name}~sample",
        lake=replace(pipeline.lake, prefix=f"{pipeline.lake.prefix}{SUFFIX}"),
        warehouse=replace(warehouse, schema=staging, mart_schema=mart),
        tables=tables,
        transforms=tuple(transforms),
        verify=None,  # a sample has not all of the source's rows
    )


def scripts(pipeline: Pipeline) -> tuple[Transform, ...]:
    """The transforms that a sample run leaves out."""
    return tuple(
        transform for transform in pipeline.transforms if transform.materialized == "script"
    )


def _sample_schema(pipeline: Pipeline, name: str) -> str:
    moved = f"{name}{SUFFIX}"
    if len(moved.encode()) > _LONGEST_NAME:
        raise InputError(
            f"--sample: {moved!r}, the schema of the sample, is longer than {_LONGEST_NAME} bytes"
        )
    if pipeline.source.conn_id == pipeline.warehouse.conn_id and moved == pipeline.source.schema:
        raise InputError(
            f"--sample: {moved!r}, the schema of the sample, is the one that the pipeline reads"
            " from"
        )
    return moved


def sampled_rows(
    session: Session, source: SourceTable, rows: Selection, sample: Sample
) -> Selection:
    """`rows` with the condition that chooses the sample; unchanged where the whole table is as
    small as the sample. A large table's size is the planner's estimate."""
    row = session.execute(f"EXPLAIN (FORMAT JSON) SELECT FROM {source.relation.sql}").fetchone()
    expected = max(plan(session, row)["Plan Rows"], 1)
    if sample.rows is not None:
        wanted: float = sample.rows
    else:
        wanted = max((sample.share or 0) * expected, SMALL_TABLE)
    if wanted >= expected or _has_at_most(session, source, min(int(wanted), _MOST_COUNTED)):
        _log.debug("%s: the sample is the whole table", source.relation)
        return rows
    limit = max(round(wanted / expected * _HASH_RANGE), 1)
    value = _hashed_value(session, source)
    # Masked, because the hash may be negative.
    condition = f"(hashtextextended({value}, 0) & {_HASH_RANGE - 1}) < {limit}"
    return replace(rows, sample=condition)


def _has_at_most(session: Session, source: SourceTable, rows: int) -> bool:
    """Whether the table has at most so many rows. Counted, because a table that was never analysed
    is estimated at thousands of rows when it holds ten."""
    first = f"SELECT FROM {source.relation.sql} LIMIT {rows + 1}"
    answer = session.execute(f"SELECT count(*) <= {rows} FROM ({first}) first").fetchone()
    return answer == (True,)


def _hashed_value(session: Session, source: SourceTable) -> str:
    """The SQL expression that is hashed: the first column of the key that has many values, else the
    whole key, and without a key the whole row."""
    if not source.key:
        return f"CAST(ROW({idents([column.name for column in source.columns])}) AS text)"
    rows = session.execute(_FEW_VALUES, (source.relation.schema, source.relation.name))
    with_few_values = {row[0] for row in rows}
    for name in source.key:
        if name not in with_few_values:
            return f"CAST({ident(name)} AS text)"
    return f"CAST(ROW({idents(source.key)}) AS text)"


def created_relations(session: Session, pipeline: Pipeline) -> CreatedRelations:
    """The tables and views that runs of `pipeline`, a result of `sampled`, have created."""
    if extracted_tables(session, pipeline.name) is None:
        return []
    values = {
        "schemas": _schemas(pipeline),
        "pipeline": pipeline.name,
        "mark": tombstones.MARK,
        "mark_end": tombstones.MARK_END,
    }
    rows = session.execute(_CREATED, values)
    return [(Relation(schema, name), is_view) for schema, name, is_view in rows]


def drop_relations(session: Session, pipeline: Pipeline, relations: CreatedRelations) -> list[str]:
    """Drop all of them or none, then the sample's schemas that are empty. Returns the names of
    these schemas.

    Raises psycopg.errors.DependentObjectsStillExist when a view outside the sample reads one of
    them.
    """
    views = [relation for relation, is_view in relations if is_view]
    tables = [relation for relation, is_view in relations if not is_view]
    with session.transaction():
        # Views first: they read the tables, and without CASCADE nothing outside can be dropped.
        _drop(session, "VIEW", views)
        _drop(session, "TABLE", tables)
    dropped: list[str] = []
    for name in _schemas(pipeline):
        # Without CASCADE: a schema that still holds something, perhaps another sample, stays.
        with (
            suppress(psycopg.errors.DependentObjectsStillExist, psycopg.errors.InvalidSchemaName),
            session.transaction(),
        ):
            session.execute(f"DROP SCHEMA {ident(name)}".encode())
            dropped.append(name)
    return dropped


def _schemas(pipeline: Pipeline) -> Sequence[str]:
    """The sample's schemas, which may be one and the same."""
    return list(dict.fromkeys((pipeline.warehouse.schema, pipeline.warehouse.mart_schema)))


def _drop(session: Session, kind: str, relations: Sequence[Relation]) -> None:
    names = ", ".join(relation.sql for relation in relations)
    if names:
        session.execute(f"DROP {kind} {names}".encode())
