"""Reads the rows of a SELECT as a COPY stream; a large table in page ranges, over several sessions.

With psycopg, each row is taken in Python: 0.6 s of CPU per million rows, joining included. asyncpg
collects what has arrived in C: 0.25 s, and other threads run meanwhile (docs/performance.md). It
needs a session of its own, which takes over the snapshot of the first:

    session (psycopg, holds the snapshot)
      copy           few rows: one job after the other, in this session
      copy_parallel  many rows: `readers` threads, each with a session of its own (asyncpg);
                     each takes the next job from a shared queue until none is left

Several processes may read the jobs of one list in one snapshot: by its `Claim`, each job is read by
the session that gets its lock first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.generators import fetch_many
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn
from psycopg.waiting import Wait

from loadsheet.answers import plan
from loadsheet.deadline import remaining, watch
from loadsheet.libpq import set_parameters
from loadsheet.pinned import PINNED, PinnedSession, begin, begin_with
from loadsheet.postgres import (
    NETWORK,
    SOURCE_SETTINGS,
    Session,
    extractor_mark,
    newer_settings,
)
from loadsheet.source.table import SourceTable
from loadsheet.sql.copying import WireFormat, copy_out

# Of as many rows, another session saves the client 15 ms of CPU, and costs client and server as
# much. The first one costs 20 ms more, because asyncpg has to be imported.
MANY_ROWS = 50_000
_BLOCK_BYTES = 64 << 10
_TLS_OPTIONS = ("sslmode", "sslcert", "sslkey", "sslrootcert", "sslpassword")
# The options of libpq that both drivers treat alike. Where a connection, a service file or the
# environment sets others, the one psycopg session reads everything.
_COMMON_OPTIONS = {
    *("host", "hostaddr", "port", "user", "dbname", "password", "passfile", "options"),
    *("application_name", "client_encoding", "connect_timeout", "tcp_user_timeout"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    # Which of several hosts it is has been decided by the first session.
    *("target_session_attrs", *_TLS_OPTIONS),
}
# A deadlock that PostgreSQL cannot see: this session waits for a table's lock behind one that waits
# for us. After 10 s it is an error, and a retry helps.
_SETTINGS = {**PINNED, **SOURCE_SETTINGS, "lock_timeout": "10s"}

# Smaller ranges are read in a fraction of a second.
_LEAST_BYTES = 32 << 20
# A reader takes another range when it has finished one, so several small ranges each keep all
# readers busy until the end.
_RANGES_PER_READER = 4
# Before PostgreSQL 14 a range of ctids was found by reading the whole table.
RANGE_SCANS_SINCE = 140000
_PAGES = """
SELECT pg_relation_size(c.oid) / current_setting('block_size')::int,
    current_setting('block_size')::int
FROM pg_class c JOIN pg_am ON pg_am.oid = relam
WHERE c.oid = %s AND relkind = 'r' AND amname = 'heap' AND NOT relhassubclass
"""

_log = logging.getLogger(__name__)


def _do_nothing() -> None:
    pass


@dataclass(frozen=True)
class Claim:
    """How sessions of several processes agree on which of them reads a job.

    `lock` is an SQL expression, evaluated in the session that would read it: TRUE gives it the job,
    for FALSE another has it, NULL ends all reading (`Abandoned`). `is_open` is asked then, because
    the one that had the lock before may have read it. `done` is called with the number of rows when
    `end` has returned.
    """

    lock: str
    is_open: Callable[[], bool]
    done: Callable[[int], object]


@dataclass(frozen=True)
class Job:
    """One SELECT. `take` is called with its rows, block by block, and `end` when there are no
    more."""

    select: str
    take: Callable[[bytes], object]
    end: Callable[[], object] = _do_nothing
    claim: Claim | None = None
    """None: no other process knows of it."""


class Abandoned(Exception):
    """The process to whose jobs this one has come is no longer there."""


def is_many(session: Session, select: str) -> bool:
    """Whether the server expects so many rows that reading them in other sessions pays."""
    row = session.execute(f"EXPLAIN (FORMAT JSON) {select}").fetchone()
    return bool(plan(session, row)["Plan Rows"] >= MANY_ROWS)


def has_row(session: Session, select: str) -> bool:
    """Whether the SELECT has a row; reads no further than the first.

    By COPY, which is planned for all rows, as the extraction is. For `LIMIT 1` the planner may read
    a whole table in the hope of an early row, and there is none where nothing is new.
    """
    statement = copy_out(select, "csv")
    # Closed at once: it would read all other rows first.
    with session.cursor() as cursor, contextlib.closing(_copy_rows(cursor, statement)) as rows:
        return next(rows, None) is not None


def page_ranges(session: Session, source: SourceTable, readers: int) -> list[str]:
    """Conditions that divide the rows of `source` into ranges of pages, in their order.

    A single condition that all rows meet if the table is small or not a plain table, or if there is
    only one reader.
    """
    if readers < 2 or session.info.server_version < RANGE_SCANS_SINCE:
        return ["TRUE"]
    row = session.execute(_PAGES, (source.oid,)).fetchone()
    if row is None:
        return ["TRUE"]
    pages, page_bytes = row
    return cut(pages, min(pages * page_bytes // _LEAST_BYTES, readers * _RANGES_PER_READER))


def cut(pages: int, count: int) -> list[str]:
    """Conditions that divide the rows of a table with so many pages into `count` ranges, in their
    order; a single one that all rows meet where `count` is less than 2."""
    if count < 2:
        return ["TRUE"]
    starts = [pages * n // count for n in range(1, count)]
    conditions = [f"ctid < '({starts[0]},0)'"]
    for low, high in itertools.pairwise(starts):
        conditions.append(f"ctid >= '({low},0)' AND ctid < '({high},0)'")
    # The last range is open: pages may have been added between counting them and the snapshot.
    conditions.append(f"ctid >= '({starts[-1]},0)'")
    return conditions


def copy(session: Session, job: Job, wire: WireFormat) -> int:
    """Read the rows in this session and return their number.

    The number comes from COPY's completion tag: the end of the stream alone does not prove that all
    rows have arrived. Raises psycopg errors, and what `take` and `end` raise.
    """
    claim = job.claim
    if claim:
        row = session.execute(f"SELECT {claim.lock}").fetchone()
        if not _is_ours(claim, row and row[0]):
            return 0
    with session.cursor() as cursor:
        stream = _Stream(cursor, copy_out(job.select, wire))
        # Closed at once when storing fails: a ROLLBACK sent while rows still arrive never returns.
        with contextlib.closing(stream.blocks()) as blocks:
            for block in blocks:
                job.take(block)
        job.end()
        if claim:
            claim.done(stream.rows)
        return stream.rows


def _is_ours(claim: Claim, answer: bool | None) -> bool:
    """Whether the session that got this answer to `claim.lock` must read the job."""
    if answer is None:
        raise Abandoned
    return answer and claim.is_open()


class _Stream:
    """The rows of a COPY in blocks of about `_BLOCK_BYTES`, and their number.

    libpq hands over one row at a time. psycopg waits for each of them, in six calls of Python: of
    57,000 rows that took 0.2 s of CPU. Here all rows that have arrived are taken in one loop.
    """

    def __init__(self, cursor: psycopg.Cursor[Any], statement: str):
        self._cursor = cursor
        self._statement = statement
        self.rows = 0
        """As the server has counted them; known at the end of the blocks."""

    def blocks(self) -> Generator[bytes, None, None]:
        """The rows. Closing it early cancels the statement."""
        session = self._cursor.connection
        with self._cursor.copy(self._statement.encode()):
            is_over = False
            while not is_over:
                rows, is_over = session.wait(self._take(session.pgconn))
                if rows:
                    yield b"".join(rows)

    def _take(self, pgconn: PGconn) -> PQGen[tuple[list[Buffer], bool]]:
        """The next rows, and whether they are the last. A generator that psycopg runs (`wait`): it
        yields where it would have to wait for the server."""
        rows: list[Buffer] = []
        size = 0
        take_row, keep = pgconn.get_copy_data, rows.append
        while size < _BLOCK_BYTES:
            # Without waiting: the size of a row, 0 where none has arrived, -1 at the end.
            count, row = take_row(1)
            if count > 0:
                keep(row)
                size += count
            elif count == 0:
                while not (yield Wait.R):
                    pass
                pgconn.consume_input()
            else:
                result = (yield from fetch_many(pgconn))[-1]
                if result.status != ExecStatus.COMMAND_OK:
                    raise psycopg.errors.error_from_result(result)
                self.rows = result.command_tuples or 0
                return rows, True
        return rows, False


def _copy_rows(cursor: psycopg.Cursor[Any], statement: str) -> Generator[Buffer, None, None]:
    """The rows as COPY sends them, one by one. Closing it early cancels the statement."""
    with cursor.copy(statement.encode()) as stream:
        yield from stream


def export_snapshot(session: Session) -> str:
    """The name under which other sessions can read in the snapshot of `session`, as long as its
    transaction is open."""
    row = session.execute("SELECT pg_export_snapshot()").fetchone()
    assert row
    return str(row[0])


def copy_parallel(
    session: Session,
    jobs: Sequence[Job],
    wire: WireFormat,
    readers: int,
    snapshot: str = "",
) -> list[int] | None:
    """Read all jobs in `readers` other sessions, each in a thread of its own, in the snapshot of
    `session`, or in the exported one with the name `snapshot`.

    Returns the number of rows of each job, as `copy` does, 0 for those that another process has
    claimed; None when no other session can be opened, in which case no row was taken. `take`, `end`
    and those of the claim are called from those threads, for one job never from two at once. Raises
    as `copy` does, and Abandoned.
    """
    if not _are_common(set_parameters(session.pgconn.info)):
        return None
    group = _Readers(session, snapshot or export_snapshot(session), jobs, wire)
    with ThreadPoolExecutor(readers, thread_name_prefix="loadsheet-read") as pool:
        # Each thread runs in a copy of this context, which knows the step's deadline.
        futures = [
            pool.submit(copy_context().run, asyncio.run, group.read_jobs()) for _ in range(readers)
        ]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            group.stop()
            raise
    return group.counts if group.is_done else None


def _are_common(options: Mapping[str, str]) -> bool:
    """Whether asyncpg can do as libpq does with these options."""
    others = set(options) - _COMMON_OPTIONS
    if options.get("sslcertmode") == "allow":
        others.discard("sslcertmode")  # libpq's default, which it shows once it is connected
    # To asyncpg, `system` is a file.
    if others or options.get("sslrootcert") == "system":
        return False
    # psycopg sets the address that it has found for the name. Another one is a user's.
    host, port, address = (options.get(name, "") for name in ("host", "port", "hostaddr"))
    if not host or not address or host.startswith("/"):
        return True
    try:
        found = socket.getaddrinfo(host, port or None, proto=socket.IPPROTO_TCP)
    except OSError:
        return False
    return address in [place[0] for *_, place in found]


class _Readers:
    """The sessions of one `copy_parallel`, and the queue of jobs that they share."""

    def __init__(self, session: Session, snapshot: str, jobs: Sequence[Job], wire: WireFormat):
        self._session = session
        self._snapshot = snapshot
        self._wire = wire
        self._queue = deque(enumerate(jobs))
        self._terminations: list[Callable[[], object]] = []
        self.counts = [-1] * len(jobs)

    @property
    def is_done(self) -> bool:
        """Whether every job was read to its end."""
        return -1 not in self.counts

    def stop(self) -> None:
        """End all sessions; called from another thread than theirs."""
        self._queue.clear()
        for terminate in self._terminations:
            with contextlib.suppress(RuntimeError):  # its event loop has ended already
                terminate()

    def _named(self, error: psycopg.Error) -> psycopg.Error:
        """The error, with the source's name."""
        if isinstance(self._session, PinnedSession):
            self._session.name(error)
        return error

    async def read_jobs(self) -> None:
        """Read job after job in one new session. Does nothing when it cannot be opened: the other
        readers take the jobs."""
        import asyncpg

        try:
            connection = await _open(self._session, self._snapshot)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            _log.info("no further session on the source: %s", type(error).__name__)
            return
        loop = asyncio.get_running_loop()

        def terminate() -> None:
            loop.call_soon_threadsafe(connection.terminate)

        self._terminations.append(terminate)
        try:
            watch(terminate)
            while self._queue:
                number, job = self._queue.popleft()
                self.counts[number] = await _copy_job(connection, job, self._wire)
            # A pooler keeps the server's session only if no transaction is open in it.
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as error:
            # Callers know psycopg's errors only. 08006 is connection_failure.
            raise self._named(
                psycopg.errors.lookup(error.sqlstate or "08006")(error.args[0])
            ) from error
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # The latter where the server has ended the session between two statements, and its
            # message was read before the end of the connection.
            raise self._named(psycopg.OperationalError(str(error))) from error
        finally:
            connection.terminate()


async def _copy_job(connection: Any, job: Job, wire: WireFormat) -> int:
    claim = job.claim
    if claim and not _is_ours(claim, await connection.fetchval(f"SELECT {claim.lock}")):
        return 0

    async def take(block: bytes) -> None:
        job.take(block)

    _log.debug("%s", job.select)
    output: Callable[[bytes], Awaitable[None]] = take
    tag = await connection.copy_from_query(job.select, output=output, format=wire)
    job.end()
    rows = int(tag.split()[1])
    if claim:
        claim.done(rows)
    return rows


async def _open(session: Session, snapshot: str) -> Any:
    """A session like `session`, by asyncpg, in a transaction with the same settings and snapshot.

    A pooler lets it wait when it has no further session of the server to give: it waits no longer
    than connecting may take.
    """
    connection = await _connect(session)
    own = f"{begin('REPEATABLE READ', read_only=True)}; SET TRANSACTION SNAPSHOT '{snapshot}'"
    try:
        settings = {**_SETTINGS, **newer_settings(session.info.server_version)}
        message = f"{begin_with(settings, own)}; SELECT {extractor_mark()}"
        await connection.execute(message, timeout=_patience())
    except BaseException:
        connection.terminate()
        raise
    return connection


def _patience() -> float:
    """Seconds until a session must be open."""
    return min(float(NETWORK["connect_timeout"]), max(remaining(), 1.0))


async def _connect(session: Session) -> Any:
    """A session by asyncpg: the same server, login and TLS as `session`."""
    import asyncpg

    options = set_parameters(session.pgconn.info)
    tls = {name: options[name] for name in _TLS_OPTIONS if name in options}
    return await asyncpg.connect(
        "postgresql://?" + urlencode(tls),
        host=session.info.host,
        port=session.info.port,
        user=session.info.user,
        password=session.info.password,
        database=session.info.dbname,
        timeout=_patience(),
        statement_cache_size=0,
        server_settings=_startup_settings(options),
        connection_class=_connection_class(),
    )


def _startup_settings(options: Mapping[str, str]) -> dict[str, str]:
    return {name: options[name] for name in ("application_name", "options") if name in options}


def _connection_class() -> type[Any]:
    """A class of asyncpg connections that notice a dead server as soon as psycopg's sessions do. In
    a function, because only large tables need asyncpg."""
    import asyncpg

    class KeptAlive(asyncpg.Connection):  # type: ignore[misc]  # untyped
        """Sets the keepalives of NETWORK, which asyncpg has no options for."""

        def __init__(self, protocol: Any, transport: asyncio.Transport, *more: Any):
            super().__init__(protocol, transport, *more)
            line = transport.get_extra_info("socket")
            if line is None or line.family == socket.AF_UNIX:
                return
            tcp_options = {
                socket.TCP_KEEPIDLE: NETWORK["keepalives_idle"],
                socket.TCP_KEEPINTVL: NETWORK["keepalives_interval"],
                socket.TCP_KEEPCNT: NETWORK["keepalives_count"],
            }
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in tcp_options.items():
                line.setsockopt(socket.IPPROTO_TCP, option, value)

    return KeptAlive
