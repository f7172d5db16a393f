"""What the ledger has recorded of loads and builds, for the page."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from loadsheet.pinned import PinnedSession
from loadsheet.spec.models import Pipeline
from loadsheet.warehouse import ledger

HISTORY = 20
"""Loads of a target in its sparkline."""
MOST_COMMITS = 200
"""Loads of a target on its page, the newest ones."""
_HAS_LEDGER = "SELECT pg_catalog.to_regclass('loadsheet.scope') IS NOT NULL"
# Each target by its index: a window over the whole ledger would read millions of rows.
_HISTORIES = """
SELECT 'table', s.table_name, recent.changed
FROM loadsheet.scope s, LATERAL (
    SELECT array_agg(changed ORDER BY load_no) AS changed FROM (
        SELECT load_no, inserted + updated + deleted AS changed FROM loadsheet.load l
        WHERE l.pipeline = s.pipeline AND l.table_name = s.table_name AND l.target = s.target
        ORDER BY load_no DESC LIMIT %(most)s) newest) recent
WHERE s.pipeline = %(pipeline)s AND s.target = %(schema)s || '.' || s.table_name
UNION ALL
SELECT 'transform', name, recent.changed
FROM unnest(%(transforms)s::text[]) AS t (name), LATERAL (
    SELECT array_agg(changed ORDER BY run_no) AS changed FROM (
        SELECT run_no, inserted + updated + deleted AS changed FROM loadsheet.transform_run r
        WHERE r.target = %(mart_schema)s || '.' || t.name AND r.pipeline = %(pipeline)s
        ORDER BY run_no DESC LIMIT %(most)s) newest) recent
"""
_LOADS = """
SELECT 'table' AS kind, table_name AS name, target, load_no AS number, run_id, committed_at AS at,
    action AS how, extracted, inserted, updated, deleted, replaced, bytes,
    extract_seconds + load_seconds AS seconds, extract_seconds, load_seconds, held_by, manifest
FROM loadsheet.load WHERE pipeline = %(pipeline)s AND {}
ORDER BY load_no DESC LIMIT %(most)s
"""
_BUILDS = """
SELECT 'transform' AS kind, transform AS name, target, run_no AS number, run_id,
    committed_at AS at, CASE WHEN full_build THEN 'full' ELSE 'increment' END AS how,
    NULL::bigint AS extracted, inserted, updated, deleted, replaced, NULL::bigint AS bytes,
    seconds, NULL::float8 AS extract_seconds, seconds AS load_seconds, '' AS held_by,
    NULL AS manifest
FROM loadsheet.transform_run WHERE pipeline = %(pipeline)s AND {}
ORDER BY run_no DESC LIMIT %(most)s
"""
_FAILURES = """
SELECT kind, name, step, code, message, since, failed_at AS at, worked_at
FROM loadsheet.failure WHERE pipeline = %(pipeline)s AND run_id = %(run_id)s
ORDER BY failed_at
"""
_MOST_OF_A_RUN = 20_000

Commits = list[dict[str, Any]]


def has_ledger(session: PinnedSession) -> bool:
    """Whether there is a ledger. Raises Refused where a newer Loadsheet has created it."""
    ledger.refuse_newer(ledger.version(session))
    return session.execute(_HAS_LEDGER).fetchone() == (True,)


def histories(session: PinnedSession, pipeline: Pipeline) -> dict[tuple[str, str], list[int]]:
    """By kind and name, how many rows each of the last HISTORY loads or builds has changed."""
    schemas = pipeline.warehouse
    values = {
        "pipeline": pipeline.name,
        "schema": schemas.schema,
        "mart_schema": schemas.mart_schema,
        "transforms": [transform.name for transform in pipeline.transforms],
        "most": HISTORY,
    }
    found = session.execute(_HISTORIES, values).fetchall()
    return {(kind, name): changed for kind, name, changed in found if changed}


def of_target(session: PinnedSession, pipeline: Pipeline, kind: str, target: str) -> Commits:
    """The newest loads or builds of a target by this pipeline, the newest first."""
    query = _LOADS if kind == "table" else _BUILDS
    values = {"pipeline": pipeline.name, "target": target, "most": MOST_COMMITS}
    return _read(session, query.format("target = %(target)s"), values)


def of_run(session: PinnedSession, pipeline: Pipeline, run_id: str) -> dict[str, Commits]:
    """The `loads`, the `builds` and the `failures` of a run, the oldest first. Of failures the
    ledger has only the last one of each target."""
    values = {"pipeline": pipeline.name, "run_id": run_id, "most": _MOST_OF_A_RUN}
    loads = _read(session, _LOADS.format("run_id = %(run_id)s"), values)
    builds = _read(session, _BUILDS.format("run_id = %(run_id)s"), values)
    failures: Commits = []
    if session.execute("SELECT to_regclass('loadsheet.failure') IS NOT NULL").fetchone() == (True,):
        failures = _read(session, _FAILURES, values)
    return {"loads": loads[::-1], "builds": builds[::-1], "failures": failures}


def _read(session: PinnedSession, query: str, values: dict[str, Any]) -> Commits:
    with session.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
