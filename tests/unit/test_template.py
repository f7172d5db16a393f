"""The files that `loadsheet init` writes agree with ours, and pass the same checks."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from loadsheet import __version__
from loadsheet.connections.export import export_connections
from loadsheet.project.scaffold import TEMPLATES, create_project, project_name
from tests.unit import compose_checks as checks
from tests.unit.compose_file import ROOT, SECRET, STACK, VARIABLE, Stack, parse, strings

AIRFLOW = re.findall(r"^apache-airflow==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)[0]
OURS_ONLY = ("source", "source-roles", "source-reader", "source-init")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project in a folder called `shop`."""
    return create_project(tmp_path_factory.mktemp("made") / "shop").folder


@pytest.fixture(scope="module")
def stack(project: Path) -> Stack:
    """Its docker-compose.yml."""
    return parse((project / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def documented(project: Path) -> dict[str, str]:
    """Its .env.example."""
    found = dotenv_values(project / ".env.example")
    return {name: value or "" for name, value in found.items()}


def derived(ours: Stack) -> Stack:
    """Our docker-compose.yml without the flights source: what a user's project has."""
    stack: Any = copy.deepcopy(ours)
    stack["name"] = "shop"
    del stack["volumes"]["source-data"], stack["volumes"]["source-socket"]
    for name in OURS_ONLY:
        del stack["services"][name]
    for service in stack["services"].values():
        service["image"] = service["image"].replace("loadsheet-airflow", "shop-airflow")
        service.get("depends_on", {}).pop("source-init", None)
    init = stack["services"]["airflow-init"]
    kept = {
        name: value
        for name, value in init["environment"].items()
        if not name.startswith("FLIGHTS_SOURCE_")
    }
    init["environment"] = kept
    return stack


def without_anchors(stack: Stack) -> Stack:
    """The parts of a compose file that compose itself acts on."""
    return {name: value for name, value in stack.items() if not name.startswith("x-")}


def test_the_compose_file_is_ours_without_the_flights(stack: Stack) -> None:
    assert without_anchors(stack) == without_anchors(derived(STACK))


@pytest.mark.parametrize(
    "check",
    [
        checks.shape,
        checks.references,
        checks.literal_secrets,
        checks.images,
        checks.ports,
        checks.health,
        checks.endings,
        checks.secrets_held,
        checks.superusers,
        checks.users,
        checks.airflow,
    ],
    ids=lambda check: check.__name__,
)
def test_the_compose_file_passes(check: Callable[[Stack], list[str]], stack: Stack) -> None:
    assert check(stack) == []


def test_its_variables_are_documented(stack: Stack, documented: dict[str, str]) -> None:
    assert checks.variables(stack, documented) == []


def test_the_example_environment_names_what_is_used_and_no_secret(
    project: Path, stack: Stack, documented: dict[str, str]
) -> None:
    connections = yaml.safe_load((project / "connections" / "connections.yml").read_text())
    used = {
        name
        for file in (stack, connections)
        for text in strings(file)
        for name, _, _ in VARIABLE.findall(text)
    }
    assert set(documented) == used | {"COMPOSE_PROFILES"}
    assert [name for name, value in documented.items() if SECRET.search(name) and value] == []


def test_the_readmes_command_fills_every_secret_but_the_sources(
    project: Path, stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / ".env.example").write_text((project / ".env.example").read_text())
    readme = (project / "README.md").read_text()
    script = re.search(r"<<'EOF_PYTHON'\n(.*?)\nEOF_PYTHON", readme, re.S)
    assert script
    subprocess.run([sys.executable, "-c", script[1]], cwd=tmp_path, check=True)
    filled = dotenv_values(tmp_path / ".env")
    empty = {name for name, value in filled.items() if not value}
    assert empty == {
        "COMPOSE_PROFILES",
        "SOURCE_DB",
        "SOURCE_HOST",
        "SOURCE_PASSWORD",
        "SOURCE_USER",
    }
    required = {
        name for text in strings(stack) for name, how, _ in VARIABLE.findall(text) if how == ":?"
    }
    assert required <= filled.keys() - empty
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_its_connections_can_be_exported_once_the_environment_is_filled(
    project: Path, stack: Stack, documented: dict[str, str]
) -> None:
    environment = {name: value or "filled" for name, value in documented.items()}
    environment["SOURCE_PORT"] = "5432"
    environment |= {
        name: value
        for name, value in stack["services"]["airflow-init"]["environment"].items()
        if "${" not in value
    }
    found = export_connections(project, environment)
    assert set(found) == {"lake", "source", "warehouse"}
    assert (found["warehouse"]["host"], found["warehouse"]["port"]) == ("warehouse", 5432)
    assert found["lake"]["extra"]["endpoint_url"] == "http://lake:9000"


def test_slack_takes_no_more_than_removing_the_hashes(project: Path) -> None:
    text = (project / "connections" / "connections.yml").read_text()
    start = text.index("# slack:")
    uncommented = text[:start] + re.sub(r"^# ", "", text[start:], flags=re.M)
    assert yaml.safe_load(uncommented)["slack"]["conn_type"] == "slackwebhook"
    example = (project / ".env.example").read_text()
    opened = re.sub(r"^# (?=SLACK_)", "", example, flags=re.M)
    slack = {name for name in dotenv_values(stream=StringIO(opened)) if name.startswith("SLACK_")}
    assert slack == set(re.findall(r"SLACK_\w+", text[start:]))


@pytest.mark.parametrize(
    ("template", "ours"),
    [
        ("airflowignore", ".airflowignore"),
        ("dags/load_pipelines.py", "dags/load_pipelines.py"),
        ("variables/variables.json", "variables/variables.json"),
        ("vscode/extensions.json", ".vscode/extensions.json"),
    ],
)
def test_a_file_that_is_the_same_in_our_repository_has_the_same_bytes(
    template: str, ours: str
) -> None:
    assert (TEMPLATES / template).read_bytes() == (ROOT / ours).read_bytes()


def test_the_image_has_the_airflow_that_we_test_with(project: Path, stack: Stack) -> None:
    dockerfile = (project / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", dockerfile, re.M) == [
        f"apache/airflow:slim-{AIRFLOW}-python3.12"
    ]
    assert f'"apache-airflow=={AIRFLOW}"' in dockerfile
    assert re.findall(r"^USER (.*)$", dockerfile, re.M)[-1] == "airflow"
    # The containers cannot write either: their file system is read-only.
    assert re.findall(r"compileall .*\n.*get_path\(\"(\w+)\"\)", dockerfile) == [
        "stdlib",
        "purelib",
    ]
    assert "touch /opt/airflow/airflow.cfg" in dockerfile
    images = {service["image"] for service in stack["services"].values() if "build" in service}
    assert images == {f"{project_name(project)}-airflow:{AIRFLOW}"}


def test_the_image_contains_the_project_and_no_secret(project: Path) -> None:
    lines = (project / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    listed = {line[1:].rstrip("/") for line in rules if line.startswith("!")}
    assert listed == {".airflowignore", "connections", "dags", "pipelines", "schemas", "variables"}


def test_the_files_that_install_loadsheet_name_this_version(project: Path) -> None:
    installing = {}
    files = [file for file in project.rglob("*") if file.is_file()]
    for file in files:
        found = re.findall(r"\bloadsheet(?:\[[\w,]+\])?==([\w.]+)", file.read_text())
        if found:
            installing[str(file.relative_to(project))] = set(found)
    assert installing == {
        ".github/workflows/loadsheet.yml": {__version__},
        ".pre-commit-config.yaml": {__version__},
        "Dockerfile": {__version__},
        "README.md": {__version__},
    }


def test_no_placeholder_is_left(project: Path) -> None:
    texts = {file: file.read_text() for file in project.rglob("*") if file.is_file()}
    assert [file for file, text in texts.items() if re.search(r"@[A-Z]+@", text)] == []


def test_git_ignores_the_passwords(project: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    names = [".env", ".env.production", "connections.json", ".venv/bin/python", ".env.example"]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *names], cwd=project, capture_output=True, text=True
    )
    assert done.stdout.split() == names[:-1]


def test_the_hook_and_the_workflow_run_the_check(project: Path) -> None:
    config = yaml.safe_load((project / ".pre-commit-config.yaml").read_text())
    (hook,) = config["repos"][0]["hooks"]
    (ours,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    same = ("id", "name", "entry", "language", "files", "pass_filenames")
    assert {key: hook[key] for key in same} == {key: ours[key] for key in same}
    workflow = yaml.safe_load((project / ".github" / "workflows" / "loadsheet.yml").read_text())
    steps = workflow["jobs"]["pipelines"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands[1:] == ["loadsheet check --format github", "loadsheet test"]


def test_the_editor_finds_the_schemas(project: Path) -> None:
    settings = json.loads((project / ".vscode" / "settings.json").read_text())
    for schema, files in settings["yaml.schemas"].items():
        assert json.loads((project / schema).read_text())["$schema"]
        assert list(project.glob(files))
