"""The distributions, built once, and environments with the wheel. The checkout is on no path."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.packaging.environment import ROOT, Environment, create, install_beside, install_pinned
from tests.services import bucket, database, minio, postgres, s3, two_databases  # noqa: F401

_NOT_SOURCE = (".*", "build", "dist", "*.egg-info", "node_modules", "__pycache__")


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that `python -m build` makes from it."""
    source = tmp_path_factory.mktemp("source") / "loadsheet"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*_NOT_SOURCE))
    folder = tmp_path_factory.mktemp("distributions")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    """The wheel."""
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(distributions: Path) -> Path:
    """The source distribution."""
    (found,) = distributions.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install loadsheet` with pinned requirements, in an environment that was empty."""
    began = time.monotonic()
    made = create(
        tmp_path_factory.mktemp("core") / "venv",
        {"LOADSHEET_CACHE": str(tmp_path_factory.mktemp("core-cache")), "COLUMNS": "200"},
    )
    install_pinned(made, wheel, ROOT / "requirements" / "core.txt")
    return replace(made, seconds=time.monotonic() - began)


@pytest.fixture(scope="session")
def airflow(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with the Airflow that runs these tests: installing another takes minutes."""
    home = tmp_path_factory.mktemp("airflow-home")
    began = time.monotonic()
    made = create(
        tmp_path_factory.mktemp("airflow") / "venv",
        {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY": "False",
            "LOADSHEET_CACHE": str(home / "cache"),
            "COLUMNS": "200",
        },
        "--without-pip",
    )
    install_beside(made, wheel, Path(sysconfig.get_paths()["purelib"]))
    return replace(made, seconds=time.monotonic() - began)
