"""Run one step of a plan, wherever it is asked for: an Airflow task or `loadsheet run`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.engine.failures import explained, noted
from loadsheet.engine.sessions import Servers
from loadsheet.failpoints import reach
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.plan.steps import Step, tasks_of
from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)
Progress = Callable[[int | None, int], None]


def execute(
    step: Step,
    pipeline: Pipeline,
    request: RunRequest,
    connections: Connections,
    *,
    load_id: str | None = None,
    progress: Progress | None = None,
    servers: Servers | None = None,
) -> Outcome:
    """Do the work of `step` and say what came of it.

    `load_id` is the extract step's, for the load of the same table; `progress(rows, bytes)` is told
    what has been stored or loaded so far; `servers` are those of a run of several steps. Raises
    LoadsheetError, placed and explained (`.retryable` says whether a retry may help); any other
    exception is a bug.
    """
    tell = progress or (lambda rows, size: None)
    limit = tasks_of(step, pipeline).timeout
    place = step, pipeline, request, connections
    _log.info("%s of %s begins, run %s", step.id, pipeline.name, request.run_id)
    with noted(*place), explained(*place), limited(f"the {step.kind} of {step.name}", limit):
        outcome = _execute(
            step, pipeline, request, servers or Servers(pipeline, connections), load_id, tell
        )
    _log.info("%s of %s: %s, %s", step.id, pipeline.name, outcome.status, outcome.message)
    # It may name tables, roles and sessions, and is a line of a log.
    return replace(outcome, message=on_one_line(outcome.message))


def _execute(
    step: Step,
    pipeline: Pipeline,
    request: RunRequest,
    servers: Servers,
    load_id: str | None,
    tell: Progress,
) -> Outcome:
    reach("step.begun")
    match step.kind:
        case "create_bucket":
            created = servers.lake.create_bucket()
            return Outcome(
                status="done",
                message=f"bucket {pipeline.lake.bucket} {'created' if created else 'is there'}",
            )
        case "resolve":
            return _resolve(pipeline, step.name, servers)
        case "transform":
            return _transform(pipeline, step.name, request, servers)
        case _ if not request.wants(step.name):
            return skipped("not among the tables of this run")
        case "extract":
            return _extract(pipeline, step.name, request, servers, tell)
        case "load":
            return _load(pipeline, step.name, servers, load_id, tell)


# Each kind imports what it needs.
def _resolve(pipeline: Pipeline, name: str, servers: Servers) -> Outcome:
    from loadsheet.engine.resolve import resolve

    with servers.source() as source, servers.warehouse() as warehouse:
        return resolve(pipeline, name, source, warehouse)


def _extract(
    pipeline: Pipeline, name: str, request: RunRequest, servers: Servers, tell: Progress
) -> Outcome:
    from loadsheet.engine.extract import extract
    from loadsheet.source.discovery import has_relation

    table = pipeline.table(name)
    with servers.source() as source, servers.warehouse() as warehouse:
        if table.matched and not has_relation(source, pipeline.source.schema, name):
            return skipped("the source no longer has it; what was loaded stays")
        return extract(pipeline, table, request, source, servers.lake, warehouse, tell)


def _load(
    pipeline: Pipeline, name: str, servers: Servers, load_id: str | None, tell: Progress
) -> Outcome:
    from loadsheet.engine.load import load

    if load_id is None:
        return skipped("nothing was extracted")
    return load(pipeline, pipeline.table(name), load_id, servers.lake, servers.warehouse, tell)


def _transform(pipeline: Pipeline, name: str, request: RunRequest, servers: Servers) -> Outcome:
    from loadsheet.engine.transform import transform

    with servers.own_warehouse() as session:
        return transform(pipeline, pipeline.transform(name), request, session)
