"""The transform step: build a mart when something it reads was loaded since it last succeeded."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from loadsheet.engine import details, resume
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.postgres import Session
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.warehouse import adopt, ledger, mart, tables
from loadsheet.warehouse.parameters import must_hold_inputs


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What a transform reads, and the last load of it that it is sure to see."""

    relations: list[Relation]
    seen: int


def transform(
    pipeline: Pipeline, spec: Transform, request: RunRequest, session: Session
) -> Outcome:
    """Build the transform's table or view, or run its script; skipped when nothing it reads has
    changed, or when an input was never loaded.

    The ledger decides, not the upstream tasks: a transform that failed is still due when its inputs
    are skipped. Raises Refused with the SQL file's name when its SQL fails for a reason that a
    retry cannot solve.
    """
    target = Relation(pipeline.warehouse.mart_schema, spec.name)
    inputs = _inputs(pipeline, spec, session)
    if isinstance(inputs, Outcome):
        return inputs
    try:
        with session.transaction():
            due = _due(pipeline, spec, request, session, target, inputs)
            if isinstance(due, Outcome):
                return due
            job, seen = due
            details.show(
                f"Building {target}",
                {
                    "file": spec.file,
                    "reason": job.reason,
                    "reads": ", ".join(str(relation) for relation in inputs.relations),
                },
            )
            built = mart.build_mart(session, pipeline, spec, request, target, job, seen)
            ledger.clear_failure(session, pipeline.name, "transform", target)
            reach("transform.recorded")
        reach("transform.committed")
    # Other errors, such as a lost connection, may pass: `failure_explained` tells which.
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as error:
        raise Refused(
            f"{spec.file}: {error.diag.message_primary} (SQLSTATE {error.sqlstate})"
        ) from error
    effect = built.effect
    message = f"{effect} ({'; '.join([job.reason, *built.notes])})"
    counts = {"inserted": effect.inserted, "updated": effect.updated, "deleted": effect.deleted}
    return Outcome(status="done", message=message, counts=counts, remarks=built.notes)


def skip_unless_due(
    pipeline: Pipeline, spec: Transform, request: RunRequest, session: Session
) -> Outcome | None:
    """The outcome of a transform that `transform` would skip; None where it is due. It runs none of
    the user's SQL, so the session may be used by other steps."""
    target = Relation(pipeline.warehouse.mart_schema, spec.name)
    inputs = _inputs(pipeline, spec, session)
    if isinstance(inputs, Outcome):
        return inputs
    with session.transaction():
        due = _due(pipeline, spec, request, session, target, inputs)
    return due if isinstance(due, Outcome) else None


def _inputs(pipeline: Pipeline, spec: Transform, session: Session) -> _Inputs | Outcome:
    """What the transform reads; its outcome where an input was never loaded."""
    ledger.ensure(session)
    tables.ensure_schema(session, pipeline.warehouse.mart_schema)
    own = relations_read(pipeline, spec)
    missing = [str(relation) for relation in own if tables.kind(session, relation) is None]
    if missing:
        return skipped(f"waits for {', '.join(missing)}, not loaded yet")
    externals: list[Relation] = []
    if pipeline.external:
        from loadsheet.warehouse.externals import external_inputs  # it reads the SQL again

        externals = external_inputs(session, pipeline, spec)
    # Before the transaction: a load that commits while the SQL runs may or may not be seen by it,
    # so it must count as not seen.
    seen = mart.last_committed_number(session, own, externals)
    return _Inputs(relations=own + externals, seen=seen)


def _due(
    pipeline: Pipeline,
    spec: Transform,
    request: RunRequest,
    session: Session,
    target: Relation,
    inputs: _Inputs,
) -> tuple[mart.BuildDecision, int] | Outcome:
    """What to build, and the last load that it sees; the outcome where there is nothing. The
    target's lock is held until the transaction ends."""
    ledger.lock_target(session, target)
    seen = inputs.seen
    if must_hold_inputs(spec):
        # Their locks are held until the commit, so later loads wait.
        seen = mart.last_committed_number(session, inputs.relations, [])
    # Another run of the transform may have ended meanwhile. What it has seen stays seen.
    seen = max(seen, mart.last_seen_number(session, pipeline, spec, target))
    reach("transform.locked")
    in_full = _is_in_full(pipeline, spec, request, session, target)
    if not in_full:
        adopt.refuse_first_script(session, pipeline.name, spec, target)
    job = mart.decide_build(session, pipeline, spec, target, inputs.relations, in_full)
    if job is None:
        ledger.clear_failure(session, pipeline.name, "transform", target)
        return skipped("nothing it reads has changed")
    return job, seen


def _is_in_full(
    pipeline: Pipeline, spec: Transform, request: RunRequest, session: Session, target: Relation
) -> bool:
    """Whether the run asks to build the transform in full, and has not done so before it was
    stopped."""
    if not request.is_full(spec.name):
        return False
    if spec.name not in request.resumes:
        return True
    return not resume.has_built(session, pipeline.name, spec.name, target, request.run_id)


def relations_read(pipeline: Pipeline, spec: Transform) -> list[Relation]:
    """The staging tables and marts of its pipeline that the transform reads."""
    read = transform_inputs(pipeline)[spec.name]
    warehouse = pipeline.warehouse
    staging_tables = [Relation(warehouse.schema, table) for table in read.tables]
    marts = [Relation(warehouse.mart_schema, transform) for transform in read.transforms]
    return staging_tables + marts
