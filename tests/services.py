"""Fixtures: real servers, started once per session, and fresh databases and buckets for each test.

Use `from tests.services import *` in a conftest.py. Nothing starts before a test asks for it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from minio import Minio

from demo.servers import PostgresServer, S3Server, SlackReceiver
from loadsheet.sqltest.embedded import MEMORY, memory_folder
from tests.debian import PROGRAMS, VERSION, DebianServer
from tests.project import Project
from tests.sessions import close_kept

__all__ = [
    "bucket",
    "connection",
    "database",
    "minio",
    "postgres",
    "project",
    "s3",
    "slack",
    "two_databases",
]


# Creating a database takes 0.05 s in memory and took 0.3 s on a busy disk, and every test asks for
# two.
_ROOM = 4 << 30


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the session; its files are in memory where the machine has room for
    them."""
    within = memory_folder(_ROOM)
    if VERSION != "debian":
        server = PostgresServer(version=int(VERSION), within=within)
    elif PROGRAMS.is_dir():
        server = DebianServer(within)
    else:
        pytest.skip("PostgreSQL 15 of Debian's packages is not installed")
    with server:
        server.keep_session()
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the session."""
    with S3Server() as server:
        yield server


@pytest.fixture
def slack() -> Iterator[SlackReceiver]:
    """A Slack receiver of the test's own."""
    with SlackReceiver() as receiver:
        yield receiver


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The connection URI of a new empty database."""
    yield from _new_database(postgres)


@pytest.fixture
def two_databases(postgres: PostgresServer) -> Iterator[tuple[str, str]]:
    """The connection URIs of two new empty databases: source and warehouse."""
    for source in _new_database(postgres):
        for warehouse in _new_database(postgres):
            yield source, warehouse


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to a new empty database."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def minio(s3: S3Server) -> Minio:
    """A client of the S3 server."""
    return Minio(s3.address, access_key=s3.access_key, secret_key=s3.secret_key, secure=False)


@pytest.fixture
def bucket(minio: Minio) -> str:
    """The name of a new empty bucket."""
    name = f"test-{secrets.token_hex(6)}"
    minio.make_bucket(name)
    return name


@pytest.fixture
def project(tmp_path: Path, two_databases: tuple[str, str], s3: S3Server) -> Project:
    """A project folder from an empty source database to an empty warehouse."""
    source, warehouse = two_databases
    return Project(tmp_path, source, warehouse, s3)


def _new_database(postgres: PostgresServer) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    database = postgres.create_database(name)
    yield database
    close_kept(database)
    # elsewhere DROP DATABASE waits seconds for a checkpoint; the server goes at the end
    if postgres.is_in(MEMORY):
        with contextlib.suppress(psycopg.Error):  # a prepared transaction that a test has left
            postgres.drop_database(name)
