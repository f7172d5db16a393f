"""`loadsheet restore`: a staging table again from the lake, as it was after one of its loads.

The loads are replayed into a table next to its place, then all rows go into place at once. A replay
of many loads has several transactions: each merge needs temporary tables, and the server has room
for the locks of so many only.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.engine.execute import execute
from loadsheet.engine.lock_holders import holders_named, of_loads, of_target
from loadsheet.engine.sessions import Servers
from loadsheet.errors import Corrupt, InputError, LoadsheetError, Overtaken
from loadsheet.failpoints import reach
from loadsheet.lake.history import History, Missing
from loadsheet.lake.manifest import LONGEST_MANIFEST, Manifest, read_manifest
from loadsheet.lake.store import Lake
from loadsheet.names import did_you_mean
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step
from loadsheet.postgres import Session
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import gone, history, ledger, restoring, tables
from loadsheet.warehouse.history import LoggedLoad
from loadsheet.warehouse.replay import Replay, numbers, working_table
from loadsheet.warehouse.restoring import Placed

_log = logging.getLogger(__name__)

# Each merge added 12 locks, which are held until the transaction ends. A server with its default
# settings has room for 6,400.
LOADS_PER_TRANSACTION = 100
_EXTRACT_AGAIN = "; run the extract step again"


@dataclass(kw_only=True)
class Restored:
    """What a restore has done."""

    table: str
    place: Relation
    is_elsewhere: bool
    """The rows are in a new table, and nothing else has changed."""
    load: LoggedLoad
    """The load whose state was restored."""
    replayed: list[int]
    """The numbers of the loads that were replayed."""
    placed: Placed
    marts: dict[str, Outcome | LoadsheetError] = field(default_factory=dict)
    """What became of the marts that read the table, by name."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A load of a target, and whether the lake still has what a restore to it needs."""

    load: LoggedLoad
    rows: int
    """The target's rows after it, by the ledger."""
    missing: Missing
    """The loads that it needs and that are gone from the lake."""


def candidates(pipeline: Pipeline, name: str, connections: Connections) -> list[Candidate]:
    """The table's loads, oldest first. Changes nothing in the warehouse but an older ledger.

    Asks the lake for manifests only: parts are checked when they are read. Raises InputError as
    `restore`.
    """
    target = Relation(pipeline.warehouse.schema, _table(pipeline, name).name)
    servers = Servers(pipeline, connections)
    with servers.warehouse() as session:
        _ensure_ledger(session, pipeline)
        loads = history.read_history(session, target)
    history.choose(loads, pipeline.name, target, None)
    found: list[Candidate] = []
    rows = 0
    stored = _stored(servers.lake, loads)
    missing = loads.missing(lambda load: load.manifest in stored)
    for load in loads.loads:
        rows = load.rows_after(rows)
        found.append(Candidate(load=load, rows=rows, missing=missing[load.load_no]))
    return [one for one in found if one.load.pipeline == pipeline.name]


def restore(
    pipeline: Pipeline,
    name: str,
    connections: Connections,
    *,
    as_of: str | None = None,
    into: Relation | None = None,
    accept_counts: bool = False,
) -> Restored:
    """Make the table again as it was after the load `as_of` (its number, its run, or a time;
    None: the newest), in place, or `into` a new table, which changes nothing else.

    In place, the marts that read it are built afterwards; their failures are in the result. A
    failure before that changes nothing.

    Raises InputError for a table, load or place that cannot be; Corrupt where the lake does not
    hold what was loaded, Unavailable where another session holds a lock for too long, Refused where
    the loads do not explain the ledger's counts or rows do not
    fit the target, Overtaken where another run has loaded the table whole meanwhile; psycopg and
    lake errors.
    """
    table = _table(pipeline, name)
    run_id = f"restore__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    servers = Servers(pipeline, connections)
    target = Relation(pipeline.warehouse.schema, name)
    locks = [of_loads(pipeline.name), of_target(into or target), of_target(target)]
    waits = {pipeline.warehouse.conn_id: locks}
    with (
        holders_named(connections, waits, f"{target}: nothing was restored: "),
        servers.warehouse() as session,
    ):
        _ensure_ledger(session, pipeline)
        work = _Restore(session, servers.lake, pipeline, table, as_of, into, accept_counts)
        restored = work.run(run_id)
    if into is None:
        restored.marts = _build_marts(pipeline, name, run_id, connections)
    return restored


class _Restore:
    """One restore, transaction by transaction."""

    def __init__(
        self,
        session: Session,
        lake: Lake,
        pipeline: Pipeline,
        table: Table,
        as_of: str | None,
        into: Relation | None,
        accept_counts: bool,
    ):
        self.session = session
        self.lake = lake
        self.pipeline = pipeline
        self.table = table
        self.target = Relation(pipeline.warehouse.schema, table.name)
        self.as_of = as_of
        self.into = into
        self.place = into or self.target
        self.started = time.monotonic()
        working = working_table(self.place)
        self.replay = Replay(session, lake, self.target, table, working, accept_counts)

    def run(self, run_id: str) -> Restored:
        """Replay and put into place; see `restore`."""
        self._decide()  # before a schema is made for nothing
        tables.ensure_schema(self.session, self.place.schema)
        try:
            while True:
                restored = self._transaction(run_id)
                if restored:
                    return restored
        except BaseException:
            self._drop_leftover()
            raise

    def _transaction(self, run_id: str) -> Restored | None:
        """Replay what one transaction has room for; None if that was not all."""
        with self.session.transaction():
            ledger.name_transaction(self.session, f"restore:{self.target}")
            # A gc that has judged the loads before would remove what this one needs.
            ledger.lock_loads(self.session, self.pipeline.name, shared=True)
            ledger.lock_target(self.session, self.place)
            chosen, chain = self._decide()
            self._refuse_other_chain(chain)
            if not self.replay.done:
                # What a killed restore has left.
                self.session.execute(f"DROP TABLE IF EXISTS {self.replay.working.sql}")
            left = chain[len(self.replay.done) :]
            for load in left[:LOADS_PER_TRANSACTION]:
                self._replay(load)
            if len(left) > LOADS_PER_TRANSACTION:
                return None
            self.replay.refuse_other_rows()
            placed = self._place(run_id, chosen)
            self.session.execute(f"DROP TABLE {self.replay.working.sql}")
            reach("restore.placed")
        return Restored(
            table=self.target.name,
            place=self.place,
            is_elsewhere=self.into is not None,
            load=chosen,
            replayed=numbers(chain),
            placed=placed,
        )

    def _decide(self) -> tuple[LoggedLoad, list[LoggedLoad]]:
        """The load whose state is wanted, and the loads to replay for it."""
        self._refuse_place()
        loads = history.read_history(self.session, self.target)
        chosen = history.choose(loads, self.pipeline.name, self.target, self.as_of)
        chain = loads.chain(chosen.load_no)
        self._refuse_others(loads, chain)
        return chosen, chain

    def _place(self, run_id: str, chosen: LoggedLoad) -> Placed:
        if self.into:
            return restoring.place_elsewhere(self.session, self.lake, self.replay, self.into)
        return restoring.place_in_target(
            self.session,
            self.lake,
            self.replay,
            self.pipeline.name,
            self.target,
            gone.keeps_deleted(self.table) or gone.has_marked(self.session, self.target),
            run_id,
            chosen,
            time.monotonic() - self.started,
        )

    def _refuse_place(self) -> None:
        if self.into is None:
            return
        if tables.kind(self.session, self.into) is not None:
            raise InputError(
                f"--into {self.into}: it exists, and a restore overwrites nothing. Choose another"
                " name, or drop it"
            )
        known = self.session.execute(
            "SELECT pipeline FROM loadsheet.scope WHERE target = %s LIMIT 1", (str(self.into),)
        ).fetchone()
        if known:
            raise InputError(
                f"--into {self.into} is a table of the pipeline {known[0]!r}: leave out --into to"
                " restore it in place, or choose another name"
            )

    def _refuse_others(self, loads: History[LoggedLoad], chain: list[LoggedLoad]) -> None:
        concerned = chain
        if self.into is None:
            # Rows that another pipeline has loaded later would be lost, and not be read again.
            first = chain[0].load_no
            concerned = [load for load in loads.loads if load.load_no >= first]
        history.refuse_others(concerned, self.pipeline.name, self.target)

    def _refuse_other_chain(self, chain: list[LoggedLoad]) -> None:
        done = self.replay.done
        if chain[: len(done)] != done or (done and not self.replay.is_intact()):
            raise Overtaken(
                f"{self.target}: another run has loaded the whole table, or another restore has"
                " begun, while its loads were replayed; nothing was changed. Run this again"
            )

    def _replay(self, load: LoggedLoad) -> None:
        _log.info("%s: replaying load %s of run %s", self.target, load.load_no, load.run_id)
        try:
            self.replay.apply(load, _manifest(self.lake, load))
        except Corrupt as error:
            what = str(error).removesuffix(_EXTRACT_AGAIN)
            raise Corrupt(
                f"{self.target}: load {load.load_no} cannot be read from the lake: {what}. Nothing"
                " was changed. Earlier loads, and those from the next full load on, can be"
                f" restored: `loadsheet restore {self.pipeline.name} {self.target.name} --list`"
            ) from error

    def _drop_leftover(self) -> None:
        """Drop what earlier transactions have replayed, if the session still works."""
        with suppress(psycopg.Error), self.session.transaction():
            # Another restore may have begun, and have its own there.
            ledger.lock_target(self.session, self.place)
            if self.replay.is_intact():
                self.session.execute(f"DROP TABLE IF EXISTS {self.replay.working.sql}")


def _table(pipeline: Pipeline, name: str) -> Table:
    """The spec's table, or the one that a pattern matches. Raises InputError."""
    pattern_names = [pattern.name for pattern in pipeline.patterns]
    if name in pattern_names:
        raise InputError(f"{name!r} is a pattern: name one of the tables that it matches")
    try:
        return pipeline.table(name)
    except KeyError:
        known = did_you_mean(name, [table.name for table in pipeline.tables])
        raise InputError(f"{pipeline.name} has no table {name!r}{known}") from None


def _ensure_ledger(session: Session, pipeline: Pipeline) -> None:
    if tables.kind(session, Relation("loadsheet", "load")) is None:
        raise InputError(
            f"the warehouse ({pipeline.warehouse.conn_id}) has no ledger (schema loadsheet), which"
            " alone knows which loads were committed, and in which order. Restore it from a backup"
            " first; without one, run the pipeline to read every table again"
        )
    ledger.ensure(session)


def _stored(lake: Lake, loads: History[LoggedLoad]) -> set[str]:
    """The names of all objects in the folders of these loads."""
    # <prefix>/<table>/<load_id>/<attempt>/manifest.json
    roots = {load.manifest.rsplit("/", 3)[0] + "/" for load in loads.loads}
    return {name for root in roots for name in lake.names(root)}


def _manifest(lake: Lake, load: LoggedLoad) -> Manifest:
    """The load's manifest. Raises Corrupt unless it is the one that was loaded."""
    stored = lake.get(load.manifest, LONGEST_MANIFEST)
    # Earlier versions have not recorded the hash.
    sha256 = load.sha256 or hashlib.sha256(stored or b"").hexdigest()
    manifest = read_manifest(stored, load.manifest, sha256)
    found = (manifest.load_id, manifest.table, manifest.run_id, manifest.fence, manifest.rows)
    if found != (load.load_id, load.table, load.run_id, load.fence, load.extracted):
        raise Corrupt(f"{load.manifest} is not the manifest of that load{_EXTRACT_AGAIN}")
    return manifest


def _build_marts(
    pipeline: Pipeline, table: str, run_id: str, connections: Connections
) -> dict[str, Outcome | LoadsheetError]:
    """Build the marts that read the table, and those that read them, in their order. One that
    fails keeps none of the others from being built; a later run builds what is still due."""
    found: dict[str, Outcome | LoadsheetError] = {}
    for name, inputs in transform_inputs(pipeline).items():
        if table not in inputs.tables and not set(inputs.transforms) & found.keys():
            continue
        step = Step(kind="transform", name=name)
        try:
            found[name] = execute(step, pipeline, RunRequest(run_id=run_id), connections)
        except LoadsheetError as error:
            found[name] = error
    return found
