"""The roles that docker-compose.yml makes are sufficient for the flights pipeline and are no
superusers, and a password that changes in .env reaches a server that has data.

The services' own scripts run here, with psql, on an embedded server. Before, each role of .env was
the server's superuser, and its password stayed what it was at the first `up`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from demo.flights import generate
from demo.servers import PostgresServer, S3Server
from loadsheet.sqltest.embedded import postgres_install
from tests.core.flights_world import Flights
from tests.unit.compose_file import STACK

BOTH_ENDS = {
    "source-roles": {"ROLE": "airline", "ROLE_DATABASE": "flights"},
    "source-reader": {"OWNER": "airline", "ROLE": "source", "ROLE_DATABASE": "flights"},
    "warehouse-roles": {"ROLE": "warehouse", "ROLE_DATABASE": "warehouse"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server with the superuser that the image makes."""
    with PostgresServer() as started:
        with psycopg.connect(started.dsn("postgres"), autocommit=True) as session:
            session.execute(f"CREATE ROLE postgres SUPERUSER LOGIN PASSWORD '{started.password}'")
        yield started


def up(server: PostgresServer, password: str) -> None:
    """Run the scripts of the services that set the roles, as each `docker compose up` does."""
    for name, given in BOTH_ENDS.items():
        # Compose writes a `$` as `$$`.
        command = [part.replace("$$", "$") for part in STACK["services"][name]["command"]]
        environment = {
            "PATH": f"{postgres_install(16) / 'bin'}:{os.environ['PATH']}",
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGPASSWORD": server.password,
            "ROLE_PASSWORD": f"{password}-{name}",
            **given,
        }
        subprocess.run(command, env=environment, check=True, timeout=60)


def dsn(server: PostgresServer, service: str, password: str) -> str:
    """Where the service's role logs in."""
    role, database = BOTH_ENDS[service]["ROLE"], BOTH_ENDS[service]["ROLE_DATABASE"]
    return f"postgresql://{role}:{password}-{service}@{server.host}:{server.port}/{database}"


def refused(where: str, statement: LiteralString) -> None:
    """Expect that the role may not do this."""
    with (
        psycopg.connect(where, autocommit=True) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute(statement)


def rows(where: str, statement: LiteralString) -> list[tuple[Any, ...]]:
    """What the role may read."""
    with psycopg.connect(where) as session:
        return session.execute(statement).fetchall()


def test_the_roles_of_compose_suffice_are_no_superusers_and_follow_the_password(
    server: PostgresServer, s3: S3Server, tmp_path: Path
) -> None:
    up(server, "it's-first")
    generate(dsn(server, "source-roles", "it's-first"), "100")
    source = dsn(server, "source-reader", "it's-first")
    warehouse = dsn(server, "warehouse-roles", "it's-first")
    flights = Flights(tmp_path, source, warehouse, s3)
    flights.go()
    assert rows(warehouse, "SELECT count(*) FROM staging.bookings") == rows(
        source, "SELECT count(*) FROM bookings.bookings"
    )
    refused(source, "UPDATE bookings.bookings SET total_amount = 0")
    refused(source, "CREATE SCHEMA mine")
    refused(warehouse, "CREATE ROLE other")
    refused(warehouse, "ALTER SYSTEM SET work_mem = '1GB'")
    # COPY … TO PROGRAM and reading the server's files are what made a superuser dangerous here.
    refused(warehouse, "SELECT pg_read_file('postgresql.conf')")
    powerful = "SELECT rolname FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb"
    found = {name for (name,) in rows(warehouse, powerful)}
    assert found == {"postgres", server.user}

    # The next `up`, with another password in .env: what is there stays, and the role follows.
    up(server, "second")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(warehouse)
    later = dsn(server, "warehouse-roles", "second")
    assert rows(later, "SELECT count(*) FROM staging.bookings")[0][0] > 0
    assert rows(dsn(server, "source-reader", "second"), "SELECT 1 FROM bookings.bookings LIMIT 1")
