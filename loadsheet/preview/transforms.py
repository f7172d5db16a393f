"""What a transform step would build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from loadsheet.answers import plan
from loadsheet.outcome import RunRequest
from loadsheet.plan.step_sql import transform_sql
from loadsheet.plan.steps import step_id
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.lost_columns import add_lost_columns
from loadsheet.preview.models import Changes, StepPreview
from loadsheet.preview.sessions import UNANSWERED, ask
from loadsheet.redact import message
from loadsheet.spec.models import Inputs, Pipeline, Transform
from loadsheet.sql.params import uses_since_load
from loadsheet.sql.text import Relation
from loadsheet.warehouse import (
    adopt,
    belongings,
    mart,
    mart_columns,
    mart_views,
    search_path,
    side_effects,
    tables,
)
from loadsheet.warehouse.externals import external_inputs
from loadsheet.warehouse.located import place_of
from loadsheet.warehouse.mart import BuildDecision
from loadsheet.warehouse.mart_columns import Change
from loadsheet.warehouse.parameters import NO_END, bind_parameters
from loadsheet.warehouse.side_effects import NO_KEY

_REQUEST = RunRequest(run_id="plan")


def preview_transform(
    pipeline: Pipeline,
    spec: Transform,
    inputs: Inputs,
    session: Session,
    previews: Mapping[str, StepPreview],
    has_ledger: bool,
    has_schema: bool,
) -> StepPreview:
    """What the transform would build after the steps of `previews` (by id).

    `session` is one of the warehouse. `has_ledger` and `has_schema` tell whether the ledger can be
    read, and whether the mart schema exists.
    """
    preview = StepPreview(id=step_id("transform", spec.name))
    upstream = {name: previews[step_id("load", name)] for name in inputs.tables}
    upstream |= {name: previews[step_id("transform", name)] for name in inputs.transforms}
    for name, step in upstream.items():
        if step.fails or step.is_cut_off:
            preview.changes = "no"
            preview.does = f"not reached: {name} would fail"
            preview.is_cut_off = True
            return preview
    transform = _TransformPreviewer(
        preview, pipeline, spec, inputs, session, upstream, has_ledger, has_schema
    )
    transform.run()
    return preview


class _TransformPreviewer:
    """Makes the engine's decision, as far as what the upstream steps would do allows."""

    def __init__(
        self,
        preview: StepPreview,
        pipeline: Pipeline,
        spec: Transform,
        inputs: Inputs,
        session: Session,
        upstream: Mapping[str, StepPreview],
        has_ledger: bool,
        has_schema: bool,
    ):
        self.preview = preview
        self.pipeline = pipeline
        self.spec = spec
        self.session = session
        self.upstream = upstream
        self.has_ledger = has_ledger
        self.has_schema = has_schema
        schemas = pipeline.warehouse
        self.target = Relation(schemas.mart_schema, spec.name)
        self.relations = {name: Relation(schemas.schema, name) for name in inputs.tables}
        for name in inputs.transforms:
            self.relations[name] = Relation(schemas.mart_schema, name)
        self.missing = [r for r in self.relations.values() if tables.kind(session, r) is None]
        self.exists = tables.kind(session, self.target) is not None
        self.in_place: bool | None = None

    def run(self) -> None:
        """Fill in the preview."""
        preview = self.preview
        # Inputs that do not exist, and that this run would not load either.
        never_loaded: list[str] = []
        for name, step in self.upstream.items():
            if self.relations[name] in self.missing and step.changes == "no":
                never_loaded.append(str(self.relations[name]))
        if never_loaded:
            preview.changes = "no"
            preview.does = f"waits for {', '.join(never_loaded)}, not loaded yet"
            return
        decision = self._decide()
        is_decided_full = decision is not None and decision.full
        preview.changes, preview.does = self._verdict(decision)
        if preview.changes == "no":
            return
        if self.spec.materialized == "view" and not is_decided_full:
            # Nothing is built, but the ledger records the run as a rebuild.
            preview.is_rebuilt = True
            return
        in_full = is_decided_full or bool(self._rebuilt_inputs())
        is_increment = (
            self.spec.materialized == "merge" and not in_full and uses_since_load(self.spec.sql)
        )
        change = self._preview_build(in_full, is_increment)
        sql_changed = decision is not None and decision.reason == "its SQL changed"
        if change:
            self._add_ddl_of(change)
        elif self.spec.materialized != "script" and (sql_changed or not self.exists):
            # PostgreSQL has no CREATE OR REPLACE TABLE: the new table is swapped in.
            create = "CREATE TABLE"
            if self.spec.materialized == "view":
                create = "CREATE VIEW"
                if self.exists and not preview.ddl:
                    create = "CREATE OR REPLACE VIEW"
            preview.ddl.append(f"{create} {self.target.sql} AS SELECT …")
        preview.is_rebuilt = self._is_rebuilt(change, is_increment)
        preview.may_remove = not preview.is_rebuilt and not (is_increment and not change)
        if preview.fails:
            preview.does = "would fail"

    def _decide(self) -> BuildDecision | None:
        """What the engine would decide by the loads so far; None if nothing has changed."""
        # The engine creates the ledger first. The preview must not, and an empty one decides so.
        if not self.has_ledger:
            return BuildDecision(full=True, since_load=0, reason="first run")
        inputs = list(self.relations.values())
        inputs += external_inputs(self.session, self.pipeline, self.spec)
        return mart.decide_build(
            self.session, self.pipeline, self.spec, self.target, inputs, full=False
        )

    def _verdict(self, decision: BuildDecision | None) -> tuple[Changes, str]:
        """Whether the step would change something, and what, as text."""
        changing = self._upstream_with("yes")
        unsure = self._upstream_with("maybe")
        if decision and decision.full:
            return "yes", f"built in full: {decision.reason}"
        if self.spec.materialized == "view":
            text = "a view: shows what it reads by itself"
            # The ledger records its run all the same, and what reads the view is built in full.
            if decision or changing:
                return "yes", text
            return ("maybe" if unsure else "no"), text
        rebuilt = self._rebuilt_inputs()
        if rebuilt:
            verb = "are" if len(rebuilt) > 1 else "is"
            return "yes", f"built in full: {', '.join(rebuilt)} {verb} rebuilt"
        if changing:
            text = f"built: new rows in {', '.join(changing)}"
            # Whether rows are gone shows only when a load applies the difference in place.
            removing = [name for name in changing if self.upstream[name].may_remove]
            if removing:
                text += f"; in full if rows of {', '.join(removing)} are gone"
            return "yes", text
        if decision:
            return "yes", f"built: {decision.reason}"
        if unsure:
            verb = "change" if len(unsure) > 1 else "changes"
            return "maybe", f"built if {', '.join(unsure)} {verb}"
        return "no", "skipped: nothing it reads would change"

    def _upstream_with(self, changes: Changes) -> list[str]:
        return [name for name, step in self.upstream.items() if step.changes == changes]

    def _rebuilt_inputs(self) -> list[str]:
        """The inputs of which every row would be rewritten."""
        return [name for name in self._upstream_with("yes") if self.upstream[name].is_rebuilt]

    def _preview_build(self, in_full: bool, is_increment: bool) -> Change | None:
        """Add what would keep the step from building, its SQL, and about how many rows it makes.

        Returns what is done about the mart's columns, if its SELECT has others.
        """
        preview, session, spec, target = self.preview, self.session, self.spec, self.target
        self._check_write(self.exists and is_increment)
        if self.has_ledger:
            ask(preview, "target", lambda: mart.refuse_foreign_target(session, spec, target))
            name = self.pipeline.name
            ask(preview, "renamed", lambda: adopt.refuse_first_script(session, name, spec, target))
        # `:since_load` is 0 where all rows are read.
        since_load = 0
        if not in_full and (is_increment or spec.materialized == "script"):
            since_load = mart.last_seen_number(session, self.pipeline, spec, target)
        until_load = NO_END
        if spec.materialized != "view" and self.has_ledger:
            until_load = mart.newest_number(session)
        select = bind_parameters(spec.sql, _REQUEST, since_load, until_load)
        self._show_sql(select, in_full=not is_increment)
        may_read = rights.may_read_inputs(
            preview, session, self.pipeline, spec, self.relations.values()
        )
        # EXPLAIN needs the inputs with the columns that they will have.
        inputs_are_final = not self.missing and not any(s.ddl for s in self.upstream.values())
        add_lost_columns(preview, self.pipeline, spec, self.upstream)
        if may_read and inputs_are_final and spec.materialized != "script":
            rows = self._explain(select)
            # The number of rows that follow from new rows is not known before these are loaded.
            preview.rows = None if is_increment else rows
            if self.exists and self.has_ledger and not preview.fails:
                return self._preview_columns(select, is_increment)
        return None

    def _show_sql(self, select: sql.Composed, in_full: bool) -> None:
        text = select.as_string(self.session)
        materialized = self.spec.materialized
        self.preview.sql = transform_sql(self.target, materialized, text, in_full=in_full)

    def _preview_columns(self, select: sql.Composed, is_increment: bool) -> Change | None:
        """What is done about the target's columns where the SELECT has others; None where nothing
        is, or where it would be refused."""
        arriving = ask(self.preview, "drift", lambda: self._columns_of(select))
        if arriving is None:
            return None
        if self.spec.materialized == "view":
            self._preview_view(arriving)
            return None
        session, target = self.session, self.target
        as_built = self._is_as_built()
        key = self.spec.unique_key
        # A type or collation of an older SELECT is none that was given.
        given_key = [name for name in key if as_built and " COLLATE " not in arriving.get(name, "")]
        ask(
            self.preview,
            "drift",
            lambda: belongings.refuse_unfit(session, target, list(arriving), given_key),
        )
        differences = mart_columns.compare(session, target, arriving, as_built)
        if differences.given:
            self.in_place = True
        if is_increment:
            if differences.fit:
                return None
            self.preview.does = "built in full: its columns change"
            until_load = mart.newest_number(session)
            whole = bind_parameters(self.spec.sql, _REQUEST, 0, until_load)
            self._show_sql(whole, in_full=True)
        if as_built:
            ask(self.preview, "key", lambda: mart_columns.refuse_given_key(session, target, key))
        else:
            ask(self.preview, "key", lambda: mart_columns.refuse_used_key(session, target, key))
        remade = mart_views.view_transforms(self.pipeline)
        change: Change | None = ask(
            self.preview,
            "drift",
            lambda: mart_columns.change_of(session, target, arriving, key, remade, as_built),
        )
        return change

    def _preview_view(self, arriving: dict[str, str]) -> None:
        """CREATE OR REPLACE only adds columns at a view's end. For other changes it is dropped."""
        existing = list(mart_columns.read_columns(self.session, self.target).items())
        if list(arriving.items())[: len(existing)] == existing:
            return
        above = ask(
            self.preview, "drift", lambda: mart_views.views_above(self.session, self.target)
        )
        for view in [*reversed(above or []), self.target]:
            self.preview.ddl.append(f"DROP VIEW {view.sql}")

    def _add_ddl_of(self, change: Change) -> None:
        """Add the statements that change the target's columns, and the rights they need."""
        preview, target = self.preview, self.target
        rights.check_owner(preview, self.session, target, "alter" if change.in_place else "replace")
        for view in change.views:
            rights.check_owner(preview, self.session, view, "replace")
        for note in change.notes:
            preview.add_remark("note", "drift", note)
        preview.ddl += [f"DROP VIEW {view.sql}" for view in reversed(change.views)]
        if change.in_place:
            clauses = change.clauses + change.retyping
            preview.ddl += [f"ALTER TABLE {target.sql} {clause}" for clause in clauses]
        else:
            preview.ddl.append(f"CREATE TABLE {target.sql} AS SELECT …")
        preview.ddl += [f"CREATE VIEW {view.sql} AS SELECT …" for view in change.views]

    def _columns_of(self, select: sql.Composed) -> dict[str, str] | None:
        """The columns and types of the SELECT, which EXPLAIN has accepted, as a table made from it
        would have them; None if a load has just changed what it reads. The server only parses
        it."""
        columns: dict[str, str] = {}
        connection = self.session.pgconn
        try:
            with self._search_path():
                prepared = connection.prepare(b"", select.as_bytes(self.session))
                if prepared.status != ExecStatus.COMMAND_OK:
                    raise psycopg.errors.error_from_result(prepared)
                described = connection.describe_prepared(b"")
                if described.status != ExecStatus.COMMAND_OK:
                    raise psycopg.errors.error_from_result(described)
        except psycopg.ProgrammingError:
            return None
        for number in range(described.nfields):
            name = (described.fname(number) or b"").decode()
            row = self.session.execute(
                "SELECT format_type(%s::oid, %s)",
                (described.ftype(number), described.fmod(number)),
            ).fetchone()
            columns[name] = row[0] if row else ""
        return columns

    @contextmanager
    def _search_path(self) -> Iterator[None]:
        """A transaction in which names are found as in a run.

        SET LOCAL ends with it, so later questions have the usual search path.
        """
        with self.session.transaction():
            search_path.use(self.session, self.pipeline)
            yield

    def _check_write(self, only_adds: bool) -> None:
        """Add what keeps the role from building the target.

        Only an owner may replace a table or a view. To change rows in place, privileges are enough.
        """
        preview, session, spec, target = self.preview, self.session, self.spec, self.target
        if spec.materialized == "script":
            return
        if not only_adds and self.has_schema:
            rights.may_create_in(preview, session, target.schema)
        if not self.exists:
            return
        # Rows change in place in a merge, and in a table that something depends on.
        if not (only_adds or self._changes_in_place()):
            rights.check_owner(preview, session, target, "replace")
            return
        if not (only_adds or spec.unique_key):
            ask(preview, "target", lambda: side_effects.refuse_referring(session, target, NO_KEY))
        privileges = ["SELECT", "INSERT", "UPDATE"]
        if not only_adds:
            privileges.append("DELETE")
        rights.has_privileges(preview, session, target, privileges)
        rights.check_database(preview, session, "TEMPORARY", "create temporary tables")

    def _explain(self, select: sql.Composed) -> int | None:
        """Let the planner read the SELECT as a run would: its names, types and privileges.

        Returns the estimated rows; None, and an error, if it cannot be planned.
        """
        explain = "EXPLAIN (FORMAT JSON)\n"
        try:
            with self._search_path():
                # `binary`: the server takes only one statement, as in a run.
                row = self.session.execute(sql.SQL(explain) + select, binary=True).fetchone()
        except (psycopg.ProgrammingError, psycopg.DataError) as error:
            place = place_of(self.session, self.spec, explain, select, error)
            name = self.spec.file.name
            if place:
                name += f":{place.line}:{place.column}"
            text = f"{name}: {message(error)} (SQLSTATE {error.sqlstate})"
            if error.diag.message_hint:
                text += f". {error.diag.message_hint}"
            self.preview.add_error("sql", text)
            return None
        except UNANSWERED:  # a load swaps the table at this moment
            return None
        return int(plan(self.session, row)["Plan Rows"])

    def _is_rebuilt(self, change: Change | None, is_increment: bool) -> bool:
        """Whether every row of the target would be rewritten."""
        if not self.exists:
            return True
        if change:
            return not change.in_place
        return not (is_increment or self._changes_in_place())

    def _is_as_built(self) -> bool:
        return self.has_ledger and mart.is_as_built(
            self.session, self.pipeline, self.spec, self.target
        )

    def _changes_in_place(self) -> bool:
        """Whether a build in full changes the existing target's rows, where its columns stay. It is
        assumed where another session has locked the table."""
        if self.spec.materialized in ("view", "script") or not self.has_schema:
            return False
        if self.in_place is None:
            answer = ask(
                self.preview,
                "target",
                lambda: mart.changes_in_place(
                    self.session, self.spec, self.target, self._is_as_built()
                ),
            )
            self.in_place = answer is None or bool(answer)
        return self.in_place
