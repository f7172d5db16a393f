"""What a transform step would build."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from loadsheet.outcome import RunRequest
from loadsheet.plan.step_sql import transform_sql
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.models import Changes, StepPreview
from loadsheet.preview.sessions import UNANSWERED, asked
from loadsheet.redact import message
from loadsheet.spec.models import Inputs, Pipeline, Transform
from loadsheet.sql.params import uses_since_load
from loadsheet.sql.text import Relation, idents
from loadsheet.warehouse import mart, tables
from loadsheet.warehouse.mart import Job, bound, refuse_foreign

_REQUEST = RunRequest(run_id="plan")


def preview_transform(
    pipeline: Pipeline,
    spec: Transform,
    inputs: Inputs,
    session: Session,
    known: Mapping[str, StepPreview],
    has_ledger: bool,
    has_schema: bool,
) -> StepPreview:
    """The transform, after the steps that are `known` by id."""
    found = StepPreview(id=step_id("transform", spec.name))
    upstream = {name: known[step_id("load", name)] for name in inputs.tables}
    upstream |= {name: known[step_id("transform", name)] for name in inputs.transforms}
    if failing := [name for name, step in upstream.items() if step.fails or step.is_cut_off]:
        found.changes, found.does, found.is_cut_off = (
            "no",
            f"not reached: {failing[0]} would fail",
            True,
        )
    else:
        _Transform(found, pipeline, spec, inputs, session, upstream, has_ledger, has_schema).look()
    return found


class _Transform:
    def __init__(
        self,
        found: StepPreview,
        pipeline: Pipeline,
        spec: Transform,
        inputs: Inputs,
        session: Session,
        upstream: Mapping[str, StepPreview],
        has_ledger: bool,
        has_schema: bool,
    ):
        self.found, self.pipeline, self.spec, self.session, self.upstream = (
            found,
            pipeline,
            spec,
            session,
            upstream,
        )
        self.has_ledger, self.has_schema = has_ledger, has_schema
        schemas = pipeline.warehouse
        self.target = Relation(schemas.mart_schema, spec.name)
        self.relations = {name: Relation(schemas.schema, name) for name in inputs.tables}
        self.relations |= {name: Relation(schemas.mart_schema, name) for name in inputs.transforms}
        self.missing = [r for r in self.relations.values() if tables.kind(session, r) is None]
        self.exists = tables.kind(session, self.target) is not None

    def look(self) -> None:
        found = self.found
        if waits := [
            str(self.relations[name])
            for name, step in self.upstream.items()
            if self._stays_away(name, step)
        ]:
            found.changes, found.does = "no", f"waits for {', '.join(waits)}, not loaded yet"
            return
        job = self._job()
        found.changes, found.does = self._verdict(job)
        if found.changes == "no":
            return
        if self.spec.materialized == "view" and not (job and job.full):
            found.is_rebuilt = True
            return
        in_full = bool(job and job.full) or bool(self._rebuilt())
        since = self._since(in_full)
        self._build(in_full, since, job)
        found.is_rebuilt = self._is_rebuilt(in_full)
        found.may_remove = not found.is_rebuilt and not self._is_increment(in_full)
        found.does = "would fail" if found.fails else found.does

    def _build(self, in_full: bool, since: int, job: Job | None) -> None:
        """What would forbid it, the SQL, and what comes of it."""
        found, is_increment = self.found, self._is_increment(in_full)
        may_write(
            found,
            self.session,
            self.spec,
            self.target,
            self.exists and is_increment,
            self.has_schema,
        )
        if self.has_ledger:
            asked(found, "target", lambda: refuse_foreign(self.session, self.spec, self.target))
        found.sql = transform_sql(
            self.target,
            self.spec.materialized,
            bound(self.spec.sql, _REQUEST, since).as_string(self.session),
            in_full=not is_increment,
        )
        may_read = rights.may_read_inputs(
            found, self.session, self.pipeline, self.spec, self.relations.values()
        )
        is_settled = not self.missing and not any(step.ddl for step in self.upstream.values())
        if may_read and is_settled and self.spec.materialized != "script":
            rows = explain(
                found, self.session, self.pipeline, self.spec, bound(self.spec.sql, _REQUEST, since)
            )
            # How many come of new rows alone is not to be had before these are loaded.
            found.rows = None if is_increment else rows
        found.ddl += ddl(
            self.spec, self.target, self.exists, bool(job and job.reason == "its SQL changed")
        )

    def _stays_away(self, name: str, step: StepPreview) -> bool:
        return self.relations[name] in self.missing and step.changes == "no"

    def _job(self) -> Job | None:
        if not self.has_ledger:
            return Job(full=True, since_load=0, reason="first run")
        inputs = list(self.relations.values())
        return mart.decide(self.session, self.pipeline, self.spec, self.target, inputs, full=False)

    def _rebuilt(self) -> list[str]:
        return [
            name
            for name, step in self.upstream.items()
            if step.changes == "yes" and step.is_rebuilt
        ]

    def _verdict(self, job: Job | None) -> tuple[Changes, str]:
        """Whether it would change something, and in words what."""
        sure = [name for name, step in self.upstream.items() if step.changes == "yes"]
        unsure = [name for name, step in self.upstream.items() if step.changes == "maybe"]
        if job and job.full:
            return "yes", f"built in full: {job.reason}"
        if self.spec.materialized == "view":
            # The ledger takes note all the same, and what reads the view is built in full.
            is_told: Changes = "yes" if job or sure else "maybe" if unsure else "no"
            return is_told, "a view: shows what it reads by itself"
        if anew := self._rebuilt():
            return (
                "yes",
                f"built in full: {', '.join(anew)} {'are' if len(anew) > 1 else 'is'} rebuilt",
            )
        if sure:
            removing = [name for name in sure if self.upstream[name].may_remove]
            gone = f"; in full if rows of {', '.join(removing)} are gone" if removing else ""
            return "yes", f"built: new rows in {', '.join(sure)}{gone}"
        if job:
            return "yes", f"built: {job.reason}"
        if unsure:
            return (
                "maybe",
                f"built if {', '.join(unsure)} {'change' if len(unsure) > 1 else 'changes'}",
            )
        return "no", "skipped: nothing it reads would change"

    def _is_increment(self, in_full: bool) -> bool:
        return self.spec.materialized == "merge" and not in_full and uses_since_load(self.spec.sql)

    def _since(self, in_full: bool) -> int:
        """The number that `:since_load` stands for: 0 but for what is built of new rows."""
        if in_full or not (self._is_increment(in_full) or self.spec.materialized == "script"):
            return 0
        return mart.seen(self.session, self.pipeline, self.spec)

    def _is_rebuilt(self, in_full: bool) -> bool:
        if self.spec.materialized in ("table", "merge") and self.exists:
            return self.spec.materialized == "table" and not tables.dependents(
                self.session, self.target
            )
        return self.spec.materialized != "merge" or not self.exists


def may_write(
    found: StepPreview,
    session: Session,
    spec: Transform,
    target: Relation,
    is_increment: bool,
    has_schema: bool,
) -> None:
    """Adds what forbids to build it: only an owner may replace a table or a view, rows are written
    by right."""
    if spec.materialized == "script":
        return
    if not is_increment and has_schema:
        rights.creates_in(found, session, target.schema)
    if tables.kind(session, target) is None:
        return
    in_place = spec.materialized == "table" and has_schema and tables.dependents(session, target)
    if spec.materialized == "merge" or in_place:
        more = () if is_increment else ("DELETE",)
        rights.has_rights(found, session, target, ("SELECT", "INSERT", "UPDATE", *more))
        rights.in_database(found, session, "TEMPORARY", "create temporary tables")
    else:
        rights.owns(found, session, target, "replace")


def explain(
    found: StepPreview, session: Session, pipeline: Pipeline, spec: Transform, select: sql.Composed
) -> int | None:
    """The planner reads the SELECT as a run would: names, types and rights. Returns about how many
    rows come of it."""
    schemas = idents([pipeline.warehouse.schema, pipeline.warehouse.mart_schema])
    try:
        with session.transaction():
            session.execute(f"SET LOCAL search_path = {schemas}, public")
            # `binary`: one statement and no second, as in a run.
            row = session.execute(
                sql.SQL("EXPLAIN (FORMAT JSON)\n") + select, binary=True
            ).fetchone()
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
        found.error("sql", f"{spec.file.name}: {message(error)} (SQLSTATE {error.sqlstate}){hint}")
        return None
    except UNANSWERED:  # a load swaps the table just now
        return None
    return int(row[0][0]["Plan"]["Plan Rows"]) if row else None


def ddl(spec: Transform, target: Relation, exists: bool, is_changed: bool) -> list[str]:
    """A new table or view; how a changed one comes out, only its SELECT says."""
    if spec.materialized == "script" or (exists and not is_changed):
        return []
    # PostgreSQL knows no CREATE OR REPLACE TABLE: the new one takes the place and the name of the
    # old.
    replaces = "CREATE OR REPLACE VIEW" if exists else "CREATE VIEW"
    create = replaces if spec.materialized == "view" else "CREATE TABLE"
    return [f"{create} {target.sql} AS SELECT …"]
