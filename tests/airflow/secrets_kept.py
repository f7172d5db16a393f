"""The secrets of the end-to-end world, each with a way of its own in, and the pipelines whose
failures could tell them.

What Airflow and the servers make for themselves (keys, the S3 login) comes on top, see `generated`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from demo.airflow import Airflow
from demo.servers import PostgresServer, S3Server, SlackReceiver
from tests.canaries import HARD
from tests.granted import creation

SECRETS = {
    "password of characters that a URI must encode": HARD,
    "token in an extra": "canary-token-in-extra",
    "libpq option": "canary-in-options",
    "percent-encoded in a URI of the environment": "canary $w {x} pass'phrase",
    "sslpassword in that URI": "canary-sslpassword",
    "deep in the JSON of a connection": "canary-deep-secret",
    "passfile": "canary-in-passfile",
    "webhook token": "T0/B0/hush-hush-token",
    "Airflow Variable": "canary-in-variable",
    "Airflow Variable of the environment": "canary-variable-of-environment",
    "environment variable that nobody reads": "canary-unused-variable",
    ".env of the project": "canary-in-dotenv",
    "password that the server refuses": "canary-wrong&pass",
    "option that the server quotes": "canary-quoted-option",
    "not encoded in a URI": "canary/not:encoded?pass",
    "in JSON that is cut off": "canary-cut-off",
    "S3 secret that is refused": "canary/s3+secret==",
    "typed into a pipeline file": "canary-typed",
}
_KEYS = ("CORE__FERNET_KEY", "API__SECRET_KEY", "API_AUTH__JWT_SECRET")
BROKEN = f"""\
version: 1
suorce: {{conn_id: flights_source, password: {SECRETS["typed into a pipeline file"]}}}
"""
_TEXT = """\
version: 1
source: {{conn_id: {source}, schema: bookings}}
lake: {{conn_id: {lake}, bucket: lake}}
warehouse: {{conn_id: warehouse, schema: {name}, mart_schema: {name}_mart}}
notify: {{slack_conn_id: slack}}
tasks: {{retries: 0}}
tables:
  seats:
"""
FAILING = {
    "wrong_password": ("wrong_password", "lake"),
    "bad_option": ("bad_option", "lake"),
    "not_encoded": ("not_encoded", "lake"),
    "cut_off": ("cut_off", "lake"),
    "wrong_key": ("by_passfile", "wrong_key"),
}
WORKING = {"by_passfile": ("by_passfile", "lake")}
"""Pipeline -> the connections of its source and its lake."""
EXTRACTORS = {"flights_source": "canary", "by_passfile": "canary_by_passfile"}
"""Connection of a source -> the role that it logs in as."""
LOADER = "canary_warehouse"


def generated(airflow: Airflow, postgres: PostgresServer, s3: S3Server) -> list[str]:
    """Secrets that are new in each run: of the servers, of Airflow's API, what it encrypts and
    signs with."""
    keys = [airflow.env[f"AIRFLOW__{name}"] for name in _KEYS]
    return [postgres.password, s3.access_key, s3.secret_key, airflow.password, *keys]


def write(project: Path) -> None:
    """The pipelines, and a `.env`."""
    (project / ".env").write_text(f"CANARY={SECRETS['.env of the project']}\n")
    for name, (source, lake) in (WORKING | FAILING).items():
        (project / "pipelines" / name).mkdir()
        (project / "pipelines" / name / "pipeline.yml").write_text(
            _TEXT.format(name=name, source=source, lake=lake)
        )


def environment(home: Path, postgres: PostgresServer, s3: S3Server) -> dict[str, str]:
    """What Airflow's processes see besides: a warehouse, a passfile, Variables, and connections
    that do not work."""
    passfile = home / "pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text(f"{postgres.host}:*:*:canary_by_passfile:{SECRETS['passfile']}\n")
    place = f"{postgres.host}:{postgres.port}"
    warehouse = quote(SECRETS["percent-encoded in a URI of the environment"], safe="")
    wrong = quote(SECRETS["password that the server refuses"], safe="")
    hard = quote(HARD, safe="")
    option = quote(f"-c lock_timeout={SECRETS['option that the server quotes']}")
    filed = {
        "conn_type": "postgres",
        "host": postgres.host,
        "port": postgres.port,
        "login": "canary_by_passfile",
    }
    deep = {"sqlalchemy_query": {"secret": SECRETS["deep in the JSON of a connection"]}}
    lake = {
        "conn_type": "generic",
        "login": s3.access_key,
        "password": SECRETS["S3 secret that is refused"],
    }
    return {
        "PGPASSFILE": str(passfile),
        "AIRFLOW_CONN_WAREHOUSE": (
            f"postgresql://canary_warehouse:{warehouse}@{place}/warehouse"
            f"?sslpassword={SECRETS['sslpassword in that URI']}"
        ),
        "AIRFLOW_CONN_BY_PASSFILE": json.dumps(
            {**filed, "schema": "flights_source", "extra": deep}
        ),
        "AIRFLOW_CONN_WRONG_PASSWORD": f"postgresql://canary:{wrong}@{place}/flights_source",
        "AIRFLOW_CONN_BAD_OPTION": (
            f"postgresql://canary:{hard}@{place}/flights_source?options={option}"
        ),
        "AIRFLOW_CONN_NOT_ENCODED": (
            f"postgresql://canary:{SECRETS['not encoded in a URI']}@{place}/flights_source"
        ),
        "AIRFLOW_CONN_CUT_OFF": (
            '{"conn_type": "postgres", "password": "' + SECRETS["in JSON that is cut off"]
        ),
        "AIRFLOW_CONN_WRONG_KEY": json.dumps({**lake, "extra": {"endpoint_url": s3.endpoint}}),
        "AIRFLOW_VAR_CANARY": SECRETS["Airflow Variable of the environment"],
        "CANARY_UNUSED": SECRETS["environment variable that nobody reads"],
    }


def add_roles(postgres: PostgresServer) -> None:
    """The roles that log in with them; they have what `World.grant` gives."""
    roles = {
        "canary": HARD,
        "canary_warehouse": SECRETS["percent-encoded in a URI of the environment"],
        "canary_by_passfile": SECRETS["passfile"],
    }
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as session:
        for name, password in roles.items():
            if not session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
                session.execute(creation(name, password))


def entries(postgres: PostgresServer, s3: S3Server, slack: SlackReceiver) -> list[dict[str, Any]]:
    """The connections of `connections/`, pointing here, as Airflow's API takes them."""
    server = {"conn_type": "postgres", "host": postgres.host, "port": postgres.port}
    extra = {
        "oauth_client_secret": SECRETS["token in an extra"],
        "options": f"-c app.canary={SECRETS['libpq option']}",
    }
    source = {
        **server,
        "login": "canary",
        "password": HARD,
        "schema": "flights_source",
        "extra": json.dumps(extra),
    }
    warehouse = {
        **server,
        "login": postgres.user,
        "password": postgres.password,
        "schema": "warehouse",
    }
    lake = {"conn_type": "generic", "login": s3.access_key, "password": s3.secret_key}
    webhook = {"conn_type": "slackwebhook", "host": slack.url, "password": SECRETS["webhook token"]}
    return [
        {"connection_id": "flights_source", **source},
        {"connection_id": "warehouse", **warehouse},
        {"connection_id": "lake", **lake, "extra": json.dumps({"endpoint_url": s3.endpoint})},
        {"connection_id": "slack", **webhook},
    ]


def add_connections(
    airflow: Airflow, postgres: PostgresServer, s3: S3Server, slack: SlackReceiver
) -> None:
    """Roles, connections and a Variable. Where the environment has a warehouse of its own, that is
    the one in use."""
    add_roles(postgres)
    for entry in entries(postgres, s3, slack):
        airflow.api.call("POST", "connections", json=entry)
    variable = {"key": "canary", "value": SECRETS["Airflow Variable"]}
    airflow.api.call("POST", "variables", json=variable)
