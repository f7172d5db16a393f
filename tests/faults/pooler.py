"""Transaction poolers: one of our own, which is harsher than PgBouncer, and PgBouncer itself where
it is installed."""

from __future__ import annotations

import contextlib
import functools
import queue
import select
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from demo.servers.process import LOOPBACK, Supervised, free_port, listens
from loadsheet.sqltest.embedded import own, scratch_folder, server_user
from tests.granted import PASSWORD

SESSIONS = 8
"""The server's sessions that a pool has for each user of a database."""
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
# What PgBouncer takes when its ignore_startup_parameters is not set.
_STARTUP = {
    *("user", "database", "application_name", "client_encoding"),
    *("DateStyle", "TimeZone", "standard_conforming_strings"),
}
_REPORTED = (
    *("server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle"),
    *("TimeZone", "integer_datetimes", "standard_conforming_strings"),
)
PGBOUNCER = shutil.which("pgbouncer", path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")


def through(pooler: int, dsn: str) -> str:
    """`dsn`, a database's URI, by way of the pooler on port `pooler`."""
    url = urlsplit(dsn)
    return f"postgresql://{url.username}:{url.password}@{LOOPBACK}:{pooler}{url.path}"


@dataclass(eq=False)
class _Backend:
    """One session of the server."""

    session: psycopg.Connection
    line: socket.socket

    def close(self) -> None:
        self.line.close()
        self.session.close()


class Pooler:
    """Gives each transaction the session of the server that was used least recently, and takes it
    back as it is: nothing is reset, no client's settings are remembered. A context manager."""

    def __init__(self, server: str, sessions: int = SESSIONS):
        self._server = urlsplit(server)  # the superuser's URI
        self._sessions = sessions
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._pools: dict[tuple[str, str], queue.SimpleQueue[_Backend]] = {}
        self._reported: dict[tuple[str, str], dict[str, str]] = {}
        self._creating = threading.Lock()
        self._current: dict[int, _Backend] = {}
        self._clients: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Pooler:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        for pool in self._pools.values():
            while not pool.empty():
                pool.get().close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.add(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            asked = self._greet(client)
            if asked:
                new = functools.partial(self._new, *asked)
                _Client(client, self._pool(*asked), self._current, new).carry()
        self._clients.discard(client)

    def _greet(self, client: socket.socket) -> tuple[str, str] | None:
        """Let the client in without a password; returns its user and the database it asks for."""
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            body = _exactly(client, length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code in (_SSL, _GSS):
                client.sendall(b"N")
                continue
            if code == _CANCEL:
                backend = self._current.get(struct.unpack("!i", body[4:8])[0])
                if backend:
                    backend.session.cancel()
                return None
            break
        words = body[4:].decode().split("\0")
        given = dict(zip(words[::2], words[1::2], strict=False))
        for name in given:
            if name and name not in _STARTUP:
                text = f"unsupported startup parameter: {name}"
                _send(client, b"E", f"SFATAL\0C08P01\0M{text}\0\0".encode())
                return None
        _send(client, b"R", struct.pack("!i", 0))
        asked = given["user"], given["database"]
        self._pool(*asked)
        for name, value in self._reported[asked].items():
            _send(client, b"S", f"{name}\0{value}\0".encode())
        _send(client, b"K", struct.pack("!ii", client.fileno(), 0))
        _send(client, b"Z", b"I")
        return asked

    def _pool(self, user: str, database: str) -> queue.SimpleQueue[_Backend]:
        with self._creating:
            if (user, database) not in self._pools:
                pool: queue.SimpleQueue[_Backend] = queue.SimpleQueue()
                for _ in range(self._sessions):
                    backend = self._new(user, database)
                    pool.put(backend)
                status = backend.session.info.parameter_status
                self._reported[user, database] = {name: status(name) or "" for name in _REPORTED}
                self._pools[user, database] = pool
            return self._pools[user, database]

    def _new(self, user: str, database: str) -> _Backend:
        server = self._server
        session = psycopg.connect(
            host=server.hostname,
            port=server.port,
            dbname=database,
            user=user,
            password=server.password if user == server.username else PASSWORD,
            autocommit=True,
            client_encoding="UTF8",
            application_name="pooler",
        )
        line = socket.fromfd(session.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM)
        line.setblocking(True)
        return _Backend(session, line)


@dataclass
class _Client:
    """Carries messages between one client and the sessions of a pool until the client leaves."""

    line: socket.socket
    pool: queue.SimpleQueue[_Backend]
    current: dict[int, _Backend]
    new: Callable[[], _Backend]
    """Opens a session in the place of one that was closed."""
    backend: _Backend | None = None
    unanswered: int = 0
    """Messages that the server answers with ReadyForQuery."""
    from_client: bytes = b""
    from_server: bytes = b""
    status: bytes = b"I"
    unsynced: bool = False

    def carry(self) -> None:
        """Return when the client has left."""
        key = self.line.fileno()
        try:
            while self._carry(key):
                pass
        finally:
            self.current.pop(key, None)
            if self.backend:  # it left in the middle of a transaction
                self.backend.close()
                self.pool.put(self.new())

    def _carry(self, key: int) -> bool:
        lines = [self.line]
        if self.backend:
            lines.append(self.backend.line)
        for line in select.select(lines, [], [])[0]:
            data = line.recv(1 << 16)
            if not data:
                return False
            if line is self.line:
                if not self._ask(data, key):
                    return False
            elif not self._answer(data, key):
                break
        return True

    def _ask(self, data: bytes, key: int) -> bool:
        kinds, messages, self.from_client = _split(self.from_client + data)
        if b"X" in kinds:
            return False
        if not kinds:
            return True
        if self.backend is None:
            self.backend = self.current[key] = self._take()
        for kind in kinds:
            if kind in (b"Q", b"S", b"F"):
                self.unanswered += 1
                self.unsynced = False
            elif kind not in (b"d", b"c", b"f", b"H"):  # rows of COPY, and Flush
                self.unsynced = True
        self.backend.line.sendall(messages)
        return True

    def _take(self) -> _Backend:
        """The session used least recently, as soon as one is free. Raises OSError when the client
        does not wait for it."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self.pool.get(timeout=0.05)
            waits = select.select([self.line], [], [], 0)[0]
            if waits and not self.line.recv(1, socket.MSG_PEEK):
                raise OSError("the client left")

    def _answer(self, data: bytes, key: int) -> bool:
        """Whether the session is still the client's."""
        assert self.backend
        rest = self.from_server + data
        while len(rest) >= 5:
            (length,) = struct.unpack("!i", rest[1:5])
            if len(rest) < length + 1:
                break
            if rest[:1] == b"Z":
                self.unanswered -= 1
                self.status = rest[5:6]
            rest = rest[length + 1 :]
        self.from_server = rest
        is_over = self.unanswered == 0 and self.status == b"I" and not self.unsynced
        if is_over and not rest:
            self.current.pop(key, None)
            self.pool.put(self.backend)
            self.backend = None
        # After the session was given back: a client that has its answer may look at it.
        self.line.sendall(data)
        return self.backend is not None


def _split(data: bytes) -> tuple[list[bytes], bytes, bytes]:
    """The kinds of the whole messages in `data`, these messages, and what is left."""
    kinds = []
    at = 0
    while len(data) >= at + 5:
        (length,) = struct.unpack("!i", data[at + 1 : at + 5])
        if len(data) < at + length + 1:
            break
        kinds.append(data[at : at + 1])
        at += length + 1
    return kinds, data[:at], data[at:]


def _exactly(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        some = line.recv(count - len(data))
        if not some:
            raise OSError("the client left")
        data += some
    return data


def _send(line: socket.socket, kind: bytes, body: bytes) -> None:
    line.sendall(kind + struct.pack("!i", len(body) + 4) + body)


_CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {users}
"""
_DEFAULTS = {
    "pool_mode": "transaction",
    "default_pool_size": SESSIONS,
    "server_round_robin": 1,
}


@contextlib.contextmanager
def pgbouncer(logins: Sequence[str], **settings: str | int) -> Iterator[int]:
    """PgBouncer with its defaults, but for pool_mode=transaction and `settings`, in front of the
    server of `logins`, URIs of the users that it knows; its port."""
    with restartable(logins, **settings) as (port, _):
        yield port


@contextlib.contextmanager
def restartable(
    logins: Sequence[str], **settings: str | int
) -> Iterator[tuple[int, Callable[[], None]]]:
    """As `pgbouncer`, and a call that stops it at once and starts it again."""
    assert PGBOUNCER
    urls = [urlsplit(login) for login in logins]
    home = scratch_folder("loadsheet-pgbouncer-")
    port = free_port()
    configuration = home / "pgbouncer.ini"
    users = home / "users.txt"
    users.write_text("".join(f'"{url.username}" "{url.password}"\n' for url in urls))
    configuration.write_text(
        _CONFIGURATION.format(host=urls[0].hostname, port=urls[0].port, users=users, listen=port)
        + "".join(f"{name} = {value}\n" for name, value in {**_DEFAULTS, **settings}.items())
    )
    own(home, server_user())
    for file in (configuration, users):
        own(file, server_user())
    running: list[Supervised] = []

    def start() -> None:
        for process in running:
            process.stop()
        command = [PGBOUNCER or "", str(configuration)]
        process = Supervised(command, home / "log", user=server_user(), cwd=home, remove=Path(home))
        running[:] = [process]
        process.wait_until(lambda: listens(port), "PgBouncer", 30)

    try:
        start()
        yield port, start
    finally:
        for process in running:
            process.stop()
        shutil.rmtree(home, ignore_errors=True)
