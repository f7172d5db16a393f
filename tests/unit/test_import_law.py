"""The import law of the house: dags -> operators -> loadsheet, and a core that never needs Airflow."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT, "--no-cache"], cwd=folder, text=True, capture_output=True)


def test_imports_point_one_way_only() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


def test_an_import_of_airflow_in_the_core_breaks_the_law(tmp_path: Path) -> None:
    """The negative control: the same contracts refuse a core module that imports Airflow."""
    for name in ("loadsheet", "operators", "dags", "pyproject.toml"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path)], check=True)
    (tmp_path / "loadsheet" / "sql" / "text.py").write_text("from airflow.sdk import DAG\nimport psycopg\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert "the core never imports Airflow BROKEN" in result.stdout
    assert "the pure part imports no driver and no client BROKEN" in result.stdout


def test_the_core_is_tested_without_airflow() -> None:
    assert find_spec("airflow") is None
