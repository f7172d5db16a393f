"""The command line takes from Airflow what only Airflow knows: connections in a secrets backend or
in its database, and the Variable `loadsheet`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.conftest import REPO
from tests.core.shop import MART, SOURCE, TABLES
from tests.project import Project

FILES = "airflow.secrets.local_filesystem.LocalFilesystemBackend"

# In place of `airflow db migrate`, which takes half a minute.
STORE = """
import json, sys
from airflow import settings
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.connection import Connection
settings.initialize()
# Which tables refer to each other differs between versions.
import_all_models()
Base.metadata.create_all(settings.engine)
session = settings.Session()
for conn_id, given in json.load(open(sys.argv[1])).items():
    if isinstance(given, str):
        given = {"uri": given}
    if "extra" in given:
        given["extra"] = json.dumps(given["extra"])
    session.add(Connection(conn_id=conn_id, **given))
session.commit()
"""


@dataclass
class Shop:
    """The project, whose connections are in files of a secrets backend and nowhere else."""

    project: Project
    environment: dict[str, str]
    backend: dict[str, str]
    connections: Path

    def cli(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.project.command(*arguments),
            env={**self.environment, **more},
            text=True,
            capture_output=True,
            timeout=120,
        )


@pytest.fixture
def shop(project: Project, tmp_path: Path) -> Shop:
    project.in_source(SOURCE)
    project.spec(TABLES, MART)
    environment = {
        name: value
        for name, value in project.environment().items()
        if not name.startswith(("AIRFLOW__SECRETS", "AIRFLOW__WORKERS"))
    }
    prefix = "AIRFLOW_CONN_"
    found: dict[str, Any] = {}
    for conn_id in ("shop_source", "warehouse", "lake"):
        text = environment.pop(f"{prefix}{conn_id.upper()}")
        found[conn_id] = json.loads(text) if text.startswith("{") else text
    connections = tmp_path / "connections.json"
    connections.write_text(json.dumps(found))
    variables = tmp_path / "variables.json"
    variables.write_text(json.dumps({"loadsheet": '{"incremental": false}'}))
    files = {
        "connections_file_path": str(connections),
        "variables_file_path": str(variables),
    }
    backend = {
        "AIRFLOW__SECRETS__BACKEND": FILES,
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(files),
    }
    environment["AIRFLOW_HOME"] = str(tmp_path / "airflow")
    environment["PYTHONPATH"] = str(REPO)
    return Shop(project, environment, backend, connections)


def test_a_configured_backend_is_asked_for_what_the_project_does_not_define(shop: Shop) -> None:
    """The old code never asked it. Here it is configured in `.env`, as `check` reads it."""
    (shop.project.folder / ".env").write_text(
        "".join(f"{name}='{value}'\n" for name, value in shop.backend.items())
    )
    done = shop.cli("run", "shop", "--json")
    assert done.returncode == 0, done.stderr
    # Nothing but the document is printed, and Airflow does not take over our log.
    states = {step["id"]: step["status"] for step in json.loads(done.stdout)["steps"]}
    assert set(states.values()) == {"done"} and "loadsheet." not in done.stderr
    assert shop.project.differences("customer") == 0
    # Without --airflow the Variable is not read, and nothing is new.
    again = shop.cli("run", "shop", "--json")
    assert '"status": "skipped"' in again.stdout
    # What the project defines comes first.
    done = shop.cli("doctor", AIRFLOW_CONN_WAREHOUSE="postgresql://nobody:x@127.0.0.1:1/none")
    assert done.returncode == 1 and "port 1 failed" in done.stdout
    # With --airflow it is Airflow's that counts, and its Variable.
    (shop.project.folder / "connections").mkdir()
    wrong = "warehouse: {conn_type: postgres, host: 127.0.0.1, port: 1}\n"
    (shop.project.folder / "connections" / "connections.yml").write_text(wrong)
    full = shop.cli("--airflow", "run", "shop", "--json", **shop.backend)
    assert full.returncode == 0, full.stderr
    messages = [step["message"] for step in json.loads(full.stdout)["steps"]]
    assert "100 rows, rebuilt (full refresh)" in messages


def test_a_backend_that_fails_says_why(shop: Shop) -> None:
    """To Airflow it is a connection that does not exist."""
    shop.connections.write_text("{")
    done = shop.cli("run", "shop", **shop.backend)
    assert done.returncode == 2 and "LocalFilesystemBackend failed: " in done.stderr
    unknown = {**shop.backend, "AIRFLOW__SECRETS__BACKEND": "no.such.Backend"}
    done = shop.cli("run", "shop", **unknown)
    assert done.returncode == 2 and "no.such.Backend" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_connection_that_airflow_does_not_have_either_is_said(shop: Shop) -> None:
    shop.connections.write_text("{}")
    done = shop.cli("run", "shop", **shop.backend)
    told = "Airflow has no connection 'shop_source' in its secrets backend or environment"
    assert done.returncode == 2 and told in done.stderr


def test_its_database_is_asked_with_the_option(shop: Shop, tmp_path: Path) -> None:
    environment = {
        **shop.environment,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    subprocess.run(
        [sys.executable, "-c", STORE, str(shop.connections)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    shop.environment = environment
    done = shop.cli("--airflow", "doctor", "shop")
    assert done.returncode == 0, done.stdout + done.stderr
    done = shop.cli("doctor", "shop")
    assert done.returncode == 2 and "is not defined" in done.stdout
