"""docs/compose.md, "Use your own source", followed: .env, connections/, a pipeline file and an
override file suffice. docker-compose.yml had to be edited before: airflow-init had a list of
variables, and waited for the flights."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from io import StringIO
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from loadsheet.connections.export import export_connections
from tests.unit.compose_file import ROOT, STACK

PAGE = (ROOT / "docs" / "compose.md").read_text()
SECTION = PAGE[PAGE.index("## Use your own source") : PAGE.index("## Add providers")]
BLOCKS = [
    textwrap.dedent(text) for text in re.findall(r"^ *```\w+\n(.*?)^ *```$", SECTION, re.M | re.S)
]
ENV, CONNECTION, PIPELINE, OVERRIDE, STOP, LOOK = BLOCKS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project after the page's steps."""
    connections = yaml.safe_load((ROOT / "connections" / "connections.yml").read_text())
    del connections["flights_source"]
    files = {
        ".env": (ROOT / ".env.example").read_text().replace("=\n", "=filled\n") + ENV,
        "connections/connections.yml": yaml.safe_dump(connections) + CONNECTION,
        "pipelines/shop/pipeline.yml": PIPELINE,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_airflow_init_can_fill_in_the_new_connection(project: Path) -> None:
    init = STACK["services"]["airflow-init"]
    assert init["env_file"] == [".env"]
    assert "./connections:/opt/airflow/project/connections:ro" in init["volumes"]
    environment = {name: value or "" for name, value in dotenv_values(project / ".env").items()}
    fixed = {name: value for name, value in init["environment"].items() if "${" not in value}
    found = export_connections(project, environment | fixed)
    assert found["shop_source"]["host"] == "host.docker.internal"
    assert found["shop_source"]["password"] == "change-me"
    assert found["warehouse"]["host"] == "warehouse"


def test_the_pipeline_file_has_no_problem(project: Path) -> None:
    command = [sys.executable, "-m", "loadsheet", "--project", str(project), "check"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_override_names_services_that_exist() -> None:
    override = yaml.safe_load(OVERRIDE)
    assert set(override) == {"services"}
    assert set(override["services"]) <= set(STACK["services"])


def test_nothing_that_stays_needs_the_flights() -> None:
    assert dotenv_values(stream=StringIO(ENV))["COMPOSE_PROFILES"] == ""
    services = STACK["services"]
    flights = {name for name, s in services.items() if s.get("profiles") == ["flights"]}
    assert flights == {"source", "source-roles", "source-reader", "source-init"}
    for name in set(services) - flights:
        needs = services[name].get("depends_on", {})
        strict = {other for other, how in needs.items() if how.get("required", True)}
        assert not strict & flights, name
    # `docker compose up --remove-orphans` leaves the services of a profile that is off.
    assert set(STOP.split("--force")[1].split()) == flights


def test_the_services_that_connect_to_the_source_know_its_name() -> None:
    known = {name for name, s in yaml.safe_load(OVERRIDE)["services"].items() if "extra_hosts" in s}
    looks = set(re.findall(r"-T (\S+) bash", LOOK))
    assert looks == {"airflow-init"}
    assert known == {"airflow-scheduler"} | looks
