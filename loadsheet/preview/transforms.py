"""Whether a transform would run, why, and whether the warehouse takes its SQL."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

from loadsheet.errors import LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.plan.inputs import Inputs
from loadsheet.plan.preview import Changes, StepPreview
from loadsheet.plan.sqltext import transform_sql
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.redact import message
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation, idents
from loadsheet.warehouse import due, tables
from loadsheet.warehouse.due import Job
from loadsheet.warehouse.transform import bound, refuse_foreign

_REQUEST = RunRequest(run_id="plan")


def preview_transform(
    pipeline: Pipeline, spec: Transform, inputs: Inputs, session: Session, known: Mapping[str, StepPreview],
    has_ledger: bool,
) -> StepPreview:  # fmt: skip
    """The transform, after the steps that are `known` by id."""
    found = StepPreview(id=step_id("transform", spec.name))
    target = Relation(pipeline.warehouse.mart_schema, spec.name)
    upstream = {name: known[step_id("load", name)] for name in inputs.tables}
    upstream |= {name: known[step_id("transform", name)] for name in inputs.transforms}
    failing = [name for name, step in upstream.items() if step.fails or step.is_cut_off]
    if failing:
        found.changes, found.does, found.is_cut_off = "no", f"not reached: {failing[0]} would fail", True
        return found
    relations = [Relation(pipeline.warehouse.schema, name) for name in inputs.tables]
    relations += [Relation(pipeline.warehouse.mart_schema, name) for name in inputs.transforms]
    exists = tables.kind(session, target) is not None
    job = _job(pipeline, spec, target, relations, session, has_ledger)
    found.changes, found.does = _verdict(job, spec, upstream)
    if found.changes != "no":
        _may(found, spec, target, session, exists, has_ledger, in_full=job is not None and job.full)
        since = job.since_load if job else 0
        found.sql = transform_sql(target, spec.materialized, bound(spec.sql, _REQUEST, since).as_string(session))
        settled = not any(step.ddl for step in upstream.values())
        if settled and all(tables.kind(session, relation) is not None for relation in relations):
            _explain(found, pipeline, spec, session, since)
        found.ddl += _ddl(spec, target, exists, job)
    found.does = "would fail" if found.fails else found.does
    return found


def _ddl(spec: Transform, target: Relation, exists: bool, job: Job | None) -> list[str]:
    """What the catalog will show of it: a new table or view; how a changed one comes out, only its SELECT says."""
    if spec.materialized == "script" or (exists and not (job and job.reason == "its SQL changed")):
        return []
    kind = "VIEW" if spec.materialized == "view" else "TABLE"
    if not exists:
        return [f"CREATE {kind} {target.sql} AS SELECT …"]
    # PostgreSQL knows no CREATE OR REPLACE TABLE: the new one takes the place and the name of the old.
    return [f"{'CREATE OR REPLACE VIEW' if kind == 'VIEW' else 'CREATE TABLE'} {target.sql} AS SELECT …"]


def _may(
    found: StepPreview, spec: Transform, target: Relation, session: Session, exists: bool, has_ledger: bool,
    in_full: bool,
) -> None:  # fmt: skip
    """Adds what forbids to build it: only an owner may replace a table or a view, rows are written by right."""
    if not exists or spec.materialized == "script":
        return
    if spec.materialized == "merge" and not in_full:
        rights.has_rights(found, session, target, ("SELECT", "INSERT", "UPDATE", "DELETE"))
    else:
        rights.owns(found, session, target, "replace")
    if not has_ledger:
        if tables.kind(session, Relation("loadsheet", "transform_run")) is not None:
            return
        found.error(
            "target", f"{target} exists and was not made by Loadsheet: drop or rename it, or choose another mart_schema"
        )
        return
    try:
        refuse_foreign(session, spec, target)
    except LoadsheetError as error:
        found.error("target", str(error))


def _job(
    pipeline: Pipeline, spec: Transform, target: Relation, inputs: list[Relation], session: Session, has_ledger: bool
) -> Job | None:
    if not has_ledger:
        return Job(full=True, since_load=0, reason="first run")
    return due.decide(session, pipeline, spec, target, inputs, full=False)


def _verdict(job: Job | None, spec: Transform, upstream: Mapping[str, StepPreview]) -> tuple[Changes, str]:
    """Whether it would change something, and in words what."""
    sure = [name for name, step in upstream.items() if step.changes == "yes"]
    unsure = [name for name, step in upstream.items() if step.changes == "maybe"]
    if job and job.full:
        return "yes", f"built in full: {job.reason}"
    if spec.materialized == "view":
        return "no", "a view: shows what it reads by itself"
    if anew := [name for name in sure if upstream[name].action == "replace"]:
        return "yes", f"built in full: {', '.join(anew)} {'are' if len(anew) > 1 else 'is'} rebuilt"
    if job or sure:
        return "yes", f"built: new rows in {', '.join(sure)}" if sure else f"built: {job.reason if job else ''}"
    if unsure:
        return "maybe", f"built if {', '.join(unsure)} {'change' if len(unsure) > 1 else 'changes'}"
    return "no", "skipped: nothing it reads would change"


def _explain(found: StepPreview, pipeline: Pipeline, spec: Transform, session: Session, since: int) -> None:
    """The planner reads the SELECT as a run would: names, types and rights, and about how many rows come of it."""
    if spec.materialized == "script":
        return
    schemas = idents([pipeline.warehouse.schema, pipeline.warehouse.mart_schema])
    statement = psycopg.sql.SQL("EXPLAIN (FORMAT JSON)\n") + bound(spec.sql, _REQUEST, since)
    try:
        with session.transaction():
            session.execute(f"SET LOCAL search_path = {schemas}, public")
            row = session.execute(statement).fetchone()
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
        found.error("sql", f"{spec.file.name}: {message(error)} (SQLSTATE {error.sqlstate}){hint}")
        return
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):  # a load swaps the table just now
        return
    found.rows = int(row[0][0]["Plan"]["Plan Rows"]) if row else None
