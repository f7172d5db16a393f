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
from loadsheet.preview import reading_rights, rights
from loadsheet.preview.sessions import UNANSWERED
from loadsheet.redact import message
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.params import uses_since_load
from loadsheet.sql.text import Relation, idents
from loadsheet.warehouse import due, tables
from loadsheet.warehouse.due import Job
from loadsheet.warehouse.transform import bound, refuse_foreign

_REQUEST = RunRequest(run_id="plan")


def preview_transform(
    pipeline: Pipeline, spec: Transform, inputs: Inputs, session: Session, known: Mapping[str, StepPreview],
    has_ledger: bool, has_schema: bool,
) -> StepPreview:  # fmt: skip
    """The transform, after the steps that are `known` by id."""
    found = StepPreview(id=step_id("transform", spec.name))
    upstream = {name: known[step_id("load", name)] for name in inputs.tables}
    upstream |= {name: known[step_id("transform", name)] for name in inputs.transforms}
    if failing := [name for name, step in upstream.items() if step.fails or step.is_cut_off]:
        found.changes, found.does, found.is_cut_off = "no", f"not reached: {failing[0]} would fail", True
    else:
        _Transform(found, pipeline, spec, inputs, session, upstream, has_ledger, has_schema).look()
    return found


class _Transform:
    def __init__(
        self, found: StepPreview, pipeline: Pipeline, spec: Transform, inputs: Inputs, session: Session,
        upstream: Mapping[str, StepPreview], has_ledger: bool, has_schema: bool,
    ):  # fmt: skip
        self.found, self.pipeline, self.spec, self.session, self.upstream = found, pipeline, spec, session, upstream
        self.has_ledger, self.has_schema = has_ledger, has_schema
        schemas = pipeline.warehouse
        self.target = Relation(schemas.mart_schema, spec.name)
        self.relations = {name: Relation(schemas.schema, name) for name in inputs.tables}
        self.relations |= {name: Relation(schemas.mart_schema, name) for name in inputs.transforms}
        self.missing = [r for r in self.relations.values() if tables.kind(session, r) is None]
        self.exists = tables.kind(session, self.target) is not None

    def look(self) -> None:
        found = self.found
        if waits := [str(self.relations[name]) for name, step in self.upstream.items() if self._stays_away(name, step)]:
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
        self._may_build(in_full)
        if self.has_ledger:
            self._refuse_foreign()
        found.sql = transform_sql(
            self.target, self.spec.materialized, bound(self.spec.sql, _REQUEST, since).as_string(self.session),
            in_full=not self._is_increment(in_full),
        )  # fmt: skip
        if reading_rights.may_read(found, self.session, self.pipeline, self.spec, self.relations.values()):
            self._explain(since, is_counted=not self._is_increment(in_full))
        found.ddl += self._ddl(job)
        found.is_rebuilt = self._is_rebuilt(in_full)
        found.does = "would fail" if found.fails else found.does

    def _stays_away(self, name: str, step: StepPreview) -> bool:
        return self.relations[name] in self.missing and step.changes == "no"

    def _job(self) -> Job | None:
        if not self.has_ledger:
            return Job(full=True, since_load=0, reason="first run")
        inputs = list(self.relations.values())
        return due.decide(self.session, self.pipeline, self.spec, self.target, inputs, full=False)

    def _rebuilt(self) -> list[str]:
        return [name for name, step in self.upstream.items() if step.changes == "yes" and step.is_rebuilt]

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
            return "yes", f"built in full: {', '.join(anew)} {'are' if len(anew) > 1 else 'is'} rebuilt"
        if job or sure:
            return "yes", f"built: new rows in {', '.join(sure)}" if sure else f"built: {job.reason if job else ''}"
        if unsure:
            return "maybe", f"built if {', '.join(unsure)} {'change' if len(unsure) > 1 else 'changes'}"
        return "no", "skipped: nothing it reads would change"

    def _is_increment(self, in_full: bool) -> bool:
        return self.spec.materialized == "merge" and not in_full and uses_since_load(self.spec.sql)

    def _since(self, in_full: bool) -> int:
        """The number that `:since_load` stands for: 0 but for what is built of new rows."""
        if in_full or not (self._is_increment(in_full) or self.spec.materialized == "script"):
            return 0
        return due.seen(self.session, self.pipeline, self.spec)

    def _is_rebuilt(self, in_full: bool) -> bool:
        if self.spec.materialized in ("table", "merge") and self.exists:
            return self.spec.materialized == "table" and not tables.dependents(self.session, self.target)
        return self.spec.materialized != "merge" or not self.exists

    def _ddl(self, job: Job | None) -> list[str]:
        """What the catalog will show of it: a new table or view; how a changed one comes out, only its SELECT says."""
        is_view, is_new = self.spec.materialized == "view", not self.exists
        if self.spec.materialized == "script" or not (is_new or (job and job.reason == "its SQL changed")):
            return []
        # PostgreSQL knows no CREATE OR REPLACE TABLE: the new one takes the place and the name of the old.
        create = "CREATE TABLE" if not is_view else "CREATE VIEW" if is_new else "CREATE OR REPLACE VIEW"
        return [f"{create} {self.target.sql} AS SELECT …"]

    def _may_build(self, in_full: bool) -> None:
        """Adds what forbids to build it: only an owner may replace a table or a view, rows are written by right."""
        found, session, kind = self.found, self.session, self.spec.materialized
        if kind == "script":
            return
        is_increment = self.exists and self._is_increment(in_full)
        if not is_increment and self.has_schema:
            rights.creates_in(found, session, self.target.schema)
        if not self.exists:
            return
        if kind == "merge" or (kind == "table" and tables.dependents(session, self.target)):
            more = () if is_increment else ("DELETE",)
            rights.has_rights(found, session, self.target, ("SELECT", "INSERT", "UPDATE", *more))
            rights.in_database(found, session, "TEMPORARY", "create temporary tables")
        else:
            rights.owns(found, session, self.target, "replace")

    def _refuse_foreign(self) -> None:
        try:
            refuse_foreign(self.session, self.spec, self.target)
        except LoadsheetError as error:
            self.found.error("target", str(error))

    def _explain(self, since: int, is_counted: bool) -> None:
        """The planner reads the SELECT as a run would: names, types and rights, and about how many rows come of it.

        How many come of new rows alone is not to be had before these are loaded.
        """
        is_settled = not self.missing and not any(step.ddl for step in self.upstream.values())
        if self.spec.materialized == "script" or not is_settled:
            return
        schemas = idents([self.pipeline.warehouse.schema, self.pipeline.warehouse.mart_schema])
        statement = psycopg.sql.SQL("EXPLAIN (FORMAT JSON)\n") + bound(self.spec.sql, _REQUEST, since)
        try:
            with self.session.transaction():
                self.session.execute(f"SET LOCAL search_path = {schemas}, public")
                # `binary`: one statement and no second, as in a run.
                row = self.session.execute(statement, binary=True).fetchone()
        except (psycopg.ProgrammingError, psycopg.DataError) as error:
            hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
            self.found.error("sql", f"{self.spec.file.name}: {message(error)} (SQLSTATE {error.sqlstate}){hint}")
            return
        except UNANSWERED:  # a load swaps the table just now
            return
        self.found.rows = int(row[0][0]["Plan"]["Plan Rows"]) if row and is_counted else None
