"""The servers a measurement runs on: two PostgreSQL (source, warehouse) and one S3, with their CPU
time.

`python -m bench.keep FILE` keeps them running for several measurements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from demo.servers import PostgresServer, S3Server
from loadsheet.sqltest.embedded import memory_folder

# Memory, where there is enough of it: a disk that others share was the largest noise of all.
_ROOM = 12 << 30


@dataclass(frozen=True)
class World:
    """Where the servers are. `source` and `warehouse` are URIs without a database's name at their
    end."""

    source: str
    warehouse: str
    s3: dict[str, str]
    pids: dict[str, int]

    def cpu_seconds(self) -> dict[str, float]:
        """Per server, the CPU time used since it started, including children that have ended."""
        return {name: _cpu(psutil.Process(pid)) for name, pid in self.pids.items()}

    def settle(self) -> None:
        """A checkpoint on both servers, so that no measurement pays for the one before it."""
        for server in (self.source, self.warehouse):
            ask(f"{server}/postgres", "CHECKPOINT")

    def new_warehouse(self, name: str) -> str:
        """The URI of a new empty warehouse database, in place of an older one of that name."""
        ask(f"{self.warehouse}/postgres", f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        ask(f"{self.warehouse}/postgres", f'CREATE DATABASE "{name}" TEMPLATE template0')
        return f"{self.warehouse}/{name}"

    def same_warehouse(self, name: str) -> str:
        """The URI of the warehouse database `name`, empty if it was not there."""
        return self._same(self.warehouse, name)

    def new_source(self, name: str) -> str:
        """The URI of the source database `name`, empty if it was not there."""
        return self._same(self.source, name)

    def _same(self, server: str, name: str) -> str:
        if not ask(f"{server}/postgres", "SELECT 1 FROM pg_database WHERE datname = %s", name):
            ask(f"{server}/postgres", f'CREATE DATABASE "{name}" TEMPLATE template0')
        return f"{server}/{name}"

    def version(self) -> str:
        """The servers' version."""
        return str(ask(f"{self.source}/postgres", "SHOW server_version")[0][0])


def ask(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run SQL in a session of its own; the rows it returns, if any."""
    with psycopg.connect(dsn, autocommit=True) as session:
        cursor = session.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def world(file: Path | None = None) -> Iterator[World]:
    """The running servers that `file` describes, or new ones that end with the context."""
    if file:
        yield World(**json.loads(file.read_text()))
        return
    within = memory_folder(_ROOM)
    with ExitStack() as running:
        source = running.enter_context(PostgresServer(within=within, durable=True))
        warehouse = running.enter_context(PostgresServer(within=within, durable=True))
        s3 = running.enter_context(S3Server())
        yield World(
            source=source.dsn("").rstrip("/"),
            warehouse=warehouse.dsn("").rstrip("/"),
            s3={"endpoint": s3.endpoint, "access_key": s3.access_key, "secret_key": s3.secret_key},
            pids={"source": source.pid, "warehouse": warehouse.pid, "s3": s3.pid},
        )


def _cpu(process: psutil.Process) -> float:
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children():
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:  # ended meanwhile: its parent has its time
            continue
    return float(total)
