"""Run one step of a plan, wherever it is asked for: an Airflow task or `loadsheet run`."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from loadsheet.connections import Connections
from loadsheet.errors import Refused
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.plan.steps import Step
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.spec.models import Pipeline
from loadsheet.steps.extract import extract
from loadsheet.steps.load import load
from loadsheet.steps.transform import transform

Progress = Callable[[int, int], None]
_INSUFFICIENT_PRIVILEGE = "42501"


def execute(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections, *,
    load_id: str | None = None, progress: Progress | None = None,
) -> Outcome:  # fmt: skip
    """Do the work of `step` and say what came of it.

    `load_id` is the extract step's, for the load of the same table; `progress(rows, bytes)` is told what has been
    stored or loaded so far. Raises LoadsheetError for expected failures (`.retryable` says whether a retry may help),
    psycopg and minio errors for trouble with the servers.
    """
    tell = progress or (lambda rows, size: None)
    try:
        return _execute(step, pipeline, request, connections, load_id, tell)
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as error:
        if error.sqlstate is None:
            raise
        advice = ": grant the connection's role what it lacks" if error.sqlstate == _INSUFFICIENT_PRIVILEGE else ""
        what = f"{step.kind} {step.name}: {error.diag.message_primary} (SQLSTATE {error.sqlstate}){advice}"
        raise Refused(what) from error


def _execute(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections, load_id: str | None, tell: Progress
) -> Outcome:
    lake, warehouse = pipeline.lake, pipeline.warehouse.conn_id
    if step.kind == "create_bucket":
        created = Lake(connections(lake.conn_id), lake.bucket).create_bucket()
        return Outcome(status="done", message=f"bucket {lake.bucket} {'created' if created else 'is there'}")
    if step.kind == "transform":
        with connect_warehouse(connections(warehouse)) as session:
            return transform(pipeline, pipeline.transform(step.name), request, session)
    store = Lake(connections(lake.conn_id), lake.bucket)
    table = pipeline.table(step.name)
    if step.kind == "load":
        return load(pipeline, table, request, load_id, store, lambda: connect_warehouse(connections(warehouse)), tell)
    if not request.wants(table.name):
        return skipped("not among the tables of this run")
    with (
        connect_source(connections(pipeline.source.conn_id)) as source,
        connect_warehouse(connections(warehouse)) as session,
    ):
        return extract(pipeline, table, request, source, store, session, tell)
