"""An embedded PostgreSQL server."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Literal, LiteralString, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from demo.servers.process import LOOPBACK, Managed, ServerFailed, Supervised, free_port
from loadsheet.sqltest import embedded
from loadsheet.sqltest.embedded import reachable_install

_STOP = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))  # PostgreSQL's fast, then immediate shutdown
# Without a last checkpoint, which took 40 s of writing data that nobody will read again.
_STOP_THROWAWAY = ((signal.SIGQUIT, 5.0),)
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "max_wal_size": "2GB",
    "dynamic_shared_memory_type": "mmap",  # containers often have a tiny /dev/shm
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer(Managed):
    """PostgreSQL on 127.0.0.1 with a random port and password; a context manager.

    `data_dir` must not exist yet or be empty; where the server's user cannot reach it (root, who
    becomes nobody), or when it is None, a folder `within` (default: the system's temporary folder)
    is used and removed at the end. `durable=False` trades crash safety of the data for speed.
    `settings` adds or overrides server settings. `copy_of` is a running server of the same version
    whose files are taken over (pg_basebackup), user and password too; with `standby` the copy stays
    in recovery and follows it, or, if `standby` is "silent", does not follow.
    """

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
        self.host, self.port = LOOPBACK, 0
        self.user, self.password = "loadsheet", secrets.token_urlsafe(18)
        self._wanted = data_dir
        self._version = version
        self._copy_of = copy_of
        self._standby = standby
        self._settings = _SETTINGS | ({} if durable else _FAST) | (settings or {})
        self._stop_signals = _STOP if durable else _STOP_THROWAWAY
        self._within, self._drop_to = within, embedded.server_user()
        self._scratch: Path | None = None
        self._process: Supervised | None = None

    def start(self) -> Self:
        """Create the cluster and wait until it answers. Raises ServerFailed with the log's end."""
        self._scratch = embedded.scratch_folder("loadsheet-pg-", self._within)
        try:
            self._home = self._place()
            self._bin = reachable_install(self._version, self._scratch) / "bin"
            if self._copy_of:
                self._copy(self._copy_of)
            else:
                self._initialise()
            self._serve()
        except BaseException:
            self.stop()
            raise
        return self

    def _place(self) -> Path:
        """The folder that holds `data` and the log, owned by the server's user."""
        assert self._scratch is not None
        home = self._wanted or self._scratch / "cluster"
        home.mkdir(parents=True, exist_ok=True)
        if self._drop_to and not embedded.reachable(home):
            home = self._scratch / "cluster"
            home.mkdir()
        embedded.own(home, self._drop_to)
        return home

    def _initialise(self) -> None:
        password = self._home / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        embedded.own(password, self._drop_to)
        command = embedded.initdb(self._bin, self._home / "data", self.user)
        command += [f"--pwfile={password}", "-A", "scram-sha-256"]
        try:
            self._run(command, {})
        finally:
            password.unlink()

    def _copy(self, other: PostgresServer) -> None:
        self.user, self.password = other.user, other.password
        server = ["-h", other.host, "-p", str(other.port), "-U", other.user]
        command = [str(self._bin / "pg_basebackup"), "-D", str(self._home / "data"), *server]
        command += ["-c", "fast", "--no-sync", "-X", "stream"]
        if self._standby:
            command.append("-R")
        self._run(command, {"PGPASSWORD": other.password})
        if self._standby:
            # 5 s when left alone
            self._settings = self._settings | {"wal_retrieve_retry_interval": "100ms"}
        if self._standby == "silent":
            self._settings = self._settings | {"primary_conninfo": ""}

    def _run(self, command: list[str], more: dict[str, str]) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._home,
            env=embedded.server_environment() | more,
            **embedded.as_user(self._drop_to),
        )
        if done.returncode:
            name = Path(command[0]).name
            raise ServerFailed(
                f"{name} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
            )

    def _serve(self, attempts: int = 5) -> None:
        """Start on a free port; try another when somebody was faster."""
        for attempt in range(1, attempts + 1):
            self.port = free_port()
            settings = [
                f"-c{name}={value}"
                for name, value in (self._settings | {"port": str(self.port)}).items()
            ]
            command = [str(self._bin / "postgres"), "-D", str(self._home / "data"), *settings]
            log = self._home / f"postgres-{attempt}.log"
            self._process = Supervised(
                command,
                log,
                env=embedded.server_environment(),
                cwd=self._home,
                user=self._drop_to,
                signals=self._stop_signals,
                remove=self._scratch,
            )
            try:
                self._process.wait_until(self._answers, "PostgreSQL")
            except ServerFailed:
                self._process.stop()
                if attempt == attempts or "Address already in use" not in self._process.tail():
                    raise
            else:
                return

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def is_in(self, folder: Path) -> bool:
        """Whether the server's files lie below `folder`."""
        return self._home.is_relative_to(folder)

    @property
    def pid(self) -> int:
        """The server's first process (Linux only)."""
        assert self._process is not None
        return self._process.pids[0]

    @property
    def log(self) -> Path:
        """The server's log file."""
        assert self._process is not None
        return self._process.log

    def dsn(self, database: str) -> str:
        """A connection URI for `database`."""
        login = f"{self.user}:{self.password}"
        return f"postgresql://{login}@{self.host}:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str) -> str:
        """Create an empty database and return its connection URI."""
        self._administer("CREATE DATABASE {} TEMPLATE template0", name)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop the database, ending whatever still uses it."""
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _administer(self, statement: LiteralString, name: str) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def stop(self) -> None:
        """Stop the server and remove what was put under the temporary folder. A second call does
        nothing."""
        if self._process:
            self._process.stop()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
