"""Run one step of a plan: the entry for an Airflow task and for `loadsheet run`.

    Airflow: airflow.operators ──┐
                                 ├─> execute ─> look | resolve | extract | read | load | ...
    loadsheet run: engine.runner ┘

Both get the same limits of time, messages and records of failures, because all of that is here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.engine.failures import failure_explained, failure_recorded
from loadsheet.engine.sessions import Servers
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import load_prefix
from loadsheet.outcome import Outcome, RunRequest, left_out, skipped
from loadsheet.plan.steps import Step, tasks_of
from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)
Progress = Callable[[int | None, int], None]
Verify = Callable[[Pipeline, RunRequest, Connections, Servers], Outcome]
"""Does the step `verify`. It is given, because the room that does it is above this one."""


def execute(
    step: Step,
    pipeline: Pipeline,
    request: RunRequest,
    connections: Connections,
    *,
    load_id: str | None = None,
    progress: Progress | None = None,
    servers: Servers | None = None,
    verify: Verify | None = None,
    is_over: Callable[[], bool] | None = None,
) -> Outcome:
    """Do the work of `step` and return its outcome.

    `load_id` is the extract step's, for the load of the same table. `progress(rows, bytes)` is
    called with what has been stored or loaded so far. `servers` are those of a run of several
    steps; without them the step opens its own sessions. `verify` is needed for a step of that kind
    only (`loadsheet.verify.step.verify_due`). `is_over` tells a step that helps an extract that
    this has ended.

    Raises LoadsheetError that names pipeline, step, run, cause and next step (`.retryable` tells
    whether a retry may help). Any other exception is a bug.
    """
    if progress is None:
        progress = _ignore_progress
    if servers is None:
        servers = Servers(pipeline, connections)
    limit = tasks_of(step, pipeline).timeout
    _log.info("%s of %s begins, run %s", step.id, pipeline.name, request.run_id)
    verify_due = None
    if verify:
        verify_due = partial(verify, pipeline, request, connections, servers)
    outcome = _left_out(step, request, load_id)
    if outcome is None:
        # From the inside: what exceeds the limit fails, what fails is explained, and the
        # explanation is what the ledger records.
        with (
            failure_recorded(step, pipeline, request, connections),
            failure_explained(step, pipeline, request, connections),
            limited(f"the {step.kind} of {step.name}", limit),
        ):
            outcome = _dispatch(
                step, pipeline, request, servers, load_id, progress, verify_due, is_over
            )
    _log.info("%s of %s: %s, %s", step.id, pipeline.name, outcome.status, outcome.message)
    # The message may quote names of tables, roles and sessions, which may hold line breaks; logs
    # show it on one line.
    return replace(outcome, message=on_one_line(outcome.message))


def _ignore_progress(rows: int | None, size: int) -> None:
    pass


def _left_out(step: Step, request: RunRequest, load_id: str | None) -> Outcome | None:
    """The outcome of a table's step that has nothing to do in this run; None for others. Of 5,000
    tables with nothing new, each has one, so it costs no limit of time."""
    if step.kind not in ("extract", "read", "load"):
        return None
    outcome = left_out(request, step.name)
    if outcome is None and step.kind == "load" and load_id is None:
        outcome = skipped("nothing was extracted")
    return outcome


def _dispatch(
    step: Step,
    pipeline: Pipeline,
    request: RunRequest,
    servers: Servers,
    load_id: str | None,
    progress: Progress,
    verify: Callable[[], Outcome] | None,
    is_over: Callable[[], bool] | None,
) -> Outcome:
    """Do what the step's kind asks for, in the sessions that it needs.

    Each kind's code is imported late: an Airflow task does one step, and should not pay for
    importing the others.
    """
    reach("step.begun")
    name = step.name
    match step.kind:
        case "create_bucket":
            created = servers.lake.create_bucket(load_prefix(pipeline))
            state = "created" if created else "exists"
            return Outcome(status="done", message=f"bucket {pipeline.lake.bucket} {state}")
        case "look":
            from loadsheet.engine.look import look

            return look(pipeline, request, servers)
        case "resolve":
            from loadsheet.engine.resolve import resolve

            with servers.source() as source, servers.warehouse() as warehouse:
                return resolve(pipeline, name, source, warehouse)
        case "transform":
            from loadsheet.engine.transform import look_at, transform

            spec = pipeline.transform(name)
            # Connecting takes longer than finding out that there is nothing to do.
            if servers.keeps_sessions:
                with servers.warehouse() as session:
                    outcome = look_at(pipeline, spec, request, session)
                if outcome:
                    return outcome
            with servers.own_warehouse() as session:
                return transform(pipeline, spec, request, session)
        case "verify":
            assert verify, "run_pipeline and execute are given what does this step"
            return verify()
    # An extract or load step, or one that helps an extract.
    from loadsheet.engine.again import extract_step, load_step
    from loadsheet.engine.table_step import TableStep

    of_table = TableStep(
        pipeline=pipeline,
        table=pipeline.table(name),
        request=request,
        servers=servers,
        progress=progress,
    )
    if step.kind == "extract":
        return extract_step(of_table)
    if step.kind == "read":
        from loadsheet.engine.shared_reading import help_to_read

        return help_to_read(of_table, step.number, is_over)
    assert load_id, "`_left_out` has skipped a load of nothing"
    return load_step(of_table, load_id)
