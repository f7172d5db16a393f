"""The import law: layers, no circles, a core that never needs Airflow, and few late imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "loadsheet"
LINT = Path(sys.executable).with_name("lint-imports")

# Late imports, those inside functions: how many a module has, and why. A new one needs a line here.
COMMAND = "a command imports only what it runs; tests/unit/test_start.py measures it"
TASK = "a DAG file is parsed for every task; the engine is imported when a task runs"
PARSER = "the SQL parser takes 25 ms to import, PyYAML and jsonschema 100 ms"
CACHED = "a pipeline found in the cache needs no YAML, schema or SQL parser"
LATE = {
    "__main__.py": (1, "Ctrl-C while the command line is imported is guarded"),
    "airflow/assets.py": (3, TASK),
    "airflow/bundle.py": (1, "Airflow 3.3 has no importers"),
    "airflow/command_line.py": (6, "a worker needs no database models; importing takes seconds"),
    "airflow/dag_ids.py": (2, PARSER),
    "airflow/factory.py": (1, "a worker does not need dag-factory, which takes 90 ms to import"),
    "airflow/freshness.py": (1, TASK),
    "airflow/freshness_watch.py": (1, "Airflow sets the name when a task begins"),
    "airflow/lineage.py": (13, "only a task that reports to OpenLineage needs them, at its end"),
    "airflow/lineage_checks.py": (2, "OpenLineage's client, which only its provider brings"),
    "airflow/look.py": (1, TASK),
    "airflow/metrics.py": (1, "parsing a DAG file counts nothing"),
    "airflow/notes.py": (2, TASK),
    "airflow/operators.py": (9, TASK),
    "airflow/plugin.py": (
        2,
        "each task imports this: the page is for the API server, the engine for a scheduler",
    ),
    "airflow/pools.py": (
        2,
        "only the DAG processor may read Airflow's database, and a worker parses too",
    ),
    "airflow/shown.py": (1, TASK),
    "airflow/alerts/drift_notes.py": (3, TASK),
    "airflow/alerts/incidents.py": (4, TASK),
    "airflow/alerts/message.py": (1, TASK),
    "airflow/alerts/sending.py": (6, "a client is imported when there is something to send by it"),
    "airflow/table_operators.py": (2, TASK),
    "authoring/advice.py": (6, COMMAND),
    "authoring/file.py": (3, COMMAND),
    "cli/adopt.py": (4, COMMAND),
    "cli/add.py": (5, COMMAND),
    "cli/check.py": (2, COMMAND),
    "cli/docs.py": (2, COMMAND),
    "cli/doctor.py": (6, COMMAND),
    "cli/errors.py": (2, "drivers and the bug report are needed only after a failure"),
    "cli/formats.py": (1, COMMAND),
    "cli/gc.py": (10, COMMAND),
    "cli/grants.py": (2, COMMAND),
    "cli/lineage.py": (9, COMMAND),
    "cli/main.py": (2, "logging is set up only with -v, Airflow is asked only with --airflow"),
    "cli/new.py": (8, COMMAND),
    "cli/output.py": (5, "Rich is not imported where nothing is printed in columns or colours"),
    "cli/plan.py": (10, COMMAND),
    "cli/progress.py": (1, "Rich is not imported for a log"),
    "cli/render.py": (1, COMMAND),
    "cli/report.py": (1, "Rich's bars are not imported for a log"),
    "cli/restore.py": (1, COMMAND),
    "cli/run.py": (7, COMMAND),
    "cli/status.py": (10, COMMAND),
    "cli/test.py": (3, COMMAND),
    "cli/ui.py": (2, COMMAND),
    "cli/verify.py": (3, COMMAND),
    "connections/lookup.py": (2, "PyYAML and dotenv are needed only for connections in files"),
    "engine/diagnosis.py": (3, "drivers are imported when one of them has raised"),
    "engine/again.py": (3, "a load seldom extracts again or fills"),
    "engine/execute.py": (6, "a step imports only its own kind"),
    "engine/extract.py": (2, "few runs repair a table or read a sample, which takes the parser"),
    "engine/look.py": (1, "few pipelines read a table by several tasks"),
    "engine/sessions.py": (1, "the S3 client takes 60 ms; a transform does not need it"),
    "engine/snapshot.py": (
        3,
        "few runs repair a table, search for deletes or read a table by several tasks",
    ),
    "engine/transform.py": (1, PARSER),
    "lake/parts.py": (2, "pyarrow is an extra"),
    "preview/health.py": (1, "the S3 client takes 60 ms; most previews do not need it"),
    "preview/pipeline.py": (1, "the S3 client takes 60 ms; most previews do not need it"),
    "project/check.py": (1, "test files are read only where a pipeline has some"),
    "project/asset_names.py": (1, PARSER),
    "project/conflicts.py": (2, PARSER),
    "project/declared.py": (2, PARSER),
    "source/beneath.py": (2, "only a view needs the SQL parser, which takes 25 ms to import"),
    "source/stream.py": (3, "asyncpg is needed only for tables above 50,000 rows"),
    "warehouse/mart_deletes.py": (3, PARSER),
    "spec/compiled.py": (4, CACHED),
    "spec/dependencies.py": (1, CACHED),
    "spec/pipeline_file.py": (8, CACHED),
    "spec/schedule.py": (4, "croniter takes 28 ms; presets do not need it"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT, "--no-cache"], cwd=folder, text=True, capture_output=True)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the packages and their contracts."""
    for name in ("loadsheet", "operators", "dags", "pyproject.toml"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path)], check=True)
    return tmp_path


def test_imports_point_one_way_only() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


def test_an_import_of_airflow_in_the_core_breaks_the_law(house: Path) -> None:
    """The negative control: the same contracts refuse a core module that imports Airflow."""
    (house / "loadsheet" / "sql" / "text.py").write_text(
        "from airflow.sdk import DAG\nimport psycopg\n"
    )
    result = lint(house)
    assert result.returncode == 1
    assert "the core never imports Airflow BROKEN" in result.stdout
    assert "the pure part imports no driver and no client BROKEN" in result.stdout


def test_a_new_module_must_choose_a_layer(house: Path) -> None:
    (house / "loadsheet" / "helpers.py").write_text("")
    result = lint(house)
    assert result.returncode == 1 and "loadsheet.helpers" in result.stdout


def test_two_modules_that_import_each_other_break_the_law(house: Path) -> None:
    with (house / "loadsheet" / "lake" / "manifest.py").open("a") as manifest:
        manifest.write("\nfrom loadsheet.lake import parts\n")
    result = lint(house)
    assert result.returncode == 1 and "No cycles are allowed in loadsheet.lake" in result.stdout


def test_the_core_is_tested_without_airflow() -> None:
    assert find_spec("airflow") is None


def late_imports(module: Path) -> int:
    """The import statements inside functions."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {node for function in functions for node in ast.walk(function)}
    return sum(isinstance(node, ast.Import | ast.ImportFrom) for node in inside)


def test_late_imports_are_counted_and_have_a_reason() -> None:
    found = {
        module.relative_to(PACKAGE).as_posix(): late_imports(module)
        for module in PACKAGE.rglob("*.py")
    }
    expected = {module: count for module, (count, _) in LATE.items()}
    assert {module: count for module, count in found.items() if count} == expected


def test_the_map_in_contributing_shows_every_room() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `loadsheet/(\w+?)(?:/|\.py)` \|", text, re.MULTILINE)
    assert sorted(shown) == sorted(rooms - {"__init__", "__main__"})
