"""`--sample`: a part of each table, in schemas that production does not use.

A row is taken by the hash of its key's first column, so that `orders (order_no)` and `order_lines
(order_no, line_no)` keep what matches; TABLESAMPLE would draw each table by itself, and not from
views and foreign tables at all. The server reads the table and sends only the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import psycopg

from loadsheet.engine import garbage
from loadsheet.errors import InputError
from loadsheet.outcome import Sample
from loadsheet.postgres import Session
from loadsheet.source.selection import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.substitute import in_schemas
from loadsheet.sql.text import Relation, ident, idents

SUFFIX = "_sample"
_LONGEST = 63
"""Bytes; PostgreSQL cuts a longer name off, and what is left might be production's own."""


def sampled(pipeline: Pipeline) -> Pipeline:
    """The pipeline with schemas, a lake prefix and a name in the ledger of its own, without its
    scripts.

    Its transforms read the sample's tables. A script may write anywhere, so it is left out. Raises
    InputError where a schema's name is too long to get a suffix, or belongs to the source.
    """
    staging, mart = (
        _schema(pipeline, name)
        for name in (pipeline.warehouse.schema, pipeline.warehouse.mart_schema)
    )
    moved = {
        pipeline.warehouse.schema: (staging, frozenset(table.name for table in pipeline.tables)),
        pipeline.warehouse.mart_schema: (
            mart,
            frozenset(transform.name for transform in pipeline.transforms),
        ),
    }
    return replace(
        pipeline,
        name=f"{pipeline.name}_{SUFFIX}",
        lake=replace(pipeline.lake, prefix=f"{pipeline.lake.prefix}{SUFFIX}"),
        warehouse=replace(pipeline.warehouse, schema=staging, mart_schema=mart),
        tables=tuple(replace(table, max_shrink=None) for table in pipeline.tables),
        transforms=tuple(
            replace(transform, sql=in_schemas(transform.sql, moved))
            for transform in pipeline.transforms
            if transform not in scripts(pipeline)
        ),
    )


def scripts(pipeline: Pipeline) -> tuple[Transform, ...]:
    """The transforms that no sample is taken for."""
    return tuple(
        transform for transform in pipeline.transforms if transform.materialized == "script"
    )


def _schema(pipeline: Pipeline, name: str) -> str:
    moved = f"{name}{SUFFIX}"
    if len(moved.encode()) > _LONGEST:
        raise InputError(
            f"--sample: {moved!r}, the schema of the sample, is longer than {_LONGEST} bytes"
        )
    if pipeline.source.conn_id == pipeline.warehouse.conn_id and moved == pipeline.source.schema:
        raise InputError(
            f"--sample: {moved!r}, the schema of the sample, is the one that the pipeline reads"
            " from"
        )
    return moved


LEAST = 1_000
"""A share of a small table would leave nothing to join with: what has no more rows is read whole.
"""
_COUNTED = 100_000
_BITS = 1 << 31
# Fewer values than this are no sample: a third of the rows, or none.
_FEW_VALUES = """
SELECT attname FROM pg_stats
WHERE schemaname = %s AND tablename = %s AND n_distinct BETWEEN 0 AND 1000
"""


def sampled_rows(
    session: Session, source: SourceTable, rows: Selection, sample: Sample
) -> Selection:
    """`rows`, but only those of the sample. How many a large table has is the planner's
    estimate."""
    row = session.execute(f"EXPLAIN (FORMAT JSON) SELECT FROM {source.relation.sql}").fetchone()
    expected = max(row[0][0]["Plan"]["Plan Rows"] if row else 0, 1)
    wanted = sample.rows if sample.rows is not None else max((sample.share or 0) * expected, LEAST)
    if wanted >= expected or _has_at_most(session, source, min(int(wanted), _COUNTED)):
        return rows
    limit = max(round(wanted / expected * _BITS), 1)
    return replace(
        rows, sample=f"(hashtextextended({_drawn_by(session, source)}, 0) & {_BITS - 1}) < {limit}"
    )


def _has_at_most(session: Session, source: SourceTable, rows: int) -> bool:
    """Counted: a table that was never analysed is estimated at thousands of rows when it holds
    ten."""
    first = f"SELECT FROM {source.relation.sql} LIMIT {rows + 1}"
    found = session.execute(f"SELECT count(*) <= {rows} FROM ({first}) first").fetchone()
    return bool(found and found[0])


def _drawn_by(session: Session, source: SourceTable) -> str:
    """What is hashed: the key's first column; the whole key where that has few values, the whole
    row without a key."""
    if not source.key:
        return f"CAST(ROW({idents([column.name for column in source.columns])}) AS text)"
    few = {
        row[0]
        for row in session.execute(_FEW_VALUES, (source.relation.schema, source.relation.name))
    }
    first = next((name for name in source.key if name not in few), None)
    return f"CAST({ident(first)} AS text)" if first else f"CAST(ROW({idents(source.key)}) AS text)"


# By the ledger's word, and only in the sample's own schemas: another pipeline may have its sample
# there as well.
_MADE = """
SELECT nspname::text, relname::text, relkind = 'v' FROM pg_class c JOIN pg_namespace n
    ON n.oid = relnamespace
WHERE nspname = ANY (%(schemas)s) AND relkind IN ('r', 'p', 'v') AND nspname || '.' || relname IN (
    SELECT target FROM loadsheet.scope WHERE pipeline = %(pipeline)s
    UNION SELECT target FROM loadsheet.transform_run WHERE pipeline = %(pipeline)s
) ORDER BY 1, 2
"""

Made = list[tuple[Relation, bool]]
"""Each with whether it is a view."""


def made(session: Session, pipeline: Pipeline) -> Made:
    """The tables and views that runs of `pipeline`, one that `loadsheet.engine.sample.sampled` has
    moved, have made."""
    if garbage.tables_known(session, pipeline.name) is None:
        return []
    rows = session.execute(_MADE, {"schemas": _schemas(pipeline), "pipeline": pipeline.name})
    return [(Relation(schema, name), is_view) for schema, name, is_view in rows]


def drop(session: Session, pipeline: Pipeline, relations: Made) -> list[str]:
    """Drop them all or none, then the sample's schemas that are empty; returns the names of those.

    Raises psycopg.errors.DependentObjectsStillExist when a view outside the sample reads one of
    them.
    """
    with session.transaction():
        _drop(session, "VIEW", (relation for relation, is_view in relations if is_view))
        _drop(session, "TABLE", (relation for relation, is_view in relations if not is_view))
    return [name for name in _schemas(pipeline) if _drop_schema(session, name)]


def _schemas(pipeline: Pipeline) -> Sequence[str]:
    return list(dict.fromkeys((pipeline.warehouse.schema, pipeline.warehouse.mart_schema)))


def _drop(session: Session, kind: str, relations: Iterable[Relation]) -> None:
    names = ", ".join(relation.sql for relation in relations)
    if names:
        session.execute(f"DROP {kind} {names}".encode())


def _drop_schema(session: Session, name: str) -> bool:
    try:
        with session.transaction():
            session.execute(f"DROP SCHEMA {ident(name)}".encode())
    except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.InvalidSchemaName):
        return False
    return True
