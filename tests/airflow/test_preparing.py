"""What the DAG processor has ready before it forks a parse."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadsheet.airflow import bundle
from loadsheet.airflow.bundle import prepare_to_parse
from tests.airflow.conftest import REPO

PARSE = """\
import os, sys
from pathlib import Path
from loadsheet.airflow.bundle import prepare_to_parse
from loadsheet.airflow.dag_file import dag_of
{prepare}
known = set(sys.modules)
folder = Path({folder!r})
for name in ("dags", "parsed"):
    (folder / name).mkdir(exist_ok=True)
assert dag_of(str(folder / "dags" / "flights.yml.py"), {project!r}, "flights").task_ids
print(sorted({{name.partition(".")[0] for name in set(sys.modules) - known}} - {{"encodings"}}))
"""


def imported(tmp_path: Path, prepare: str) -> str:
    code = PARSE.format(folder=str(tmp_path), project=str(REPO), prepare=prepare)
    command = [sys.executable, "-W", "ignore", "-c", code]
    env = {
        "PATH": "",
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": str(REPO),
        "LOADSHEET_CACHE": "",
    }
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_parse_of_an_edited_file_imports_nothing(tmp_path: Path) -> None:
    assert imported(tmp_path, "prepare_to_parse()") == "[]"


def test_unprepared_it_imports_a_lot(tmp_path: Path) -> None:
    found = imported(tmp_path, "")
    assert "loadsheet" in found and "dagfactory" in found


LOAD = """
from pathlib import Path
from loadsheet.spec.pipeline_file import load_pipeline
load_pipeline(Path("pipelines/flights/pipeline.yml"))
"""
UPDATE = """
import loadsheet.spec.rules.pipeline
with open("loadsheet/spec/rules/pipeline.py", "a") as code:
    code.write("# another rule")
"""


@pytest.mark.parametrize(
    ("prepare", "checked_anew"),
    [("import loadsheet.airflow.bundle as b; b.prepare_to_parse()", True), ("", False)],
)
def test_updated_code_does_not_take_over_what_the_old_has_found(
    tmp_path: Path, prepare: str, checked_anew: bool
) -> None:
    for name in ("dags", "loadsheet", "operators", "pipelines", "schemas"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"
    env = {
        "PATH": "",
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "LOADSHEET_CACHE": str(cache),
    }

    def entries_after(code: str) -> int:
        command = [sys.executable, "-W", "ignore", "-c", code]
        subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=True)
        return len(list(cache.glob("*/*.json")))

    assert entries_after(prepare + UPDATE + LOAD) == 1  # a DAG processor that nobody has restarted
    assert (entries_after(LOAD) == 2) == checked_anew


@pytest.mark.parametrize(
    ("order", "said"), [("modified_time", False), ("random_seeded_by_host", True)]
)
def test_it_says_when_airflow_would_not_see_edits(
    order: str, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__FILE_PARSING_SORT_MODE", order)
    prepare_to_parse.cache_clear()
    with caplog.at_level(logging.ERROR, "loadsheet.airflow.bundle"):
        prepare_to_parse()
        prepare_to_parse()
    assert caplog.text.count("edits wait for min_file_process_interval") == said


def test_a_listed_module_of_ours_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "PARSING", ("loadsheet.airflow.dag_file", "loadsheet.gone"))
    prepare_to_parse.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"loadsheet\.gone"):
        prepare_to_parse()


def test_another_librarys_missing_module_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bundle, "PARSING", ("dagfactory.gone",))
    prepare_to_parse.cache_clear()
    with caplog.at_level(logging.ERROR, "loadsheet.airflow.bundle"):
        prepare_to_parse()
    assert "dagfactory.gone cannot be imported" in caplog.text
