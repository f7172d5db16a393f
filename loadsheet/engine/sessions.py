"""The servers of a pipeline as its steps reach them: a new session for every step (`Servers`), or
sessions that are kept from step to step (`KeptServers`)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg

from loadsheet.connections.lookup import Connection, Connections
from loadsheet.deadline import remaining
from loadsheet.engine.diagnosis import is_full
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.engine.early import EarlyLoads
    from loadsheet.lake.store import Lake
    from loadsheet.source.table import SourceTable

_log = logging.getLogger(__name__)
Connect = Callable[[Connection], PinnedSession]
Open = Callable[[], contextlib.AbstractContextManager[PinnedSession]]
Result = TypeVar("Result")
# A server under load has taken 0.3 s to end a session that was closed.
_ENDING_SECONDS = 5
_ENDING_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
# Longer than the first tables of a run wait for their turn, and too short for a table to change in
# most runs: then its step describes it again.
_DESCRIBED_SECONDS = 10


class Described:
    """Tables of the source as a look has just described them, for their extract steps. Several
    threads may take them."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[float, SourceTable]] = {}

    def add(self, tables: Mapping[str, SourceTable]) -> None:
        """Remember the tables, by name."""
        now = time.monotonic()
        for name, table in tables.items():
            self._tables[name] = now, table

    def take(self, name: str) -> SourceTable | None:
        """The table, once; None where it was described too long ago, or never."""
        since, table = self._tables.pop(name, (0.0, None))
        return table if time.monotonic() - since < _DESCRIBED_SECONDS else None


class Servers:
    """A new session for every step, closed with it: what an Airflow task needs, which runs one."""

    early: EarlyLoads | None = None
    """Loads that begin before their load steps; None where another process does those."""
    keeps_sessions = False
    """Whether a further session costs nothing, where a step has had one before."""

    def __init__(self, pipeline: Pipeline, connections: Connections):
        self._pipeline = pipeline
        self._connections = connections
        self._found: dict[str, Connection] = {}
        self._reached: set[Connect] = set()
        """Where a session was opened before."""
        self.described = Described()

    def find_connection(self, conn_id: str) -> None:
        """Find a connection now, for what uses it next: that may take longer than reaching its
        server. Raises ConnectionMissing."""
        self._found[conn_id] = self._connections(conn_id)

    def _find(self, conn_id: str) -> Connection:
        # A later session may need another password.
        return self._found.pop(conn_id, None) or self._connections(conn_id)

    def source(self) -> contextlib.AbstractContextManager[PinnedSession]:
        """A session that reads. Raises ConnectionMissing; psycopg.OperationalError when the server
        cannot be reached."""
        return self._session(connect_source, self._pipeline.source.conn_id)

    def warehouse(self) -> contextlib.AbstractContextManager[PinnedSession]:
        """A session that writes staging and ledger; raises as `source`."""
        return self._session(connect_warehouse, self._pipeline.warehouse.conn_id)

    @contextlib.contextmanager
    def own_warehouse(self) -> Iterator[PinnedSession]:
        """A session that is used once: a user's SQL may leave settings, temporary tables or locks
        in it."""
        with self.new_warehouse() as session:
            yield session

    def new_warehouse(self) -> PinnedSession:
        """A session that the caller closes, and that no other step waits for."""
        return self._connect(connect_warehouse, self._pipeline.warehouse.conn_id)

    @cached_property
    def lake(self) -> Lake:
        """The lake's bucket. Raises ConnectionMissing."""
        # A transform's process is spared the S3 client (0.1 s of starting it).
        from loadsheet.lake.store import Lake

        return Lake(self._find(self._pipeline.lake.conn_id), self._pipeline.lake.bucket)

    def kept(self) -> KeptServers:
        """The same servers, with sessions that are kept. Close it at the end."""
        return KeptServers(self._pipeline, self._connections)

    @contextlib.contextmanager
    def _session(self, connect: Connect, conn_id: str) -> Iterator[PinnedSession]:
        with self._connect(connect, conn_id) as session, _named(session):
            yield session

    def _connect(self, connect: Connect, conn_id: str) -> PinnedSession:
        """A new session, or one that another step has given back. Where the server has none left,
        it is waited for as long as another step of this process has one, and for some seconds: a
        role may have a CONNECTION LIMIT, and the server takes a moment to end the session before,
        also that of another command."""
        connection = self._find(conn_id)
        ending_until = time.monotonic() + _ENDING_SECONDS
        pause = _ENDING_POLL_SECONDS
        while True:
            try:
                session = connect(connection)
            except psycopg.OperationalError as error:
                none_is_left = is_full(error)
                if none_is_left and self._is_awaited(connect):
                    ending_until = time.monotonic() + _ENDING_SECONDS
                may_end = none_is_left or connect in self._reached or self._has_spare
                if not may_end or time.monotonic() >= ending_until:
                    raise
                if pause == _ENDING_POLL_SECONDS:
                    _log.info("no session left on %s: waiting for one", conn_id)
            else:
                self._reached.add(connect)
                return session
            given_back = self._make_room(connect)
            if given_back:
                return given_back
            time.sleep(min(pause, remaining()))
            # Each try costs the server a process, and another step may take hours.
            pause = min(1.2 * pause, _LONGEST_POLL_SECONDS)

    @property
    def _has_spare(self) -> bool:
        """Whether there are sessions that nothing needs now."""
        return False

    def _is_awaited(self, connect: Connect) -> bool:
        """Whether another step has a session that it will give back."""
        return False

    def _make_room(self, connect: Connect) -> PinnedSession | None:
        """A session that another step has given back; else what is not needed makes room."""
        return None


@contextlib.contextmanager
def _named(session: PinnedSession) -> Iterator[None]:
    """An error about a connection that is lost says which one."""
    try:
        yield
    except psycopg.OperationalError as error:
        if session.broken:
            session.name(error)
        raise


class KeptServers(Servers):
    """Later steps use the sessions of earlier ones, because connecting costs 10 ms and more. Close
    it at the end."""

    keeps_sessions = True

    def __init__(self, pipeline: Pipeline, connections: Connections):
        super().__init__(pipeline, connections)
        # No key comes later, and none goes: several threads take sessions and give them back.
        self._idle: dict[Connect, list[PinnedSession]] = {connect_source: [], connect_warehouse: []}
        self._holders: dict[Connect, list[int]] = {connect_source: [], connect_warehouse: []}
        """The threads that have a session, each once per session."""

    @contextlib.contextmanager
    def spare_warehouse(self) -> Iterator[PinnedSession]:
        """As `warehouse`, but only if the server gives a session at once. It is for work that can
        be left out, so it takes none from others."""
        session = self._take_idle(connect_warehouse) or self.try_warehouse()
        with self._keeping(session, connect_warehouse):
            yield session

    def try_warehouse(self) -> PinnedSession:
        """A new session, if the server gives one at once; else psycopg.OperationalError."""
        return connect_warehouse(self._find(self._pipeline.warehouse.conn_id))

    def held_warehouse(self) -> contextlib.AbstractContextManager[None]:
        """A block in which this thread has a session of `spare_warehouse`, which is a step's by
        now: the steps of others may wait for it."""
        return self._held(connect_warehouse)

    def close(self) -> None:
        """Close the sessions that are not in use, and the connections to the lake."""
        self.close_idle()
        if "lake" in vars(self):
            self.lake.close()

    def close_idle(self) -> None:
        """Close the sessions that are not in use: other processes may need them."""
        for connect in self._idle:
            while session := self._pop_idle(connect):
                session.close()

    @property
    def _has_spare(self) -> bool:
        has_early = self.early is not None and self.early.have_begun
        return has_early or any(self._idle.values())

    def _make_room(self, connect: Connect) -> PinnedSession | None:
        session = self._take_idle(connect)
        if session is None:
            self.close_idle()
            if self.early:
                self.early.drop_all()
        return session

    @contextlib.contextmanager
    def _session(self, connect: Connect, conn_id: str) -> Iterator[PinnedSession]:
        session = self._take_idle(connect) or self._connect(connect, conn_id)
        with self._held(connect), self._keeping(session, connect):
            yield session

    @contextlib.contextmanager
    def own_warehouse(self) -> Iterator[PinnedSession]:
        with super().own_warehouse() as session, self._held(connect_warehouse):
            yield session

    @contextlib.contextmanager
    def _held(self, connect: Connect) -> Iterator[None]:
        """Within the block, this thread has a session: the steps of others may wait for it."""
        me = threading.get_ident()
        self._holders[connect].append(me)
        try:
            yield
        finally:
            self._holders[connect].remove(me)

    def _is_awaited(self, connect: Connect) -> bool:
        me = threading.get_ident()
        return any(holder != me for holder in list(self._holders[connect]))

    @contextlib.contextmanager
    def _keeping(self, session: PinnedSession, connect: Connect) -> Iterator[None]:
        """Keep the session after the block, if it is fit for another step; else close it."""
        try:
            with _named(session):
                yield
        except BaseException:
            session.close()
            raise
        # One that a step has left inside a transaction is not fit for the next step.
        if session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._idle[connect].append(session)
        else:
            session.close()

    def _pop_idle(self, connect: Connect) -> PinnedSession | None:
        # Asked for, not looked for: another thread may take the last one in between.
        with contextlib.suppress(IndexError):
            return self._idle[connect].pop()
        return None

    def _take_idle(self, connect: Connect) -> PinnedSession | None:
        """A kept session that still works; None where there is none."""
        while session := self._pop_idle(connect):
            try:
                session.begin_step()
            except psycopg.Error:
                _log.debug("a kept session is lost, trying another")
                session.close()
            else:
                return session
        return None


class IdleSession:
    """A session that is idle for hours perhaps, while rows are read elsewhere; a context manager. A
    setting of the role (idle_session_timeout) or a firewall may end it: then another is opened."""

    def __init__(self, connect: Open):
        self._connect = connect
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.__enter__()
        self.session = self._stack.enter_context(self._connect())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def use(self, work: Callable[[PinnedSession], Result]) -> Result:
        """The result of `work`, which is done again in another session where this one is lost. So
        it must be a single statement or transaction that may be repeated."""
        try:
            return work(self.session)
        except psycopg.OperationalError:
            # The step's own time limit shuts a session, too.
            if not self.session.broken or remaining() <= 0:
                raise
        _log.info("a session was ended while it was idle; opening another")
        self.session = self._stack.enter_context(self._connect())
        return work(self.session)
