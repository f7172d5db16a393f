"""Every parameter of libpq in a connection reaches it, in both drivers, and no other is dropped
without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq

from demo.servers import PostgresServer
from loadsheet import libpq
from loadsheet.connections.lookup import Connection, project_connections
from loadsheet.errors import InputError
from loadsheet.postgres import connect_source
from loadsheet.source import stream
from loadsheet.sql.copying import WireFormat
from tests.project import Project

EVERY_NAME = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
OURS = {"client_encoding", "fallback_application_name", "replication"}
WIRE: WireFormat = "binary"
NOT_KNOWN = f", which libpq {pq.version() // 10_000} does not know"


def reached(postgres: PostgresServer, **extra: Any) -> dict[str, str]:
    """The parameters of a session on the server, as libpq itself shows them."""
    with connect_source(connection(postgres, **extra)) as session:
        return libpq.set_parameters(session.pgconn.info)


def connection(postgres: PostgresServer, **extra: Any) -> Connection:
    fields: dict[str, Any] = {
        "host": postgres.host,
        "port": postgres.port,
        "login": postgres.user,
        "password": postgres.password,
        "schema": "postgres",
    }
    return Connection(
        **{"conn_id": "shop", "conn_type": "postgres", **fields, **extra.pop("fields", {})},
        extra=extra,
    )


def test_every_parameter_that_libpq_knows_is_passed_on() -> None:
    """The old code knew 14 of them and dropped the others, such as ssl_min_protocol_version."""
    extra = {name: f"value of {name}" for name in EVERY_NAME if name not in OURS}
    extra["connect_timeout"] = "7"
    assert libpq.parameters(Connection(conn_id="c", extra=extra)) == extra


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"sslmod": "verify-full"},
            f"{NOT_KNOWN} (did you mean 'sslmode'?)",
        ),
        ({"ssl_mode": "require"}, "(did you mean 'sslmode'?)"),
        (
            {"region": "x"},
            f"{NOT_KNOWN} (its extra sets the parameters of libpq)",
        ),
        ({"replication": "database"}, "cannot set replication"),
        ({"client_encoding": "LATIN1"}, "Loadsheet always uses UTF8"),
        ({"fallback_application_name": "x"}, "set application_name"),
        ({"connect_timeout": "soon"}, "no whole number of seconds"),
        ({"options": {"work_mem": 1}}, "no text and no number in the extra 'options'"),
        ({"iam": True}, "logs in by 'iam'"),
        ({"port": "5433"}, "has 'port' as port and in extra"),
        ({"dbname": "other"}, "has 'dbname' as schema and in extra"),
        ({"fields": {"conn_type": "mysql"}}, "has the type 'mysql'"),
        ({"fields": {"conn_type": "generic"}}, "has the type 'generic'"),
    ],
)
def test_what_cannot_reach_libpq_is_refused_by_name(
    postgres: PostgresServer, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        connect_source(connection(postgres, **given))
    assert "'shop'" in str(refused.value) and message in str(refused.value)
    assert "verify-full" not in str(refused.value)  # never a value


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"ssl_min_protocol_version": "TLSv1.3"}, "ssl_min_protocol_version", "TLSv1.3"),
        ({"application_name": "nightly"}, "application_name", "nightly"),
        ({"connect_timeout": 7}, "connect_timeout", "7"),
        ({"keepalives": False}, "keepalives", "0"),
        ({"iam": False, "cursor": "dictcursor", "sslmode": ""}, "connect_timeout", "10"),
        ({"client_encoding": "utf-8"}, "client_encoding", "UTF8"),
        ({"target_session_attrs": "read-write"}, "target_session_attrs", "read-write"),
    ],
)
def test_what_a_session_was_opened_with(
    postgres: PostgresServer, given: dict[str, Any], name: str, value: str
) -> None:
    assert reached(postgres, **given)[name] == value


def test_a_parameter_is_enforced(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="auth"):
        connect_source(connection(postgres, require_auth="gss"))


def test_a_uri_may_name_several_hosts(postgres: PostgresServer, tmp_path: Path) -> None:
    """The first does not answer. The old code took such a URI for none."""
    uri = (
        f"postgresql://{postgres.user}:{postgres.password}@127.0.0.1:1,localhost:{postgres.port}"
        "/postgres?target_session_attrs=read-write"
    )
    found = project_connections(tmp_path, {"AIRFLOW_CONN_SHOP": uri})("shop")
    with connect_source(found) as session:
        assert session.info.port == postgres.port


def test_a_service_file_and_a_password_file_are_used(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services.conf"
    services.write_text(
        f"[shop]\nhost={postgres.host}\nport={postgres.port}\nuser={postgres.user}\n"
        "dbname=postgres\n"
    )
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"{postgres.host}:*:*:*:{postgres.password}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    none = {"host": "", "port": None, "login": "", "password": "", "schema": ""}
    with connect_source(
        connection(postgres, fields=none, service="shop", passfile=str(passwords))
    ) as session:
        assert session.info.dbname == "postgres"


@pytest.mark.parametrize(
    ("extra", "environ", "expected"),
    [
        ({}, {}, True),
        ({"target_session_attrs": "any", "sslmode": "prefer"}, {}, True),
        ({"sslsni": "0"}, {}, False),
        ({"ssl_min_protocol_version": "TLSv1.3"}, {}, False),
        ({"sslrootcert": "system", "sslmode": "verify-full"}, {}, False),
        ({}, {"PGREQUIREAUTH": "scram-sha-256"}, False),
        ({}, {"PGSSLMINPROTOCOLVERSION": "TLSv1.3"}, False),
    ],
)
def test_a_large_table_is_read_by_the_other_driver_only_where_that_does_the_same(
    postgres: PostgresServer,
    extra: dict[str, Any],
    environ: dict[str, str],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old code asked only for what the connection had set, not for the environment's."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if "sslrootcert" in extra:  # the server has no TLS
        options = libpq.parameters(connection(postgres, **extra))
        assert not stream._are_common(options)
        return
    blocks: list[bytes] = []
    with connect_source(connection(postgres, **extra)) as session, session.snapshot():
        job = stream.Job("SELECT 1 AS n", blocks.append)
        counts = stream.copy_parallel(session, [job], WIRE, 1)
    assert (counts == [1]) is expected


def test_the_command_line_refuses_before_anything_runs(project: Project) -> None:
    project.spec({"item": None})
    project.source += "?sslmod=verify-full"
    done = project.cli("run", "shop")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("'sslmod'") == 1 and "did you mean 'sslmode'?" in done.stderr


def test_mysql_is_not_postgresql(project: Project) -> None:
    project.spec({"item": None})
    project.warehouse = project.warehouse.replace("postgresql://", "mysql://")
    done = project.cli("run", "shop")
    assert done.returncode == 2 and "has the type 'mysql'" in done.stderr
