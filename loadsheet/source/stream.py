"""The rows of a SELECT as a COPY stream; large tables are read in page ranges over several
sessions.

psycopg hands over one row at a time, in Python: 0.6 s of CPU per million rows, joining and
compressing included. asyncpg collects what has arrived in C: 0.25 s, and other threads run
meanwhile (docs/performance.md). It needs a session of its own, which takes over the snapshot of the
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import psycopg
from psycopg.abc import Buffer

from loadsheet.deadline import remaining, watch
from loadsheet.postgres import NETWORK, PINNED, SOURCE_SETTINGS, Session
from loadsheet.source.table import SourceTable
from loadsheet.sql.copying import WireFormat, copy_out

# A further session costs 10 ms here; so does reading this many rows without one.
MANY_ROWS = 20_000
_BLOCK_BYTES = 64 << 10
# What both drivers understand alike; where a connection uses more of libpq than this, the one
# session does it all.
_TLS = ("sslmode", "sslcert", "sslkey", "sslrootcert", "sslpassword")
_SHARED = {
    *(
        "host",
        "hostaddr",
        "port",
        "user",
        "dbname",
        "password",
        "application_name",
        "client_encoding",
        "options",
    ),
    *(
        "connect_timeout",
        "tcp_user_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
    ),
    *("keepalives_count", "sslcertmode", *_TLS),
}
# Waiting for the table behind a session that waits for us would never end: better an error that
# a retry mends.
_SETTINGS = {**PINNED, **SOURCE_SETTINGS, "lock_timeout": "10s"}


@dataclass(frozen=True)
class Job:
    """One SELECT; `take` is given its rows, block by block, and `end` is called when there are no
    more."""

    select: str
    take: Callable[[bytes], object]
    end: Callable[[], object] = lambda: None


def is_many(session: Session, select: str) -> bool:
    """Whether the server expects so many rows that further sessions pay."""
    row = session.execute(f"EXPLAIN (FORMAT JSON) {select}").fetchone()
    return bool(row and row[0][0]["Plan"]["Plan Rows"] >= MANY_ROWS)


def copy(session: Session, job: Job, wire: WireFormat) -> int:
    """Read the rows in this session; their number by COPY's completion tag, for the end of a stream
    proves nothing.

    Raises psycopg errors, and what `take` raises.
    """
    with session.cursor() as cursor:
        # Closed at once when storing fails: a ROLLBACK sent while rows still arrive waits for ever.
        with contextlib.closing(_blocks(cursor, copy_out(job.select, wire))) as blocks:
            for block in blocks:
                job.take(block)
        job.end()
        return cursor.rowcount


def _blocks(cursor: psycopg.Cursor[Any], statement: str) -> Generator[bytes, None, None]:
    """The rows as COPY sends them, joined into blocks of about `_BLOCK_BYTES`."""
    rows: list[Buffer] = []
    size = 0
    with cursor.copy(statement.encode()) as copied:
        for row in copied:
            rows.append(row)
            size += len(row)
            if size >= _BLOCK_BYTES:
                yield b"".join(rows)
                rows = []
                size = 0
        if rows:
            yield b"".join(rows)


def copy_apart(
    session: Session, jobs: Sequence[Job], wire: WireFormat, readers: int
) -> list[int] | None:
    """Read all jobs in `readers` further sessions, each in a thread of its own, in the snapshot of
    `session`.

    Returns the rows of each job as `copy` does; None when no further session can be opened: nothing
    was taken then.
    `take` is called from those threads, for one job never from two at once. Raises as `copy` does.
    """
    if not set(session.info.get_parameters()) <= _SHARED:
        return None
    row = session.execute("SELECT pg_export_snapshot()").fetchone()
    assert row
    reading = _Reading(session, row[0], jobs, wire)
    with ThreadPoolExecutor(readers, thread_name_prefix="loadsheet-read") as pool:
        futures = [
            pool.submit(copy_context().run, asyncio.run, reading.read()) for _ in range(readers)
        ]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            reading.stop()
            raise
    return reading.counts if reading.is_done else None


class _Reading:
    """The jobs that are left, and the sessions that share them."""

    def __init__(self, session: Session, snapshot: str, jobs: Sequence[Job], wire: WireFormat):
        self._session, self._snapshot, self._wire = session, snapshot, wire
        self._left = deque(enumerate(jobs))
        self._ends: list[Callable[[], object]] = []
        self.counts = [-1] * len(jobs)

    @property
    def is_done(self) -> bool:
        """Whether every job was read to its end."""
        return -1 not in self.counts

    def stop(self) -> None:
        """End all sessions; called from another thread than theirs."""
        self._left.clear()
        for end in self._ends:
            with contextlib.suppress(RuntimeError):  # its loop has ended already
                end()

    async def read(self) -> None:
        """Take job after job in one further session; none when it cannot be had."""
        import asyncpg

        try:
            connection = await _connect(self._session)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return
        loop = asyncio.get_running_loop()
        self._ends.append(lambda: loop.call_soon_threadsafe(connection.terminate))
        try:
            watch(self._ends[-1])
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await connection.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot}'")
            while self._left:
                place, job = self._left.popleft()
                self.counts[place] = await _copied(connection, job, self._wire)
        except asyncpg.PostgresError as error:
            raise psycopg.errors.lookup(error.sqlstate or "08006")(error.args[0]) from error
        except asyncpg.InterfaceError as error:
            raise psycopg.OperationalError(str(error)) from error
        finally:
            connection.terminate()


async def _copied(connection: Any, job: Job, wire: WireFormat) -> int:
    async def take(block: bytes) -> None:
        job.take(block)

    output: Callable[[bytes], Awaitable[None]] = take
    tag = await connection.copy_from_query(job.select, output=output, format=wire)
    job.end()
    return int(tag.split()[1])


async def _connect(session: Session) -> Any:
    """A session like `session`, by asyncpg: same server, login, TLS and settings."""
    import asyncpg

    options = session.info.get_parameters()
    dsn = "postgresql://?" + urlencode({name: options[name] for name in _TLS if name in options})
    connection = await asyncpg.connect(
        dsn,
        host=session.info.host,
        port=session.info.port,
        user=session.info.user,
        password=session.info.password,
        database=session.info.dbname,
        timeout=min(float(NETWORK["connect_timeout"]), max(remaining(), 1.0)),
        statement_cache_size=0,
        server_settings=_startup(options),
        connection_class=_kept_alive(),
    )
    pins = ", ".join(
        f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items()
    )
    await connection.execute(f"SELECT {pins}")
    return connection


def _startup(options: Mapping[str, str]) -> dict[str, str]:
    return {name: options[name] for name in ("application_name", "options") if name in options}


def _kept_alive() -> type[Any]:
    import asyncpg

    class KeptAlive(asyncpg.Connection):  # type: ignore[misc]  # untyped
        """Notices a server that is gone as soon as psycopg's sessions do."""

        def __init__(self, protocol: Any, transport: asyncio.Transport, *more: Any):
            super().__init__(protocol, transport, *more)
            line = transport.get_extra_info("socket")
            if line is not None and line.family != socket.AF_UNIX:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, NETWORK["keepalives_idle"])
                line.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, NETWORK["keepalives_interval"]
                )
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, NETWORK["keepalives_count"])

    return KeptAlive


# Smaller ones are read in a fraction of a second.
_LEAST_BYTES = 32 << 20
# A reader that is done takes another range, so that no one has half of the table left when the
# others have ended.
_PER_READER = 4
# Before PostgreSQL 14 a range of ctids was found by reading the whole table.
_RANGE_SCANS_SINCE = 140000
_PAGES = """
SELECT pg_relation_size(c.oid) / current_setting('block_size')::int,
    current_setting('block_size')::int
FROM pg_class c JOIN pg_am ON pg_am.oid = relam
WHERE c.oid = %s AND relkind = 'r' AND amname = 'heap' AND NOT relhassubclass
"""


def split(session: Session, source: SourceTable, readers: int) -> list[str]:
    """Conditions on `source`, each of which holds for the rows of one range of pages, in their
    order.

    A single condition that holds for all rows where the table is small, is no plain table, or one
    reader must do.
    """
    if readers < 2 or session.info.server_version < _RANGE_SCANS_SINCE:
        return ["TRUE"]
    pages, page_bytes = session.execute(_PAGES, (source.oid,)).fetchone() or (0, 1)
    count = min(pages * page_bytes // _LEAST_BYTES, readers * _PER_READER)
    if count < 2:
        return ["TRUE"]
    starts = [pages * n // count for n in range(1, count)]
    # The last is open: rows may have been added beyond the pages that were counted, before the
    # snapshot.
    lows = ["", *(f"ctid >= '({start},0)'" for start in starts)]
    highs = [*(f"ctid < '({start},0)'" for start in starts), ""]
    return [" AND ".join(filter(None, pair)) for pair in zip(lows, highs, strict=True)]
