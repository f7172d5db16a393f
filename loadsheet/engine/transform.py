"""The transform step: build a mart when something it reads was loaded since it last succeeded."""

from __future__ import annotations

import psycopg

from loadsheet.checks import Checked, passed_key
from loadsheet.engine import details, resume
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.postgres import Session
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.params import uses_interval
from loadsheet.sql.text import Relation
from loadsheet.warehouse import adopt, ledger, mart, tables
from loadsheet.warehouse.parameters import must_hold_inputs


def transform(
    pipeline: Pipeline, spec: Transform, request: RunRequest, session: Session
) -> Outcome:
    """Build the transform's table or view, or run its script; skipped when nothing it reads has
    changed, when an input was never loaded, and by a repair when it needs a run's interval.

    The ledger decides, not the upstream tasks: a transform that failed is still due when its inputs
    are skipped. Raises Refused with the SQL file's name when its SQL fails for a reason that a
    retry cannot solve.
    """
    if request.is_repair and uses_interval(spec.sql):
        # NULL in the place of its bounds would empty the mart. It stays due.
        return skipped("left to the next run: its SQL reads the run's interval, a repair has none")
    ledger.ensure(session)
    tables.ensure_schema(session, pipeline.warehouse.mart_schema)
    target = Relation(pipeline.warehouse.mart_schema, spec.name)
    own = relations_read(pipeline, spec)
    waiting = _waiting(session, own)
    if waiting:
        return waiting
    externals = _externals(session, pipeline, spec)
    inputs = own + externals
    # Before the transaction: a load that commits while the SQL runs may or may not be seen by it,
    # so it must count as not seen.
    seen = mart.last_committed_number(session, own, externals)
    try:
        with session.transaction():
            ledger.lock_target(session, target)
            if must_hold_inputs(spec):
                # Their locks are held until the commit, so later loads wait.
                seen = mart.last_committed_number(session, inputs, [])
            # Another run of the transform may have ended meanwhile. What it has seen stays seen.
            seen = max(seen, mart.last_seen_number(session, pipeline, spec, target))
            reach("transform.locked")
            in_full = _is_in_full(pipeline, spec, request, session, target)
            if not in_full:
                adopt.refuse_first_script(session, pipeline.name, spec, target)
            job = mart.decide_build(session, pipeline, spec, target, inputs, in_full)
            if job is None:
                return _unchanged(session, pipeline, target)
            details.show(
                f"Building {target}",
                {
                    "file": spec.file,
                    "reason": job.reason,
                    "reads": ", ".join(str(relation) for relation in inputs),
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
    return Outcome(
        status="done",
        message=message,
        counts=counts,
        changed=effect.changed,
        remarks=built.notes,
        checked=_checked(spec),
    )


def _checked(spec: Transform) -> tuple[Checked, ...]:
    """The check that the mart's rows have passed, if there is one."""
    if not spec.unique_key:
        return ()
    return (Checked(kind="transform", name=spec.name, checks=passed_key(spec.unique_key)),)


def look_at(
    pipeline: Pipeline, spec: Transform, request: RunRequest, session: Session
) -> Outcome | None:
    """The outcome of a transform that has nothing to do now; None for one that has, or may have.
    It waits for no other run: what that one loads is news to the next."""
    ledger.ensure(session)
    target = Relation(pipeline.warehouse.mart_schema, spec.name)
    own = relations_read(pipeline, spec)
    waiting = _waiting(session, own)
    if waiting:
        return waiting
    inputs = own + _externals(session, pipeline, spec)
    in_full = _is_in_full(pipeline, spec, request, session, target)
    if mart.decide_build(session, pipeline, spec, target, inputs, in_full):
        return None
    return _unchanged(session, pipeline, target)


def _waiting(session: Session, own: list[Relation]) -> Outcome | None:
    """The outcome where an input of the transform was never loaded."""
    missing = [str(relation) for relation in own if tables.kind(session, relation) is None]
    if missing:
        return skipped(f"waits for {', '.join(missing)}, not loaded yet")
    return None


def _externals(session: Session, pipeline: Pipeline, spec: Transform) -> list[Relation]:
    """The tables of other pipelines that the transform reads."""
    if not pipeline.external:
        return []
    from loadsheet.warehouse.externals import external_inputs  # it reads the SQL again

    return external_inputs(session, pipeline, spec)


def _unchanged(session: Session, pipeline: Pipeline, target: Relation) -> Outcome:
    ledger.clear_failure(session, pipeline.name, "transform", target)
    return skipped("nothing it reads has changed")


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
