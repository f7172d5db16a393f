"""TLS to PostgreSQL by both drivers, with an authority of the test's own: the server's certificate
is checked as the connection says, and the server checks the client's. For the lake,
tests/core/test_lake_access.py does the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from loadsheet.connections.lookup import Connection
from loadsheet.connections.parse import fields_from_uri
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.source.stream import Job, copy_parallel
from loadsheet.sqltest.embedded import NOBODY, scratch_folder
from tests.authority import Authority
from tests.debian import PROGRAMS, DebianServer

# Only TLS; one role must also show a certificate with its name.
_HBA = """
hostssl all guarded 127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl all all 127.0.0.1/32 scram-sha-256
"""


@dataclass
class World:
    """A server behind TLS, and the files of those who may be trusted."""

    server: DebianServer
    company: Authority
    stranger: Authority

    def connection(self, login: str = "", host: str = "", **extra: Any) -> Connection:
        """A connection to it, as Airflow would store it."""
        return Connection(
            conn_id="shop_source",
            host=host or self.server.host,
            port=self.server.port,
            login=login or self.server.user,
            password="x" if login else self.server.password,
            schema="postgres",
            extra={name: str(value) for name, value in extra.items()},
        )

    @property
    def certificate(self) -> dict[str, Path]:
        """The client certificate of the role `guarded`."""
        return {
            "sslcert": self.company.folder / "guarded.pem",
            "sslkey": self.company.folder / "guarded.key",
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not PROGRAMS.is_dir():
        pytest.skip("the embedded PostgreSQL is built without TLS, and Debian's is not installed")
    company = Authority(tmp_path_factory.mktemp("tls") / "company")
    stranger = Authority(tmp_path_factory.mktemp("tls") / "stranger")
    company.issue("server", "IP:127.0.0.1")
    company.issue("guarded")
    stranger.issue("guarded")
    files = scratch_folder("loadsheet-tls-")
    try:
        (files / "hba.conf").write_text(_HBA)
        for name in ("server.pem", "server.key", "ca.pem"):
            shutil.copy(company.folder / name, files / name)
        for file in files.iterdir():
            file.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(file, *NOBODY)
        settings = {
            "ssl": "on",
            "ssl_cert_file": str(files / "server.pem"),
            "ssl_key_file": str(files / "server.key"),
            "ssl_ca_file": str(files / "ca.pem"),
            "hba_file": str(files / "hba.conf"),
        }
        with DebianServer(settings=settings) as server:
            with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
                session.execute("CREATE ROLE guarded LOGIN PASSWORD 'x'")
            yield World(server, company, stranger)
    finally:
        shutil.rmtree(files)


def drivers(connection: Connection) -> list[tuple[str, bool]]:
    """The version of TLS, and whether the client showed a certificate, of a session by each
    driver."""
    found: list[tuple[str, bool]] = []
    asked = "SELECT version, client_dn IS NOT NULL FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    with connect_source(connection) as session, session.snapshot():
        session.fix_snapshot()
        found.append(session.execute(asked).fetchone())
        blocks: list[bytes] = []
        job = Job(select=asked, take=blocks.append, end=lambda: None)
        assert copy_parallel(session, [job], "csv", 1) == [1]
        version, has_certificate = b"".join(blocks).decode().strip().split(",")
        found.append((version, has_certificate == "t"))
    return found


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
def test_both_drivers_check_the_server_s_certificate(world: World, mode: str) -> None:
    connection = world.connection(sslmode=mode, sslrootcert=world.company.file)
    assert drivers(connection) == [("TLSv1.3", False)] * 2
    # As a URI, which is how most connections are written.
    uri = (
        f"postgresql://{world.server.user}:{world.server.password}@127.0.0.1:{world.server.port}"
        f"/postgres?sslmode={mode}&sslrootcert={world.company.file}"
    )
    written = Connection(conn_id="shop_source", **fields_from_uri(uri, "a test"))
    assert drivers(written) == [("TLSv1.3", False)] * 2


@pytest.mark.parametrize(
    ("host", "extra", "words"),
    [
        ("", {"sslmode": "verify-full", "sslrootcert": "stranger"}, "certificate verify failed"),
        ("", {"sslmode": "verify-ca", "sslrootcert": "stranger"}, "certificate verify failed"),
        ("", {"sslmode": "verify-full", "sslrootcert": "/none/ca.pem"}, "does not exist"),
        ("localhost", {"sslmode": "verify-full", "sslrootcert": "company"}, "does not match"),
        ("", {"sslmode": "disable"}, "no encryption"),
    ],
)
def test_a_server_that_is_not_the_one_meant_gets_no_password(
    world: World, host: str, extra: dict[str, str], words: str
) -> None:
    named = {"stranger": world.stranger.file, "company": world.company.file}
    root = extra.get("sslrootcert", "")
    files = {"sslrootcert": named.get(root, root)} if root else {}
    connection = world.connection(host=host, **{**extra, **files})
    for connect in (connect_source, connect_warehouse):
        with pytest.raises(psycopg.OperationalError, match=words):
            connect(connection).close()


def test_a_name_that_is_not_in_the_certificate_passes_where_only_the_authority_is_checked(
    world: World,
) -> None:
    """The control of the name above."""
    connection = world.connection(
        host="localhost", sslmode="verify-ca", sslrootcert=world.company.file
    )
    assert drivers(connection) == [("TLSv1.3", False)] * 2


def test_both_drivers_show_the_client_s_certificate(world: World) -> None:
    checked = {"sslmode": "verify-full", "sslrootcert": world.company.file}
    assert (
        drivers(world.connection("guarded", **checked, **world.certificate))
        == [("TLSv1.3", True)] * 2
    )
    with pytest.raises(psycopg.OperationalError, match="valid client certificate"):
        connect_source(world.connection("guarded", **checked)).close()
    theirs = {
        "sslcert": world.stranger.folder / "guarded.pem",
        "sslkey": world.stranger.folder / "guarded.key",
    }
    with pytest.raises(psycopg.OperationalError):
        connect_source(world.connection("guarded", **checked, **theirs)).close()
