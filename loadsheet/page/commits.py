"""What the ledger has recorded of loads and builds, for the page."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from loadsheet.pinned import PinnedSession
from loadsheet.spec.models import Pipeline
from loadsheet.warehouse import ledger

HISTORY = 20
"""Loads of a target in its sparkline, and runs of a pipeline on its page."""
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
# The newest commits of each target, by its index. Those of a target that has more reach back to a
# time: of the runs before it, some commits would be missing.
_RUNS = """
WITH newest AS (
    SELECT 'table' AS kind, l.* FROM loadsheet.scope s, LATERAL (
        SELECT run_id, committed_at AS at, inserted, updated, deleted, bytes,
            row_number() OVER (ORDER BY load_no DESC) AS place
        FROM loadsheet.load
        WHERE pipeline = s.pipeline AND table_name = s.table_name AND target = s.target
        ORDER BY load_no DESC LIMIT %(most)s) l
    WHERE s.pipeline = %(pipeline)s AND s.target = %(schema)s || '.' || s.table_name
    UNION ALL
    SELECT 'transform', b.* FROM unnest(%(transforms)s::text[]) AS t (name), LATERAL (
        SELECT run_id, committed_at, inserted, updated, deleted, NULL::bigint,
            row_number() OVER (ORDER BY run_no DESC)
        FROM loadsheet.transform_run
        WHERE target = %(mart_schema)s || '.' || t.name AND pipeline = %(pipeline)s
        ORDER BY run_no DESC LIMIT %(most)s) b)
SELECT run_id, min(at) AS first_at, max(at) AS last_at,
    count(*) FILTER (WHERE kind = 'table') AS tables,
    count(*) FILTER (WHERE kind = 'transform') AS marts,
    sum(inserted)::bigint AS inserted, sum(updated)::bigint AS updated,
    sum(deleted)::bigint AS deleted, sum(bytes)::bigint AS bytes
FROM newest GROUP BY run_id
HAVING max(at) >= (
    SELECT coalesce(max(at), '-infinity') FROM newest WHERE place = %(most)s)
ORDER BY last_at DESC LIMIT %(most)s
"""
_FAILED_RUNS = """
SELECT run_id, min(failed_at) AS first_at, max(failed_at) AS last_at, count(*) AS failures
FROM loadsheet.failure
WHERE pipeline = %(pipeline)s AND coalesce(to_jsonb(failure) ->> 'target', '') IN (
    '', CASE kind WHEN 'table' THEN %(schema)s ELSE %(mart_schema)s END || '.' || name)
GROUP BY run_id ORDER BY last_at DESC LIMIT %(most)s
"""
_NOTHING = dict.fromkeys(("tables", "marts", "inserted", "updated", "deleted", "failures"), 0)

Commits = list[dict[str, Any]]


def has_ledger(session: PinnedSession) -> bool:
    """Whether there is a ledger. Raises Refused where a newer Loadsheet has created it."""
    ledger.refuse_newer(ledger.version(session))
    return session.execute(_HAS_LEDGER).fetchone() == (True,)


def histories(session: PinnedSession, pipeline: Pipeline) -> dict[tuple[str, str], list[int]]:
    """By kind and name, how many rows each of the last HISTORY loads or builds has changed."""
    found = session.execute(_HISTORIES, _recent(pipeline)).fetchall()
    return {(kind, name): changed for kind, name, changed in found if changed}


def runs(session: PinnedSession, pipeline: Pipeline) -> Commits:
    """The last runs that have committed something or failed, the newest first: of each its times,
    and how many tables, marts, rows and failures. Of failures the ledger has only the last one of
    each target."""
    values = _recent(pipeline)
    found = {one["run_id"]: {**one, "failures": 0} for one in _read(session, _RUNS, values)}
    if _has_failures(session):
        for failed in _read(session, _FAILED_RUNS, values):
            run = found.setdefault(failed["run_id"], {**_NOTHING, "bytes": None, **failed})
            run["failures"] = failed["failures"]
            run["last_at"] = max(run["last_at"], failed["last_at"])
    return sorted(found.values(), key=lambda run: run["last_at"], reverse=True)[:HISTORY]


def _recent(pipeline: Pipeline) -> dict[str, Any]:
    schemas = pipeline.warehouse
    return {
        "pipeline": pipeline.name,
        "schema": schemas.schema,
        "mart_schema": schemas.mart_schema,
        "transforms": [transform.name for transform in pipeline.transforms],
        "most": HISTORY,
    }


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
    if _has_failures(session):
        failures = _read(session, _FAILURES, values)
    return {"loads": loads[::-1], "builds": builds[::-1], "failures": failures}


def _has_failures(session: PinnedSession) -> bool:
    """Earlier versions of the ledger have no such table."""
    query = "SELECT to_regclass('loadsheet.failure') IS NOT NULL"
    return session.execute(query).fetchone() == (True,)


def _read(session: PinnedSession, query: str, values: dict[str, Any]) -> Commits:
    with session.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
