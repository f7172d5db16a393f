"""The transform step: build a mart when something it reads was loaded since it last succeeded."""

from __future__ import annotations

import psycopg

from loadsheet.engine import resume
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.postgres import Session
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger, mart, tables


def transform(
    pipeline: Pipeline, spec: Transform, request: RunRequest, session: Session
) -> Outcome:
    """Build the transform's table or view, or run its script; skipped when nothing it reads has
    changed.

    The ledger is asked, not the upstream tasks: a transform that failed is still due when its
    inputs skip. Raises Refused with the SQL file's name when its SQL fails for a reason a retry
    cannot mend.
    """
    ledger.ensure(session)
    tables.ensure_schema(session, pipeline.warehouse.mart_schema)
    target = Relation(pipeline.warehouse.mart_schema, spec.name)
    inputs = relations_read(pipeline, spec)
    missing = [str(i) for i in inputs if tables.kind(session, i) is None]
    if missing:
        return skipped(f"waits for {', '.join(missing)}, not loaded yet")
    seen = mart.last_committed_number(session, inputs)
    try:
        with session.transaction():
            ledger.lock_target(session, target)
            reach("transform.locked")
            job = mart.decide_build(
                session, pipeline, spec, target, inputs, _is_full(pipeline, spec, request, session)
            )
            if job is None:
                ledger.clear_failure(session, pipeline.name, "transform", spec.name)
                return skipped("nothing it reads has changed")
            effect = mart.build_mart(session, pipeline, spec, request, target, job, seen)
            ledger.clear_failure(session, pipeline.name, "transform", spec.name)
            reach("transform.recorded")
        reach("transform.committed")
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as error:
        raise Refused(
            f"{spec.file}: {error.diag.message_primary} (SQLSTATE {error.sqlstate})"
        ) from error
    counts = {"inserted": effect.inserted, "updated": effect.updated, "deleted": effect.deleted}
    return Outcome(status="done", message=f"{effect} ({job.reason})", counts=counts)


def _is_full(pipeline: Pipeline, spec: Transform, request: RunRequest, session: Session) -> bool:
    """Whether the run asks to build the transform in full, and has not done so before it was
    stopped."""
    if not request.is_full(spec.name):
        return False
    resumes = spec.name in request.resumes
    return not (resumes and resume.has_built(session, pipeline.name, spec.name, request.run_id))


def relations_read(pipeline: Pipeline, spec: Transform) -> list[Relation]:
    """The staging tables and marts that the transform reads."""
    read = transform_inputs(pipeline)[spec.name]
    staging, marts = pipeline.warehouse.schema, pipeline.warehouse.mart_schema
    return [Relation(staging, t) for t in read.tables] + [
        Relation(marts, t) for t in read.transforms
    ]
