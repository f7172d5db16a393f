"""An embedded PostgreSQL server."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Literal, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql

from demo.servers.process import LOOPBACK, Supervised, free_port, on_free_ports
from loadsheet.sqltest import embedded
from loadsheet.sqltest.process import Process, ServerFailed

_STOP = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))  # PostgreSQL's fast, then immediate shutdown
# Without a last checkpoint, which took 40 s of writing data that nobody will read again.
_STOP_THROWAWAY = ((signal.SIGQUIT, 5.0),)
# An extraction waits until the source has flushed its WAL. With synchronous_commit = off that took
# up to three rounds of 200 ms, a quarter of the time of many tests.
_FAST = embedded.FAST | {"wal_writer_delay": "10ms"}
_FAST_LOGIN_SINCE = 16
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "max_wal_size": "2GB",
    "timezone": "UTC",
}


class PostgresServer(embedded.EmbeddedServer):
    """PostgreSQL on 127.0.0.1 with a random port and password; a context manager.

    `data_dir` must not exist yet or be empty. If it is None, or if the server's user cannot reach
    it (root becomes nobody), a folder `within` (default: the system's temporary folder) is used and
    removed at the end.

    `durable=False` trades crash safety of the data for speed. `settings` adds or overrides server
    settings.

    `copy_of` is a running server of the same version. Its files are copied with pg_basebackup, user
    and password too. With `standby` the copy stays in recovery and follows the original; if
    `standby` is "silent", it does not follow.
    """

    prefix = "loadsheet-pg-"

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        version: int = 16,
        durable: bool = False,
        settings: dict[str, str] | None = None,
        copy_of: PostgresServer | None = None,
        standby: bool | Literal["silent"] = False,
        within: Path | None = None,
    ):
        safety = {} if durable else _FAST
        super().__init__(_SETTINGS | safety | (settings or {}), version=version, within=within)
        self.host, self.port = LOOPBACK, 0
        self._wanted = data_dir
        self._copy_of = copy_of
        self._standby = standby
        self._stop_signals = _STOP if durable else _STOP_THROWAWAY
        is_fast = not durable and version >= _FAST_LOGIN_SINCE
        self._login = embedded.FAST_LOGIN if is_fast else embedded.LOGIN
        self._keeps_session = False
        self._session: psycopg.Connection | None = None

    def _place(self, scratch: Path) -> Path:
        home = self._wanted or scratch / "cluster"
        home.mkdir(parents=True, exist_ok=True)
        if self._drop_to and not embedded.reachable(home):
            home = scratch / "cluster"
            home.mkdir()
        embedded.own(home, self._drop_to)
        return home

    def _create(self) -> None:
        if self._copy_of:
            self._copy(self._copy_of)
            return
        self._initdb(*self._login)

    def _copy(self, other: PostgresServer) -> None:
        self.password = other.password
        server = ["-h", other.host, "-p", str(other.port), "-U", other.user]
        options = ["-c", "fast", "--no-sync", "-X", "stream"]
        if self._standby:
            options.append("-R")
        self._run(
            "pg_basebackup",
            "-D",
            str(self._data),
            *server,
            *options,
            more={"PGPASSWORD": other.password},
        )
        if self._standby:
            # 5 s when left alone
            self._settings["wal_retrieve_retry_interval"] = "100ms"
        if self._standby == "silent":
            self._settings["primary_conninfo"] = ""

    def _serve(self) -> None:
        on_free_ports(self._serve_once)

    def _serve_once(self) -> None:
        self.port = free_port()
        try:
            self._launch(f"postgres-{self.port}.log", {"port": str(self.port)})
        except ServerFailed:
            assert self._process is not None
            self._process.stop()
            raise

    def _watched(self, command: list[str], log: Path) -> Process:
        return Supervised(
            command,
            log,
            env=embedded.server_environment(),
            cwd=self._home,
            user=self._drop_to,
            signals=self._stop_signals,
            remove=self._scratch,
        )

    def _connect(self) -> None:
        psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()

    def is_in(self, folder: Path) -> bool:
        """Whether the server's files lie below `folder`."""
        return self._home.is_relative_to(folder)

    @property
    def pid(self) -> int:
        """The server's first process (Linux only)."""
        assert isinstance(self._process, Supervised)
        return self._process.pids[0]

    def dsn(self, database: str) -> str:
        """A connection URI for `database`."""
        login = f"{self.user}:{self.password}"
        return f"postgresql://{login}@{self.host}:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str) -> str:
        """Create an empty database and return its connection URI."""
        statement: LiteralString = "CREATE DATABASE {} TEMPLATE template0"
        if self.is_in(embedded.MEMORY):
            # 10 instead of 46 ms of a core to create it and drop it again; on a disk it would wait
            # for a checkpoint
            statement += " STRATEGY file_copy"
        self._administer(statement, name)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop the database, ending whatever still uses it."""
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def keep_session(self) -> None:
        """Create and drop all databases in one session: a new one takes 6 ms of a core."""
        self._keeps_session = True

    def stop(self) -> None:
        """Stop the server and remove its temporary files. A second call does nothing."""
        self._end_session()
        super().stop()

    def _administer(self, statement: LiteralString, name: str) -> None:
        session = self._administrator()
        try:
            session.execute(sql.SQL(statement).format(sql.Identifier(name)))
        finally:
            if not self._keeps_session:
                self._end_session()

    def _administrator(self) -> psycopg.Connection:
        """The session in `postgres`; another one if the server has ended it."""
        if self._session:
            try:
                self._session.execute("SELECT 1")
                return self._session
            except psycopg.OperationalError:
                self._end_session()
        self._session = psycopg.connect(self.dsn("postgres"), autocommit=True)
        return self._session

    def _end_session(self) -> None:
        if self._session:
            self._session.close()
            self._session = None
