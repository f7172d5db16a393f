"""The names that DAGs, settings and DAG files of earlier days import still work, and a project's
own `operators` and `dags` packages do no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from loadsheet.airflow import bundle, dag_file, look, operators, registry
from loadsheet.airflow.alerts import callbacks
from tests.airflow.conftest import REPO

FACES = {
    "operators.bucket.CreateBucketOperator": operators.CreateBucketOperator,
    "operators.look.LookOperator": look.LookOperator,
    "operators.resolve.ResolveTablesOperator": operators.ResolveTablesOperator,
    "operators.extract.PostgresToMinioOperator": operators.PostgresToMinioOperator,
    "operators.load.MinioToPostgresOperator": operators.MinioToPostgresOperator,
    "operators.transform.SqlTransformOperator": operators.SqlTransformOperator,
    "operators.verify.VerifyTablesOperator": operators.VerifyTablesOperator,
    "operators.broken.BrokenSpecOperator": operators.BrokenSpecOperator,
    "operators.slack.notify_failure": callbacks.notify_failure,
    "operators.slack.notify_recovery": callbacks.notify_success,
    "dags.bundle.LocalPipelineBundle": bundle.LocalPipelineBundle,
    "dags.pipeline_file.dag_of": dag_file.dag_of,
    "dags.registry.pipeline_dags": registry.pipeline_dags,
}


@pytest.mark.parametrize("name", FACES)
def test_an_earlier_name_is_the_same_object(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(import_module(module), attribute) is FACES[name]


PARSE = """\
import runpy
dag = runpy.run_path({file!r})["dag"]
print(dag.dag_id, *sorted(type(task).__module__ for task in dag.tasks))
"""
PARSED = "\nflights loadsheet.airflow.look loadsheet.airflow.operators"
OLD_STUB = """\
from dags.pipeline_file import dag_of

dag = dag_of(__file__, {project!r}, {folder!r})
"""
NEW_STUB = OLD_STUB.replace("dags.pipeline_file", "loadsheet.airflow.dag_file")


def parse(stub: str, tmp_path: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Parse a DAG file of the bundle with the folders `path` first on Python's path."""
    for name in ("dags", "parsed"):
        (tmp_path / "stubs" / name).mkdir(parents=True, exist_ok=True)
    file = tmp_path / "stubs" / "dags" / "flights.yml.py"
    file.write_text(stub.format(project=str(REPO), folder="flights"))
    environment = {
        "PATH": "",
        "AIRFLOW_HOME": str(tmp_path),
        "LOADSHEET_CACHE": "",
        "PYTHONPATH": os.pathsep.join(map(str, [*path, REPO])),
    }
    command = [sys.executable, "-W", "ignore", "-c", PARSE.format(file=str(file))]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("stub", [OLD_STUB, NEW_STUB])
def test_a_dag_file_of_the_bundle_builds_its_dag(stub: str, tmp_path: Path) -> None:
    parsed = parse(stub, tmp_path)
    assert "\nflights loadsheet.airflow.look loadsheet.airflow.operators" in parsed.stdout, (
        parsed.stderr
    )


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with packages of the user's own, named `operators` and `dags`."""
    for name in ("operators", "dags"):
        package = tmp_path / "plugins" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
    return tmp_path / "plugins"


def test_a_users_own_operators_package_does_no_harm(tmp_path: Path, foreign: Path) -> None:
    parsed = parse(NEW_STUB, tmp_path, foreign)
    assert "\nflights loadsheet.airflow.look loadsheet.airflow.operators" in parsed.stdout, (
        parsed.stderr
    )


def test_by_the_earlier_names_it_would(tmp_path: Path, foreign: Path) -> None:
    """The negative control: the names that collide are those of earlier DAG files only."""
    assert "No module named 'dags.pipeline_file'" in parse(OLD_STUB, tmp_path, foreign).stderr
