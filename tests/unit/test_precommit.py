"""The pre-commit hook: its definition, and its entry run as pre-commit runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
BROKEN = """\
version: 1
source: {conn_id: s}
lake: {conn_id: l, bucket: lake}
warehouse: {conn_id: w}
tables: {a: {mode: x}}
"""


def run_hook(folder: Path, environment: Path) -> subprocess.CompletedProcess[str]:
    """The entry in `folder`; `environment` is where pre-commit has installed the package, below its
    clone."""
    command, *arguments = HOOK["entry"].split()
    code = "import sys; from loadsheet.cli.main import main; sys.argv[0] = 'loadsheet'; main()"
    assert command == "loadsheet"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(environment)},
    )


def test_the_hook_runs_on_the_files_that_check_reads_and_checks_them_all() -> None:
    assert {"id", "name", "entry", "language", "files"} <= HOOK.keys()
    assert HOOK["pass_filenames"] is False
    for file in (
        "pipelines/shop/pipeline.yml",
        "pipelines/shop/sql/a.sql",
        "connections/connections.yml",
    ):
        assert re.search(HOOK["files"], file)
    assert not re.search(HOOK["files"], "README.md")


def test_its_dependencies_are_the_ones_the_project_pins() -> None:
    pins = set(
        re.findall(
            r"^([\w.-]+==\S+)", (ROOT / "requirements" / "core-test.txt").read_text(), re.MULTILINE
        )
    )
    assert {dependency.lower() for dependency in HOOK["additional_dependencies"]} <= {
        pin.lower() for pin in pins
    }


def test_it_imports_nothing_but_its_dependencies() -> None:
    code = (
        "import sys, typer.testing; from loadsheet.cli.main import"
        " app;typer.testing.CliRunner().invoke(app, ['check']);others = {'psycopg', 'minio',"
        " 'zstandard', 'asyncpg', 'pandas', 'pyarrow', 'ruamel', 'airflow'};print(*others &"
        " {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_its_entry_passes_and_fails_as_check_does_from_an_environment_inside_a_clone(
    tmp_path: Path,
) -> None:
    clone, project = tmp_path / "clone", tmp_path / "project"
    environment = clone / "py_env" / "lib" / "site-packages"
    shutil.copytree(
        ROOT / "loadsheet", environment / "loadsheet", ignore=shutil.ignore_patterns("__pycache__")
    )
    file = project / "pipelines" / "shop" / "pipeline.yml"
    file.parent.mkdir(parents=True)
    file.write_text(BROKEN.replace("mode: x", "mode: merge"))
    good = run_hook(project, environment)
    assert (good.returncode, good.stdout) == (0, "1 file checked: no problems\n"), good.stderr
    file.write_text(BROKEN)
    bad = run_hook(project, environment)
    assert (bad.returncode, bad.stdout.splitlines()[0]) == (
        2,
        "pipelines/shop/pipeline.yml:5:20 tables.a.mode: 'x' is not one of replace, append, merge",
    )
