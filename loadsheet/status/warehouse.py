"""The status of a pipeline according to the ledger and the tables in the warehouse."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from loadsheet.connections.lookup import Connections
from loadsheet.engine.transform import relations_read
from loadsheet.postgres import Session, connect_warehouse
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.status.models import (
    Failure,
    Known,
    PipelineStatus,
    Rows,
    TableStatus,
    TransformStatus,
    Watermark,
    Work,
)
from loadsheet.warehouse import ledger, mart

# Counting so many pages (8 MB) takes some 20 ms.
_COUNTED_PAGES = 1_000
_QUERY_TIMEOUT = "5s"
# The rows of a table that is locked for longer are unknown; the next one must not wait as
# well.
_LONGEST_LOCK = "1s"
_WATERMARKS = (
    "SELECT table_name, watermark, cursor FROM loadsheet.scope WHERE pipeline = %s ORDER BY"
    " table_name"
)
_LOADS = """
SELECT scope.table_name AS name, load.target, committed_at AS at, run_id, load_no AS number, action AS how, extracted,
       inserted, updated, deleted, bytes, extract_seconds + load_seconds AS seconds, held_by
FROM loadsheet.scope JOIN loadsheet.load ON load_no = last_load_no WHERE scope.pipeline = %s
"""
_BUILDS = """
SELECT DISTINCT ON (transform) transform AS name, target, committed_at AS at, run_id, run_no AS number,
       CASE WHEN full_build THEN 'full' ELSE 'increment' END AS how, NULL::bigint AS extracted,
       inserted, updated, deleted, NULL::bigint AS bytes, seconds, '' AS held_by
FROM loadsheet.transform_run WHERE pipeline = %s ORDER BY transform, run_no DESC
"""
_FAILURES = """
SELECT kind, name, step, run_id, code, message, since, failed_at AS at, worked_at
FROM loadsheet.failure WHERE pipeline = %s
"""
_SIZE = """
SELECT relkind IN ('r', 'p', 'm'), coalesce(pg_relation_size(oid), 0) / current_setting('block_size')::int,
       reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)
"""


def begin_on_warehouse(session: Session) -> datetime:
    """Make the session one that only asks, and briefly; returns the warehouse's clock."""
    row = session.execute(
        "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false), "
        "set_config('default_transaction_read_only', 'on', false), clock_timestamp()",
        (_QUERY_TIMEOUT, _LONGEST_LOCK),
    ).fetchone()
    assert row
    return row[3]  # type: ignore[no-any-return]


def ledger_state(session: Session, pipeline: str) -> Known:
    """What the ledger says. Raises Refused when a newer Loadsheet has made it."""
    ledger.refuse_newer(ledger.version(session))
    if not _exists(session, "scope"):
        return Known(watermarks={}, loads={}, builds={}, failures={})
    rows = session.execute(_WATERMARKS, (pipeline,)).fetchall()
    # A ledger that no step of this version has met yet has no failures.
    failures = _rows(session, Failure, _FAILURES, pipeline) if _exists(session, "failure") else []
    return Known(
        watermarks={name: Watermark(value=value, cursor=cursor) for name, value, cursor in rows},
        loads={work.name: work for work in _rows(session, Work, _LOADS, pipeline)},
        builds={work.name: work for work in _rows(session, Work, _BUILDS, pipeline)},
        failures={(failure.kind, failure.name): failure for failure in failures},
    )


def rows_in(session: Session, target: Relation) -> Rows:
    """The rows of a table. A large one is estimated by its last VACUUM or ANALYZE."""
    try:
        size = session.execute(_SIZE, (target.sql,)).fetchone()
        if size is None:
            return Rows(number=None, is_there=False)
        is_table, pages, estimate = size
        if is_table and pages <= _COUNTED_PAGES:
            row = session.execute(f"SELECT count(*) FROM {target.sql}").fetchone()
            return Rows(number=row[0] if row else None, exact=True)
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.UndefinedTable,
        psycopg.errors.QueryCanceled,
        psycopg.errors.LockNotAvailable,
    ):
        return Rows(number=None)
    return Rows(number=estimate if is_table and estimate >= 0 else None)


def _exists(session: Session, table: str) -> bool:
    return session.execute(
        "SELECT to_regclass(%s) IS NOT NULL", (f"loadsheet.{table}",)
    ).fetchone() == (True,)


def _rows(session: Session, kind: type[Any], query: str, pipeline: str) -> list[Any]:
    with session.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, (pipeline,)).fetchall()


def warehouse_status(pipeline: Pipeline, connections: Connections) -> PipelineStatus:
    """All that needs no source. Raises ConnectionMissing, Refused and psycopg errors."""
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        at = begin_on_warehouse(session)
        ledger = ledger_state(session, pipeline.name)
        named = {table.name for table in pipeline.tables}
        # One that a pattern matches and that failed at once has left nothing but its failure.
        failed = [
            name
            for kind, name in ledger.failures
            if kind == "table" and _open(ledger, "table", name)
        ]
        return PipelineStatus(
            pipeline=pipeline.name,
            at=at,
            # Those of the spec, then those that the ledger remembers from patterns and earlier
            # specs.
            tables=[
                _table(
                    session,
                    pipeline,
                    name,
                    ledger,
                    name in named or pipeline.pattern_of(name) is not None,
                )
                for name in dict.fromkeys(
                    [*(table.name for table in pipeline.tables), *ledger.watermarks, *failed]
                )
            ],
            transforms=[
                _transform(session, pipeline, transform, ledger)
                for transform in pipeline.transforms
            ],
        )


def _table(
    session: Session, pipeline: Pipeline, name: str, known: Known, in_spec: bool
) -> TableStatus:
    target, last = Relation(pipeline.warehouse.schema, name), known.loads.get(name)
    mark = known.watermarks.get(name, Watermark(value=None, cursor=None))
    return TableStatus(
        name=name,
        target=last.target if last else str(target),
        rows=rows_in(session, target),
        last=last,
        # No run will ever repair what has left the spec.
        failure=_open(known, "table", name) if in_spec else None,
        in_spec=in_spec,
        watermark=mark.value,
        cursor=mark.cursor,
    )


def _transform(
    session: Session, pipeline: Pipeline, transform: Transform, known: Known
) -> TransformStatus:
    target, last = (
        Relation(pipeline.warehouse.mart_schema, transform.name),
        known.builds.get(transform.name),
    )
    job = None
    if last:
        job = mart.decide_build(
            session, pipeline, transform, target, relations_read(pipeline, transform), full=False
        )
    return TransformStatus(
        name=transform.name,
        target=str(target),
        rows=rows_in(session, target),
        last=last,
        failure=_open(known, "transform", transform.name),
        materialized=transform.materialized,
        due=job.reason if job else "",
    )


def _open(known: Known, kind: str, name: str) -> Failure | None:
    failure = known.failures.get((kind, name))
    return failure if failure and failure.worked_at is None else None
