"""Decides whether a mart must be built, and builds it in one transaction."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from loadsheet.errors import CheckFailed, Overtaken, Refused
from loadsheet.failpoints import reach
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.params import uses_since_load
from loadsheet.sql.text import Relation
from loadsheet.warehouse import (
    apply,
    belongings,
    ledger,
    mart_columns,
    mart_deletes,
    mart_views,
    search_path,
    swap,
    tables,
    write,
)
from loadsheet.warehouse.ledger import Effect
from loadsheet.warehouse.located import errors_located
from loadsheet.warehouse.mart_columns import Change
from loadsheet.warehouse.mart_deletes import GoneByKey
from loadsheet.warehouse.parameters import bind_parameters

_log = logging.getLogger(__name__)

_LAST_RUN = """
SELECT sql_sha256, seen_load FROM loadsheet.transform_run
WHERE pipeline = %s AND transform = %s AND target = %s ORDER BY run_no DESC LIMIT 1
"""
# Loads and builds of the inputs that changed something after `since`, whether one of them may have
# removed unknown rows, the inputs that have lost rows by their keys, and whether rows were marked
# as deleted: their keys are in no table of tombstones, though there may be one from an earlier
# setting of `deletes`. `plan` also reads ledgers before version 7, which lack the column `gone`.
_CHANGES = """
SELECT count(*), coalesce(bool_or(replaced OR deleted > gone), false),
    coalesce(array_agg(DISTINCT target) FILTER (WHERE gone > 0), '{}'),
    coalesce(bool_or(gone > deleted), false)
FROM (
    SELECT load_no AS number, target, inserted, updated, deleted,
        coalesce(CAST(to_jsonb(load) ->> 'gone' AS bigint), 0) AS gone,
        replaced OR counted IS NOT NULL AS replaced
    FROM loadsheet.load
    UNION ALL
    SELECT run_no, target, inserted, updated, deleted, 0, replaced FROM loadsheet.transform_run
) change
WHERE target = ANY(%(inputs)s) AND number > %(since)s
  AND (inserted + updated + deleted > 0 OR replaced)
"""


@dataclass(frozen=True, kw_only=True)
class BuildDecision:
    """Why and how a transform runs: in full, or from the loads after `since_load`."""

    full: bool
    since_load: int
    reason: str
    gone: tuple[GoneByKey, ...] = ()
    """What the mart loses because rows are gone from its inputs."""


@dataclass(frozen=True)
class Built:
    """What a build did."""

    effect: Effect
    notes: tuple[str, ...]
    """How the mart's columns changed, one text per change."""


def last_committed_number(
    session: Session, inputs: list[Relation], externals: list[Relation]
) -> int:
    """A number up to which every load of the inputs is committed and visible from now on.

    Loads draw their number under their target's lock. While all inputs are locked (shared, in one
    order for all), no load of them is under way, so every later load has a higher number.

    `externals` are not waited for: another pipeline may take its time. While one is being written,
    no number is known, and the result is 0.
    """
    # In one order for all, so that no two transforms wait for each other.
    with session.transaction():
        for target in sorted(inputs, key=str):
            ledger.lock_target(session, target, shared=True)
        for target in externals:
            if ledger.is_written_now(session, target):
                return 0
        return newest_number(session)


def newest_number(session: Session) -> int:
    """The number drawn last; its load may not be committed yet."""
    row = session.execute(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM loadsheet.load_no"
    ).fetchone()
    return int(row[0]) if row else 0


def last_seen_number(
    session: Session, pipeline: Pipeline, transform: Transform, target: Relation
) -> int:
    """The number up to which the transform has seen its inputs; 0 before its first run."""
    last = session.execute(_LAST_RUN, (pipeline.name, transform.name, str(target))).fetchone()
    return int(last[1]) if last else 0


def decide_build(
    session: Session,
    pipeline: Pipeline,
    transform: Transform,
    target: Relation,
    inputs: list[Relation],
    full: bool,
) -> BuildDecision | None:
    """What to build; None when nothing has changed since the transform last succeeded.

    `full` asks for a build in full, whatever has changed.
    """
    last = session.execute(_LAST_RUN, (pipeline.name, transform.name, str(target))).fetchone()
    if last is None:
        return _in_full("first run")
    last_sql, seen = last
    if full:
        return _in_full("full refresh")
    if last_sql != fingerprint(transform):
        return _in_full("its SQL changed")
    if transform.materialized != "script" and tables.kind(session, target) is None:
        return _in_full("its table is gone")
    names = [str(relation) for relation in inputs]
    row = session.execute(_CHANGES, {"inputs": names, "since": seen}).fetchone()
    changes, may_have_removed, gone, has_marked = row or (0, False, [], False)
    if not changes:
        return None
    # Rows that are gone from an input cannot be found by the loads after `seen`.
    if may_have_removed:
        return _in_full("inputs were rebuilt")
    by_key = mart_deletes.follow(session, pipeline, transform, gone) if gone else []
    if by_key is None or has_marked:
        return _in_full("rows of its inputs are gone")
    return BuildDecision(full=False, since_load=seen, reason="new rows", gone=tuple(by_key))


def _in_full(reason: str) -> BuildDecision:
    return BuildDecision(full=True, since_load=0, reason=reason)


def fingerprint(transform: Transform) -> str:
    """A hash that changes when the transform's SQL, materialization or key does."""
    parts = (transform.sql, transform.materialized, transform.unique_key)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def build_mart(
    session: Session,
    pipeline: Pipeline,
    transform: Transform,
    request: RunRequest,
    target: Relation,
    decision: BuildDecision,
    seen: int,
) -> Built:
    """Build the target and record the run. Call it in a transaction that holds the target's lock.

    `seen` is the number up to which this run sees its inputs. Raises Refused when the target is not
    this transform's, or when its rows contradict the spec, and psycopg's errors when its SQL fails.
    """
    started = time.monotonic()
    # Under the target's lock, so that numbers rise in commit order, as those of loads do.
    number = ledger.draw_number(session)
    refuse_foreign_target(session, transform, target)
    search_path.use(session, pipeline)
    build = _Build(session, pipeline, transform, target, request, number, seen)
    effect = build.execute(decision)
    reach("transform.built")
    _log.info("%s: %s (%s)", target, effect, decision.reason)
    ledger.record_transform(
        session,
        {
            "run_no": number,
            "pipeline": pipeline.name,
            "transform": transform.name,
            "target": str(target),
            "run_id": request.run_id,
            "sql_sha256": fingerprint(transform),
            "full_build": decision.full,
            "since_load": decision.since_load,
            "seen_load": seen,
            **asdict(effect),
            "seconds": time.monotonic() - started,
        },
    )
    return Built(effect, tuple(build.notes))


def is_as_built(
    session: Session, pipeline: Pipeline, transform: Transform, target: Relation
) -> bool:
    """Whether the transform's SQL, materialization and key are those of its last build. What is
    different about the target then was made by another user."""
    last = session.execute(_LAST_RUN, (pipeline.name, transform.name, str(target))).fetchone()
    return last is not None and last[0] == fingerprint(transform)


def changes_in_place(
    session: Session, transform: Transform, target: Relation, as_built: bool
) -> bool:
    """Whether a build in full changes the existing target's rows in place, where its columns are
    the SELECT's; if not, a new table takes its place."""
    key = transform.unique_key
    primary_key = tables.primary_key_of(session, target)
    # Another user may have given it the key's columns in another order.
    if as_built and key and primary_key and primary_key[1] != key:
        return True
    if belongings.obstacles(session, target, key=key, is_mart=True):
        return True
    return transform.materialized == "merge" and tables.has_key(session, target, key)


class _Build:
    """One build of a transform, by its materialization."""

    def __init__(
        self,
        session: Session,
        pipeline: Pipeline,
        transform: Transform,
        target: Relation,
        request: RunRequest,
        number: int,
        seen: int,
    ):
        self.session = session
        self.pipeline = pipeline
        self.transform = transform
        self.target = target
        self.request = request
        self.seen = seen
        self.notes: list[str] = []
        self.fresh = Relation(target.schema, f"_loadsheet_{number}")

    def execute(self, decision: BuildDecision) -> Effect:
        """Build the target and return what changed in it."""
        materialized = self.transform.materialized
        if materialized == "script":
            self._run_script(decision.since_load)
            return Effect(replaced=True)
        if materialized == "view":
            # A view shows its inputs by itself; it is created again only when its SQL changed.
            if decision.full:
                self._create_view()
            return Effect(replaced=True)
        is_increment = not decision.full and uses_since_load(self.transform.sql)
        if materialized == "merge" and is_increment:
            return self._merge_increment(decision)
        return self._build_in_full()

    def _run_script(self, since_load: int) -> None:
        """Run the script: any number of statements, but all in this transaction.

        If it ended the transaction, the target's lock would be released.
        """
        before = self.session.execute("SELECT pg_current_xact_id()::text").fetchone()
        bound = self._bind(since_load)
        with errors_located(self.session, self.transform, "", bound):
            self.session.execute(bound)
        after = self.session.execute("SELECT pg_current_xact_id()::text").fetchone()
        if after != before:
            raise Refused(
                f"{self.transform.file}: the script ended the transaction that it runs in; remove "
                "COMMIT, ROLLBACK and PREPARE TRANSACTION from it. What it did before stays, and "
                "is not in the ledger"
            )

    def _create_view(self) -> None:
        create = f"CREATE OR REPLACE VIEW {self.target.sql} AS\n"
        bound = bind_parameters(self.transform.sql, self.request, 0)
        if tables.kind(self.session, self.target) is None:
            self._execute_single(create, bound)
            return
        # OR REPLACE takes the view's options away.
        before = mart_views.save(self.session, self.target)
        # In a savepoint: an error would end the transaction, and with it the target's lock.
        try:
            with self.session.transaction():
                self._execute_single(create, bound)
        # CREATE OR REPLACE cannot rename, drop or retype the view's columns.
        except psycopg.errors.InvalidTableDefinition:
            above = mart_views.views_above(self.session, self.target)
            removed = mart_views.drop(self.session, [self.target, *above])[1:]
            self._execute_single(create, bound)
            mart_views.restore(self.session, before)
            mart_views.remake(self.session, self.target, removed, self._sql_of_view)
        else:
            mart_views.restore(self.session, before)

    def _build_in_full(self) -> Effect:
        """Select all rows into a fresh table; a merge then touches only the target's rows that
        differ."""
        rows = self._select_into(f"CREATE TABLE {self.fresh.sql} AS\n", 0)
        self._check_key(self.fresh)
        key = self.transform.unique_key
        if tables.kind(self.session, self.target) is None:
            return apply.replace(self.session, self.fresh, rows, self.target, key)
        arriving = mart_columns.read_columns(self.session, self.fresh)
        as_built = self._is_as_built()
        # A type or collation of an older SELECT is none that was given.
        given_key = key if as_built else ()
        belongings.refuse_unfit(self.session, self.target, list(arriving), given_key, self.fresh)
        if as_built:
            mart_columns.refuse_given_key(self.session, self.target, key)
        remade = mart_views.view_transforms(self.pipeline)
        change = mart_columns.change_of(self.session, self.target, arriving, key, remade, as_built)
        if change:
            return self._change_columns(change, rows)
        given = mart_columns.compare(self.session, self.target, arriving, as_built).given
        if given or changes_in_place(self.session, self.transform, self.target, as_built):
            return self._apply_difference()
        return apply.replace(self.session, self.fresh, rows, self.target, key)

    def _is_as_built(self) -> bool:
        return is_as_built(self.session, self.pipeline, self.transform, self.target)

    def _change_columns(self, change: Change, rows: int) -> Effect:
        """Give the target the columns and rows of the fresh table. Views that are transforms are
        made again in the same transaction."""
        self.notes += change.notes
        removed = mart_views.drop(self.session, change.views)
        # First: a key whose column is dropped is gone, but not what it has done to the others.
        mart_columns.drop_other_key(self.session, self.target, self.transform.unique_key)
        mart_columns.apply_clauses(self.session, self.target, change)
        if change.in_place:
            _log.info("%s: altered in place: it has %s", self.target, change.because)
            effect = self._apply_difference()
        else:
            effect = self._swap_columns(rows)
        mart_views.remake(self.session, self.target, removed, self._sql_of_view)
        return effect

    def _swap_columns(self, rows: int) -> Effect:
        key = self.transform.unique_key
        try:
            return apply.swap_in(self.session, self.fresh, rows, self.target, key)
        except swap.WouldLose as error:
            raise Overtaken(
                f"{self.target}: {error.belonging.what} would be lost with the table that is"
                " replaced; nothing was written. Retry"
            ) from error

    def _apply_difference(self) -> Effect:
        """Make the fresh table's rows those of the target, in place. Its columns are the same."""
        key = self.transform.unique_key
        if tables.has_key(self.session, self.target, key):
            return apply.difference(self.session, self.fresh, self.target, key, None)
        # The older rows may share a key, so they are all written again.
        mart_columns.drop_other_key(self.session, self.target, key)
        effect = apply.difference(self.session, self.fresh, self.target, (), None)
        mart_columns.add_missing_key(self.session, self.target, key)
        return effect

    def _sql_of_view(self, view: Relation) -> sql.Composed | None:
        """The SELECT of a view transform of this pipeline; None for another view."""
        if view not in mart_views.view_transforms(self.pipeline):
            return None
        return bind_parameters(self.pipeline.transform(view.name).sql, self.request, 0)

    def _merge_increment(self, decision: BuildDecision) -> Effect:
        """Select the rows that may differ into a temporary table and merge them into the target."""
        since_load = decision.since_load
        incoming = Relation("pg_temp", self.fresh.name)
        create = f"CREATE TEMPORARY TABLE {incoming.sql} ON COMMIT DROP AS\n"
        self._select_into(create, since_load)
        # An input's type changed, and the target has the old one.
        arriving = mart_columns.read_columns(self.session, incoming)
        as_built = self._is_as_built()
        if not mart_columns.compare(self.session, self.target, arriving, as_built).fit:
            return self._build_in_full()
        self._check_key(incoming)
        key = self.transform.unique_key
        belongings.refuse_unfit(self.session, self.target, list(arriving), key, incoming)
        # A row that comes back later is among those that a later build selects.
        deleted = sum(gone.delete(self.session, self.target, since_load) for gone in decision.gone)
        effect = write.merge(self.session, incoming, self.target, key, None)
        return replace(effect, deleted=deleted)

    def _select_into(self, create: str, since_load: int) -> int:
        """Run the SELECT into a new table and return its rows."""
        return self._execute_single(create, self._bind(since_load)).rowcount

    def _bind(self, since_load: int) -> sql.Composed:
        return bind_parameters(self.transform.sql, self.request, since_load, self.seen)

    def _execute_single(self, create: str, bound: sql.Composed) -> psycopg.Cursor[Any]:
        """Run `create` and the transform's SELECT, which must be one statement.

        The check ensures that, but it reads SQL with a parser other than the server's. In the
        extended protocol, which `binary` makes psycopg use, PostgreSQL refuses a second statement.
        """
        with errors_located(self.session, self.transform, create, bound):
            return self.session.execute(sql.SQL(create) + bound, binary=True)

    def _check_key(self, arrived: Relation) -> None:
        """Raises Refused when the rows lack a column of the key, and CheckFailed when it is not
        unique and complete."""
        key = self.transform.unique_key
        columns = tables.columns_of(self.session, arrived)
        for name in key:
            if name not in columns:
                raise Refused(
                    f"{self.target}: its SELECT has no column {name!r}, which unique_key names"
                )
        if not key:
            return
        try:
            apply.one_row_per_key(self.session, arrived, key, None)
        except CheckFailed as error:
            text = f"{self.target}: the SELECT's rows are refused: {error}"
            raise CheckFailed(text, "unique_key", error.rows) from error


def refuse_foreign_target(session: Session, transform: Transform, target: Relation) -> None:
    """Raises Refused when the target was not made by Loadsheet or cannot be written to safely, or
    when a table would become a view or a view a table. A script decides for itself."""
    kind = tables.kind(session, target)
    if kind is None or transform.materialized == "script":
        return
    is_ours = session.execute(
        "SELECT EXISTS (SELECT FROM loadsheet.transform_run WHERE target = %s)", (str(target),)
    ).fetchone() == (True,)
    if not is_ours:
        raise Refused(
            f"{target} exists and was not made by Loadsheet: drop or rename it, or choose another "
            "mart_schema"
        )
    belongings.refuse_unsafe(session, target)
    existing = "view" if kind == "v" else "table"
    wanted = "view" if transform.materialized == "view" else "table"
    if existing != wanted:
        raise Refused(
            f"{target} is a {existing}, but the spec makes it a {wanted}: drop the {existing} first"
        )
