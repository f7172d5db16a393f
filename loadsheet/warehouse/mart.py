"""Decides whether a mart must be built, and builds it in one transaction."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg import sql

from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.spec.schedule import is_number
from loadsheet.sql.params import Param, split_params, uses_since_load
from loadsheet.sql.text import Relation, idents
from loadsheet.warehouse import build, ledger, tables
from loadsheet.warehouse.ledger import Effect

_LAST_RUN = """
SELECT sql_sha256, seen_load FROM loadsheet.transform_run
WHERE pipeline = %s AND transform = %s ORDER BY run_no DESC LIMIT 1
"""
# Loads and builds of the inputs that changed something after `since`; whether one may have taken
# rows away.
_CHANGES = """
SELECT count(*), coalesce(bool_or(replaced OR deleted > 0), false) FROM (
    SELECT load_no AS number, target, inserted, updated, deleted, replaced FROM loadsheet.load
    UNION ALL
    SELECT run_no, target, inserted, updated, deleted, replaced FROM loadsheet.transform_run
) change
WHERE target = ANY(%(inputs)s) AND number > %(since)s AND (inserted + updated + deleted > 0 OR replaced)
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Why and how a transform runs: in full, or from the loads after `since_load`."""

    full: bool
    since_load: int
    reason: str


def numbers_seen(session: Session, inputs: list[Relation]) -> int:
    """A number below which every load of the inputs is committed and visible from now on.

    Loads draw their number under their target's lock; while all inputs are locked (shared, in one
    order for all), no load of them is under way, so whatever comes later has a higher number.
    """
    with session.transaction():
        for target in sorted(inputs, key=str):
            ledger.lock(session, target, shared=True)
        row = session.execute(
            "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM loadsheet.load_no"
        ).fetchone()
    return int(row[0]) if row else 0


def seen(session: Session, pipeline: Pipeline, transform: Transform) -> int:
    """The number up to which the transform has seen its inputs; 0 before its first run."""
    last = session.execute(_LAST_RUN, (pipeline.name, transform.name)).fetchone()
    return int(last[1]) if last else 0


def decide(
    session: Session,
    pipeline: Pipeline,
    transform: Transform,
    target: Relation,
    inputs: list[Relation],
    full: bool,
) -> Job | None:
    """What there is to do; None when nothing changed since the transform last succeeded."""
    last = session.execute(_LAST_RUN, (pipeline.name, transform.name)).fetchone()
    if full or last is None:
        return Job(full=True, since_load=0, reason="full refresh" if full and last else "first run")
    if last[0] != fingerprint(transform):
        return Job(full=True, since_load=0, reason="its SQL changed")
    if transform.materialized != "script" and tables.kind(session, target) is None:
        return Job(full=True, since_load=0, reason="its table is gone")
    count, shrank = session.execute(
        _CHANGES, {"inputs": [str(i) for i in inputs], "since": last[1]}
    ).fetchone() or (0, False)
    if not count:
        return None
    return Job(
        full=shrank,
        since_load=0 if shrank else last[1],
        reason="inputs were rebuilt" if shrank else "new rows",
    )


def fingerprint(transform: Transform) -> str:
    """Changes when the transform's SQL, materialization or key does."""
    return hashlib.sha256(
        repr((transform.sql, transform.materialized, transform.unique_key)).encode()
    ).hexdigest()


def run(
    session: Session,
    pipeline: Pipeline,
    transform: Transform,
    request: RunRequest,
    target: Relation,
    job: Job,
    seen: int,
) -> Effect:
    """Build the target and record the run; call it in a transaction that holds the target's lock."""
    started = time.monotonic()
    number = ledger.draw_number(session)
    refuse_foreign(session, transform, target)
    session.execute(
        f"SET LOCAL search_path = {idents([pipeline.warehouse.schema, pipeline.warehouse.mart_schema])}, public"
    )
    effect = _Build(session, transform, target, request, number).run(job)
    reach("transform.built")
    ledger.record_transform(
        session,
        {
            "run_no": number,
            "pipeline": pipeline.name,
            "transform": transform.name,
            "target": str(target),
            "run_id": request.run_id,
            "sql_sha256": fingerprint(transform),
            "full_build": job.full,
            "since_load": job.since_load,
            "seen_load": seen,
            **asdict(effect),
            "seconds": time.monotonic() - started,
        },
    )
    return effect


class _Build:
    """One build of a transform, by its kind."""

    def __init__(
        self,
        session: Session,
        transform: Transform,
        target: Relation,
        request: RunRequest,
        number: int,
    ):
        self.session, self.transform, self.target = session, transform, target
        self.request, self.number = request, number
        self.fresh = Relation(target.schema, f"_loadsheet_{number}")

    def run(self, job: Job) -> Effect:
        if self.transform.materialized == "script":
            self._script(job)
            return Effect(replaced=True)
        if self.transform.materialized == "view":
            return self._view(job)
        if (
            self.transform.materialized == "merge"
            and not job.full
            and uses_since_load(self.transform.sql)
        ):
            return self._increment(job)
        return self._whole()

    def _script(self, job: Job) -> None:
        """As many statements as it likes, but in our transaction: with it the target's lock would
        be gone."""
        ours = self.session.execute("SELECT pg_current_xact_id()::text").fetchone()
        self.session.execute(bound(self.transform.sql, self.request, job.since_load))
        if self.session.execute("SELECT pg_current_xact_id()::text").fetchone() != ours:
            raise Refused(
                f"{self.transform.file}: the script has ended the transaction it runs in; take COMMIT, ROLLBACK and "
                "PREPARE TRANSACTION out of it. What it did until then stays, and is not in the ledger"
            )

    def _view(self, job: Job) -> Effect:
        """A view shows its inputs by itself; it is made anew only when its SQL did change."""
        if job.full:
            create = sql.SQL(f"CREATE OR REPLACE VIEW {self.target.sql} AS\n")
            statement = create + bound(self.transform.sql, self.request, 0)
            try:
                with self.session.transaction():
                    self._one(statement)
            # columns were renamed, dropped or changed their type
            except psycopg.errors.InvalidTableDefinition:
                self.session.execute(f"DROP VIEW {self.target.sql}")
                self._one(statement)
        return Effect(replaced=True)

    def _whole(self) -> Effect:
        """All rows into a fresh table; a merge then touches only what differs."""
        rows = self._select_into(f"CREATE TABLE {self.fresh.sql} AS\n", 0)
        self._check_key(self.fresh)
        key = self.transform.unique_key
        if self.transform.materialized == "merge" and self._same_columns(self.fresh):
            return build.difference(self.session, self.fresh, self.target, key, None)
        return build.replace(self.session, self.fresh, rows, self.target, key, None, None)

    def _increment(self, job: Job) -> Effect:
        """The rows that may differ into a temporary table, then the difference into the target."""
        incoming = Relation("pg_temp", self.fresh.name)
        self._select_into(
            f"CREATE TEMPORARY TABLE {incoming.sql} ON COMMIT DROP AS\n", job.since_load
        )
        if not self._same_columns(incoming):
            return self._whole()
        self._check_key(incoming)
        return build.merge(self.session, incoming, self.target, self.transform.unique_key, None)

    def _select_into(self, create: str, since_load: int) -> int:
        """Run the SELECT into a new table and return its rows."""
        return self._one(
            sql.SQL(create) + bound(self.transform.sql, self.request, since_load)
        ).rowcount

    def _one(self, statement: sql.Composed) -> psycopg.Cursor[Any]:
        """Run what must be one statement. Said to the server and not only to the check, which reads
        SQL by a parser of its own: in the extended protocol PostgreSQL refuses a second one.
        `binary` is what makes psycopg use it."""
        return self.session.execute(statement, binary=True)

    def _same_columns(self, arrived: Relation) -> bool:
        return tables.columns_of(self.session, arrived) == tables.columns_of(
            self.session, self.target
        )

    def _check_key(self, arrived: Relation) -> None:
        key = self.transform.unique_key
        columns = tables.columns_of(self.session, arrived)
        missing = [name for name in key if name not in columns]
        if missing:
            raise Refused(
                f"{self.target}: its SELECT has no column {missing[0]!r}, which unique_key names"
            )
        if key:
            try:
                build.one_row_per_key(self.session, arrived, key, None)
            except Refused as error:
                raise Refused(f"{self.target}: its SELECT returns {error}") from error


def bound(text: str, request: RunRequest, since_load: int) -> sql.Composed:
    """The SQL with its named parameters bound as literals by the driver: numbers, times and text,
    never pasted."""
    values: dict[str, Any] = {
        "since_load": sql.Literal(since_load),
        "interval_start": _bound_cursor(request.interval_start),
        "interval_end": _bound_cursor(request.interval_end),
        "run_id": sql.Literal(request.run_id),
    }
    pieces = split_params(text)
    return sql.Composed([values[p.name] if isinstance(p, Param) else sql.SQL(p) for p in pieces])


def _bound_cursor(value: str | None) -> sql.Composed:
    kind = "numeric" if value is not None and is_number(value) else "timestamptz"
    return sql.SQL(f"CAST({{}} AS {kind})").format(sql.Literal(value))


def refuse_foreign(session: Session, transform: Transform, target: Relation) -> None:
    """Never replace what somebody else made, nor a table by a view."""
    kind = tables.kind(session, target)
    if kind is None or transform.materialized == "script":
        return
    made = session.execute(
        "SELECT EXISTS (SELECT FROM loadsheet.transform_run WHERE target = %s)", (str(target),)
    )
    if made.fetchone() != (True,):
        raise Refused(
            f"{target} exists and was not made by Loadsheet: drop or rename it, or choose another mart_schema"
        )
    if (kind == "v") != (transform.materialized == "view"):
        raise Refused(
            f"{target} is a {'view' if kind == 'v' else 'table'} and is to become the other: drop it first"
        )
