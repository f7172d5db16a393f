"""The servers of a pipeline as its steps reach them: a new session for every step (`Servers`), or
sessions that are kept from step to step (`KeptServers`)."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import psycopg

from loadsheet.connections.lookup import Connection, Connections
from loadsheet.postgres import PinnedSession, connect_source, connect_warehouse
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake

_log = logging.getLogger(__name__)
Connect = Callable[[Connection], PinnedSession]


class Servers:
    """A new session for every step, closed with it: what an Airflow task needs, which runs one."""

    def __init__(self, pipeline: Pipeline, connections: Connections):
        self._pipeline = pipeline
        self._connections = connections

    def source(self) -> contextlib.AbstractContextManager[PinnedSession]:
        """A session that reads. Raises ConnectionMissing; psycopg.OperationalError when the server
        cannot be reached."""
        return self._session(connect_source, self._pipeline.source.conn_id)

    def warehouse(self) -> contextlib.AbstractContextManager[PinnedSession]:
        """A session that writes staging and ledger; raises as `source`."""
        return self._session(connect_warehouse, self._pipeline.warehouse.conn_id)

    def own_warehouse(self) -> PinnedSession:
        """A session that is used once: a user's SQL may leave settings, temporary tables or locks
        in it."""
        return connect_warehouse(self._connections(self._pipeline.warehouse.conn_id))

    @cached_property
    def lake(self) -> Lake:
        """The lake's bucket. Raises ConnectionMissing."""
        # A transform's process is spared the S3 client (0.1 s of starting it).
        from loadsheet.lake.store import Lake

        return Lake(self._connections(self._pipeline.lake.conn_id), self._pipeline.lake.bucket)

    def _session(
        self, connect: Connect, conn_id: str
    ) -> contextlib.AbstractContextManager[PinnedSession]:
        return connect(self._connections(conn_id))


class KeptServers(Servers):
    """Later steps use the sessions of earlier ones, because connecting costs 10 ms and more. Close
    it at the end."""

    def __init__(self, pipeline: Pipeline, connections: Connections):
        super().__init__(pipeline, connections)
        self._idle: dict[Connect, list[PinnedSession]] = defaultdict(list)

    def close(self) -> None:
        """Close the sessions that are not in use."""
        for sessions in self._idle.values():
            while sessions:
                sessions.pop().close()

    @contextlib.contextmanager
    def _session(self, connect: Connect, conn_id: str) -> Iterator[PinnedSession]:
        session = self._take_idle(connect) or connect(self._connections(conn_id))
        try:
            yield session
        except BaseException:
            session.close()
            raise
        # One that a step has left inside a transaction is not fit for the next step.
        if session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._idle[connect].append(session)
        else:
            session.close()

    def _take_idle(self, connect: Connect) -> PinnedSession | None:
        """A kept session that still works; None where there is none."""
        while self._idle[connect]:
            session = self._idle[connect].pop()
            try:
                session.begin_step()
            except psycopg.Error:
                _log.debug("a kept session is lost, trying another")
                session.close()
            else:
                return session
        return None
