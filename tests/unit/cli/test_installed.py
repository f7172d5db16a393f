"""A driver that is missing or finds no library is told in a line, with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from loadsheet.cli.errors import BUG, FAILED
from loadsheet.installed import unusable
from tests.unit.cli.conftest import SPEC, Cli
from tests.unit.cli.test_run import Engine, pretending

NO_LIBRARY = "no pq wrapper available.\nAttempts made:\n- libpq library not found"
"""What psycopg raises where the system has no libpq."""


def run_with(folder: Path, package: str, raises: str) -> subprocess.CompletedProcess[str]:
    """`loadsheet run` where the package ends with that statement when it is imported."""
    home = folder / "pipelines" / "shop"
    home.mkdir(parents=True)
    (home / "pipeline.yml").write_text(SPEC.partition("transforms:")[0])
    broken = folder / "site" / package
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(raises)
    path = os.pathsep.join([str(broken.parent), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-m", "loadsheet", "--project", str(folder), "run", "shop"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_system_without_libpq_is_told_so(tmp_path: Path) -> None:
    """It was two tracebacks, of psycopg and of what was to explain it."""
    done = run_with(tmp_path, "psycopg", f"raise ImportError({NO_LIBRARY!r})")
    assert done.returncode == FAILED and done.stdout == ""
    assert done.stderr.startswith("error: the package psycopg cannot be used here: ImportError: no")
    assert "Next: `pip install 'psycopg[binary]'`" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr and "bug" not in done.stderr


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.part", "loadsheet.no_such"])
def test_a_package_that_is_missing_in_a_step_is_no_bug_but_a_module_of_ours_is(
    cli: Cli, project: Path, engine: Engine, name: str
) -> None:
    try:
        import_module(name)
    except ImportError as error:
        engine(pretending({"extract.extract_orders": error}))
    result = cli("run", "shop")
    if name.startswith("loadsheet."):
        assert result.code == BUG and "this is a bug" in result.err
        return
    assert result.code == FAILED and "this is a bug" not in result.err
    assert "the package no_such_package cannot be used here" in " ".join(result.out.split())


def test_other_errors_are_not_a_packages() -> None:
    assert unusable(ValueError("no pq wrapper available")) is None
    assert unusable(ImportError("raised nowhere")) is None
