"""What a new user does: install, `loadsheet init`, a pipeline, rows, a DAG in Airflow."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from demo.airflow import Airflow
from demo.servers import PostgresServer, S3Server
from tests.granted import Granted, role_of
from tests.packaging.environment import Environment

LIMIT_SECONDS = 300
SHOP = """
CREATE TABLE customers (customer_id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (
    order_id int PRIMARY KEY,
    amount numeric(10, 2) NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customers SELECT i, 'Customer ' || i FROM generate_series(1, 20) i;
INSERT INTO orders (order_id, amount) SELECT i, i FROM generate_series(1, 1000) i;
"""


def answers(source: str, warehouse: str, s3: S3Server) -> dict[str, str]:
    """What a user writes into .env."""
    found = {
        "LAKE_ENDPOINT_URL": s3.endpoint,
        "LAKE_ACCESS_KEY": s3.access_key,
        "LAKE_SECRET_KEY": s3.secret_key,
    }
    for name, dsn in (("SOURCE", source), ("WAREHOUSE", warehouse)):
        parts = conninfo_to_dict(dsn)
        for field in ("host", "port", "user", "password"):
            found[f"{name}_{field.upper()}"] = str(parts[field])
        found[f"{name}_DB"] = str(parts["dbname"])
    return found


def filled(example: str, values: dict[str, str]) -> str:
    """The text of .env.example with the values of this user; every name must be in it."""
    for name, value in values.items():
        example, count = re.subn(rf"^{name}=.*$", f"{name}={value}", example, flags=re.M)
        assert count == 1, name
    return example


def scalar(dsn: str, query: str) -> object:
    """The one value of a query."""
    with psycopg.connect(dsn) as session:
        row = session.execute(query).fetchone()
    assert row
    return row[0]


def test_from_an_empty_folder_to_rows_and_a_dag_in_under_five_minutes(
    core: Environment,
    airflow: Environment,
    tmp_path: Path,
    postgres: PostgresServer,
    two_databases: tuple[str, str],
    database: str,
    s3: S3Server,
    record_property: Callable[[str, object], None],
) -> None:
    source, warehouse = two_databases
    with psycopg.connect(source) as session:
        session.execute(SHOP)
    # Both environments are installed once for all tests; their time counts.
    began = time.monotonic() - core.seconds

    user = Environment(core.folder)
    user.succeed("loadsheet", "init", "warehouse-loads", at=tmp_path)
    project = tmp_path / "warehouse-loads"
    example = (project / ".env.example").read_text()
    granted = Granted(project)
    logins = granted.login("source", source), granted.login("warehouse", warehouse)
    # What `loadsheet new` asks for; the rest is known when it has written the pipeline file.
    with psycopg.connect(source) as session:
        extractor = role_of("source", source)
        session.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {extractor}")
    (project / ".env").write_text(filled(example, answers(*logins, s3)))
    user.succeed("loadsheet", "new", "shop", at=project)
    assert (granted.login("source", source), granted.login("warehouse", warehouse)) == logins
    assert "2 files checked: no problems" in user.succeed("loadsheet", "check", at=project)
    user.succeed("loadsheet", "run", "shop", at=project)
    assert scalar(warehouse, "SELECT count(*) FROM shop_staging.orders") == 1000
    rows_after = time.monotonic() - began

    with psycopg.connect(source) as session:
        session.execute("INSERT INTO orders (order_id, amount) VALUES (1001, 1001)")
    began -= airflow.seconds
    bundle = {
        "name": "project",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(project), "refresh_interval": 1},
    }
    settings = {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "LOADSHEET_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": "",
    }
    home = tmp_path / "airflow"
    server = Airflow(home, project, database, extra=settings, python=airflow.python).prepare()
    exported = user.succeed("python", "-m", "loadsheet.connections.export", at=project)
    (home / "connections.json").write_text(exported)
    server.run("connections", "import", str(home / "connections.json"))
    with server:
        server.wait_for_dag("shop")
        assert server.api.import_errors() == []
        assert server.api.has_dag("example")
        server.api.unpause("shop")
        run_id = server.api.trigger("shop")
        state = server.api.wait("shop", run_id, timeout=120)
        tasks = {task.task_id: task.state for task in server.api.tasks("shop", run_id)}
    dag_after = time.monotonic() - began
    assert state == "success", tasks
    assert tasks["load.load_orders"] == "success"
    assert scalar(warehouse, "SELECT count(*) FROM shop_staging.orders") == 1001

    record_property("seconds until rows", round(rows_after))
    record_property("seconds until the DAG has run", round(dag_after))
    print(f"rows after {rows_after:.0f} s, a finished DAG run after {dag_after:.0f} s")
    assert dag_after < LIMIT_SECONDS
