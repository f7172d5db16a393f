"""A run asks each of its servers once, before its first step, and says once what it is refused."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.connections.lookup import Connection
from loadsheet.engine.preflight import Place, Refusal, refused
from loadsheet.engine.sessions import KeptServers
from loadsheet.spec.models import Pipeline
from tests.core.shop import MART, SOURCE, TABLES
from tests.project import Project, fetch

AWAY = "postgresql://nobody:secret@127.0.0.1:1/none"
PATIENT = {"retries": 1, "retry_delay": "1s"}
HASTY = {"retries": 0}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MART, tasks=PATIENT)
    return project


def wrong_password(shop: Project) -> str:
    shop.source = shop.source.replace("loadsheet:", "loadsheet:not-", 1)
    return "password authentication failed"


def no_database(shop: Project) -> str:
    shop.warehouse += "_none"
    return "does not exist"


def no_tls(shop: Project) -> str:
    shop.warehouse += "?sslmode=require"
    return "does not support SSL"


def unknown_service(shop: Project) -> str:
    shop.source += "?service=nope"
    return "nope"


@pytest.mark.parametrize("wrong", [wrong_password, no_database, no_tls, unknown_service])
def test_what_waiting_cannot_help_ends_the_run_before_its_first_step(
    shop: Project, wrong: Callable[[Project], str]
) -> None:
    """The old code said it for each table, and waited for retries of what looked like a lost
    connection."""
    told = wrong(shop)
    done = shop.cli("run", "shop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count(told) == 1 and "waiting" not in done.stderr
    assert "(connection '" in done.stderr and "not-" not in done.stderr


def test_a_wrong_port_is_said_at_once_and_once(shop: Project) -> None:
    """The old code said it once per table, after the retries of each: 60 s by default."""
    shop.source = AWAY
    done = shop.cli("run", "shop")
    assert (done.returncode, done.stdout) == (1, "")
    first, waiting, last = done.stderr.splitlines()
    assert first.startswith("the source (connection 'shop_source'): ")
    assert waiting.startswith("waiting up to 1 s")
    assert last == f"error: {first}"
    assert "secret" not in done.stderr


def test_without_retries_nothing_is_waited_for(shop: Project) -> None:
    shop.spec(TABLES, MART, tasks=HASTY)
    shop.source = shop.warehouse = AWAY
    done = shop.cli("run", "shop", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("SQLSTATE 08001") == 2 and "waiting" not in done.stderr


def test_all_that_is_wrong_is_said_together(shop: Project) -> None:
    shop.source += "?sslmod=verify-full"
    shop.warehouse = AWAY
    shop.s3 = type(shop.s3)()  # one that was never started
    shop.s3.port = 1
    done = shop.cli("run", "shop")
    assert done.returncode == 2 and "waiting" not in done.stderr
    for told in ("'sslmode'", "the warehouse (connection", "the lake (connection"):
        assert done.stderr.count(told) == 1, done.stderr


def test_a_server_that_is_restarting_is_waited_for(
    shop: Project, tmp_path: Path, postgres: PostgresServer
) -> None:
    """The source begins to answer when the run has said that it waits."""
    shop.spec(TABLES, MART, tasks={"retries": 3, "retry_delay": "20s"})
    database = shop.connections("shop_source").schema
    fetch(postgres.dsn("postgres"), f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
    fetch(postgres.dsn("postgres"), "DROP ROLE IF EXISTS waiter")
    fetch(
        postgres.dsn("postgres"),
        "CREATE ROLE waiter LOGIN PASSWORD 'w' IN ROLE pg_read_all_data, pg_read_all_stats",
    )
    shop.source = f"postgresql://waiter:w@{postgres.host}:{postgres.port}/{database}"
    with subprocess.Popen(
        shop.command("run", "shop", "--json"),
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr and run.stdout
        assert "too many connections" in run.stderr.readline()
        assert run.stderr.readline().startswith("waiting up to 60 s")
        fetch(postgres.dsn("postgres"), f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        document = json.loads(run.stdout.read())
    assert run.returncode == 0, document
    assert {step["tries"] for step in document["steps"]} == {1}


@pytest.mark.parametrize("end", ["source", "warehouse"])
def test_a_missing_privilege_names_connection_and_role(
    shop: Project, postgres: PostgresServer, end: str
) -> None:
    """Before, `permission denied for table item` was all: both servers may have one."""
    shop.succeed()
    role = f"low_{secrets.token_hex(4)}"
    uri = shop.source if end == "source" else shop.warehouse
    fetch(uri, f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_stats")
    changed = uri.replace(f"loadsheet:{postgres.password}", f"{role}:x")
    if end == "source":
        shop.source = changed
    else:
        shop.warehouse = changed
    conn_id = "shop_source" if end == "source" else "warehouse"
    failed = [r.result for r in shop.run().values() if r.state == "failed"]
    assert failed
    for error in failed:
        text = str(error)
        named = f"the {end} (connection '{conn_id}', role '{role}'): permission denied for "
        assert named in text
        assert "`loadsheet grants`" in text and "`loadsheet doctor`" in text


SECRET = "not-shown-anywhere"
WORLD = f"""
CREATE ROLE "pre few" LOGIN PASSWORD '{SECRET}' CONNECTION LIMIT 0;
CREATE ROLE "pre ok" LOGIN PASSWORD '{SECRET}';
CREATE ROLE "pre none" PASSWORD '{SECRET}';
"""
DATABASES = (
    "CREATE DATABASE pre_open",
    "CREATE DATABASE pre_closed ALLOW_CONNECTIONS false",
    "CREATE DATABASE pre_few CONNECTION LIMIT 0",
    "CREATE DATABASE pre_own",
    "REVOKE ALL ON DATABASE pre_own FROM PUBLIC",
)


@pytest.fixture(scope="module")
def refusing(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server with roles and databases that refuse a session in each way."""
    fetch(postgres.dsn("postgres"), WORLD)
    for statement in DATABASES:
        fetch(postgres.dsn("postgres"), statement)
    yield postgres
    for statement in DATABASES[:4]:
        fetch(postgres.dsn("postgres"), f"DROP DATABASE {statement.split()[2]}")
    fetch(postgres.dsn("postgres"), 'DROP ROLE "pre few", "pre ok", "pre none"')


def asked(server: PostgresServer, **fields: Any) -> list[Refusal]:
    """What the server refuses to a session, within seconds."""
    given = {"host": server.host, "port": server.port, "login": "pre ok", "schema": "pre_open"}

    def find(conn_id: str) -> Connection:
        return Connection(conn_id=conn_id, **{**given, "password": SECRET, **fields})

    began = time.monotonic()
    servers = KeptServers(
        cast(Pipeline, SimpleNamespace(source=SimpleNamespace(conn_id="source"))), find
    )
    found = refused([Place(end="source", conn_id="source")], servers)
    servers.close()
    assert time.monotonic() - began < 12
    return found


@pytest.mark.parametrize(
    ("fields", "may_pass", "why", "next_step"),
    [
        (
            {"extra": {"channel_binding": "require"}},
            False,
            "by the method",
            "correct channel_binding",
        ),
        ({"extra": {"gssencmode": "require"}}, False, "by the method", "gssencmode"),
        ({"extra": {"require_auth": "none"}}, False, "by the method", "require_auth"),
        ({"extra": {"sslmode": "require"}}, False, "does not offer the encryption", "sslmode"),
        ({"extra": {"sslmode": "sometimes"}}, False, "A parameter", "in the connection"),
        ({"extra": {"ssl_min_protocol_version": "TLSv9"}}, False, "A parameter", "correct it"),
        ({"extra": {"hostaddr": "no address"}}, False, "A parameter", "correct it"),
        ({"extra": {"keepalives_idle": "x"}}, False, "A parameter", "correct it"),
        ({"extra": {"options": "-c nonsense=1"}}, False, "A parameter", "correct it"),
        ({"extra": {"options": "-c work_mem=many"}}, False, "A parameter", "correct it"),
        (
            {"extra": {"options": "-c log_statement=all"}},
            False,
            "may not set",
            "remove it from options",
        ),
        ({"extra": {"target_session_attrs": "standby"}}, True, "target_session_attrs", "correct"),
        ({"extra": {"target_session_attrs": "read-only"}}, True, "target_session_attrs", "correct"),
        ({"login": "pre few"}, True, "its CONNECTION LIMIT", "ALTER ROLE"),
        ({"schema": "pre_few"}, True, "its CONNECTION LIMIT", "ALTER DATABASE"),
        ({"schema": "pre_closed"}, True, "does not accept connections", "ALLOW_CONNECTIONS true"),
        ({"schema": "pre_own"}, False, "The role may not do this", "loadsheet grants"),
        ({"schema": "pre_none"}, False, "no such database", "create it"),
        (
            {"login": "pre none"},
            False,
            "does not accept this login",
            "correct the connection's login",
        ),
        ({"password": ""}, False, "does not accept this login", "correct the connection's login"),
        ({"host": "no.such.host.invalid"}, True, "could not be reached", "host and port"),
    ],
)
def test_each_refusal_of_a_session_has_its_cause_and_its_next_step(
    refusing: PostgresServer, fields: dict[str, Any], may_pass: bool, why: str, next_step: str
) -> None:
    """Before, half of these were servers that `could not be reached`, and were waited for."""
    (refusal,) = asked(refusing, **fields)
    text, _, advice = str(refusal).partition(". Next: ")
    assert refusal.may_pass is may_pass and why in text and next_step in advice
    assert text.count("FATAL") <= 1 and SECRET not in text


def test_a_server_without_a_free_slot_is_told_so(refusing: PostgresServer) -> None:
    uri = f"host={refusing.host} port={refusing.port} dbname=pre_open user='pre ok'"
    with contextlib.ExitStack() as held:
        with pytest.raises(psycopg.OperationalError):
            while True:
                held.enter_context(psycopg.connect(f"{uri} password={SECRET}"))
        (refusal,) = asked(refusing)
    assert refusal.may_pass and "reserved for superusers" in str(refusal)
    assert "raise max_connections" in str(refusal)


def test_a_login_that_pg_hba_rejects_without_tls_is_told_so(refusing: PostgresServer) -> None:
    file = Path(fetch(refusing.dsn("postgres"), "SHOW hba_file")[0][0])
    kept = file.read_text()
    try:
        file.write_text(f'host all "pre ok" all reject\n{kept}')
        fetch(refusing.dsn("postgres"), "SELECT pg_reload_conf()")
        deadline = time.monotonic() + 10
        while not (found := asked(refusing)) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        file.write_text(kept)
        fetch(refusing.dsn("postgres"), "SELECT pg_reload_conf()")
    (refusal,) = found
    assert not refusal.may_pass and refusal.is_login
    assert "without TLS. Next: set sslmode" in str(refusal)


def test_a_primary_that_is_read_only_is_waited_for_and_told_why(refusing: PostgresServer) -> None:
    fetch(refusing.dsn("postgres"), 'ALTER ROLE "pre ok" SET default_transaction_read_only = on')
    try:
        (refusal,) = asked(refusing, extra={"target_session_attrs": "read-write"})
    finally:
        fetch(refusing.dsn("postgres"), 'ALTER ROLE "pre ok" RESET ALL')
    assert refusal.may_pass and "its target_session_attrs asks for" in str(refusal)
