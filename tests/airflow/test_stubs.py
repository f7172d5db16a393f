"""The folder of DAG files that stands for a project's pipelines: what is in it, and when Airflow is told to look."""

from __future__ import annotations

import ast
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dags.stubs import Stubs, mark

OLD = 1_000_000_000_000_000_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        add(tmp_path / "project", name)
    return tmp_path / "project"


@pytest.fixture
def stubs(project: Path, tmp_path: Path) -> Stubs:
    made = Stubs(project, tmp_path / "storage", forget=-5)
    made.refresh()
    settle(made)
    return made


def add(project: Path, name: str, text: str = "version: 1\n") -> Path:
    file = project / "pipelines" / name / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    file.write_text(text)
    return file


def settle(stubs: Stubs) -> None:
    """As if every file had been parsed long ago."""
    for name in names(stubs):
        os.utime(stubs.dags / name, ns=(OLD, OLD))
        mark(stubs.dags / name, OLD + 1, "")


def names(stubs: Stubs) -> list[str]:
    return sorted(file.name for file in stubs.dags.glob("*.py"))


def stamped(stubs: Stubs) -> set[str]:
    """The files that a refresh tells Airflow to parse."""
    stubs.refresh()
    return {name for name in names(stubs) if (stubs.dags / name).stat().st_mtime_ns > OLD}


def test_every_pipeline_file_has_one_and_nothing_else_has(project: Path, stubs: Stubs) -> None:
    (project / "pipelines" / "no_file").mkdir()
    add(project, ".hidden")
    stubs.refresh()
    assert names(stubs) == ["one.yml.py", "two.yml.py"]
    assert not (set(project.rglob("*.py")) or set(project.rglob("*pipelines-*")))


def test_nothing_happens_while_nothing_changes(stubs: Stubs) -> None:
    inodes = [(stubs.dags / name).stat().st_ino for name in names(stubs)]
    assert stamped(stubs) == stamped(stubs) == set()
    assert inodes == [(stubs.dags / name).stat().st_ino for name in names(stubs)]


@pytest.mark.parametrize("edited", ["pipeline.yml", "sql/mart.sql"])
def test_an_edit_is_passed_on_whatever_time_the_file_says(project: Path, stubs: Stubs, edited: str) -> None:
    file = project / "pipelines" / "one" / edited
    file.write_text("something else")
    os.utime(file, ns=(OLD, OLD))  # as `cp -p` or `mv` leave it
    assert stamped(stubs) == {"one.yml.py"}


def test_a_folder_that_cannot_be_looked_into_stops_no_other(project: Path, stubs: Stubs) -> None:
    (project / "pipelines" / "loop").symlink_to("loop")
    (project / "pipelines" / "a_file").write_text("")
    (project / "pipelines" / "one" / "pipeline.yml").write_text("edited")
    assert stamped(stubs) == {"one.yml.py"}


def test_deleted_sql_is_an_edit(project: Path, stubs: Stubs) -> None:
    file = project / "pipelines" / "two" / "sql" / "mart.sql"
    file.write_text("SELECT 1")
    stubs.refresh()
    settle(stubs)
    file.unlink()
    assert "two.yml.py" in stamped(stubs)


def test_an_edit_during_a_parse_is_passed_on_until_a_parse_began_after_it(project: Path, stubs: Stubs) -> None:
    (project / "pipelines" / "one" / "pipeline.yml").write_text("edited while Airflow parses")
    assert stamped(stubs) == {"one.yml.py"}
    first = (stubs.dags / "one.yml.py").stat().st_mtime_ns
    time.sleep(0.01)
    stubs.refresh()
    again = (stubs.dags / "one.yml.py").stat().st_mtime_ns
    assert again > first  # the parse that runs began before the edit
    mark(stubs.dags / "one.yml.py", time.time_ns(), "")
    stubs._again.clear()
    stubs.refresh()
    assert (stubs.dags / "one.yml.py").stat().st_mtime_ns == again


def test_an_edited_file_is_parsed_once_more_so_that_airflow_forgets_its_old_name(project: Path, stubs: Stubs) -> None:
    (project / "pipelines" / "one" / "pipeline.yml").write_text("pipeline: renamed")
    stubs.refresh()
    settle(stubs)  # with forget=-5, the time is over at once
    assert stamped(stubs) == {"one.yml.py"}
    settle(stubs)
    assert stamped(stubs) == set()


def test_a_file_that_claims_anothers_name_is_parsed_when_the_others_change(project: Path, stubs: Stubs) -> None:
    mark(stubs.dags / "two.yml.py", OLD + 1, "one")
    assert stamped(stubs) == set()
    (project / "pipelines" / "one" / "pipeline.yml").unlink()
    assert stamped(stubs) == {"two.yml.py"}


def test_a_deleted_pipelines_file_goes_and_comes_back_with_it(project: Path, stubs: Stubs) -> None:
    file = project / "pipelines" / "one" / "pipeline.yml"
    file.unlink()
    stubs.refresh()
    assert names(stubs) == ["two.yml.py"]
    file.write_text("version: 1\n")
    assert stamped(stubs) == {"one.yml.py"}


def test_a_worker_adds_what_is_missing_and_takes_nothing_away(project: Path, stubs: Stubs, tmp_path: Path) -> None:
    add(project, "three")
    (project / "pipelines" / "one" / "pipeline.yml").unlink()
    Stubs(project, tmp_path / "storage").add()
    assert names(stubs) == ["one.yml.py", "three.yml.py", "two.yml.py"]


def test_many_processes_at_once_agree(project: Path, tmp_path: Path) -> None:
    for number in range(50):
        add(project, f"p{number}")
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(Stubs(project, tmp_path / "at_once").refresh) for _ in range(16)]:
            done.result()
    stubs = Stubs(project, tmp_path / "at_once")
    assert len(names(stubs)) == 52 and sorted(file.name for file in stubs.dags.parent.iterdir()) == [
        ".gitignore", "dags", "parsed",
    ]  # fmt: skip


def test_a_missing_folder_of_pipelines_is_a_wrong_path_and_removes_nothing(project: Path, stubs: Stubs) -> None:
    (project / "pipelines").rename(project / "elsewhere")
    with pytest.raises(FileNotFoundError, match="is no project: it has no folder `pipelines`"):
        stubs.refresh()
    assert names(stubs) == ["one.yml.py", "two.yml.py"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(project: Path, stubs: Stubs) -> None:
    os.chown(stubs.dags, 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user: remove it, or set"):
        stubs.refresh()


def test_two_projects_never_share_a_folder(project: Path, tmp_path: Path) -> None:
    add(tmp_path / "other", "one")
    assert Stubs(project, tmp_path).dags != Stubs(tmp_path / "other", tmp_path).dags


@pytest.mark.parametrize(
    "folder",
    ["a'\"\nimport os\n", "{project}", "x" * 240, "Ünï", "two words", b"\xff".decode(errors="surrogateescape")],
)
def test_a_folders_name_is_only_ever_data(project: Path, stubs: Stubs, folder: str) -> None:
    try:
        add(project, folder)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has no such names")
    stubs.refresh()
    (new,) = set(names(stubs)) - {"one.yml.py", "two.yml.py"}
    imports, assignment = ast.parse((stubs.dags / new).read_text()).body
    assert isinstance(imports, ast.ImportFrom) and isinstance(assignment, ast.Assign)
    assert isinstance(assignment.value, ast.Call)
    assert [ast.literal_eval(value) for value in assignment.value.args[1:]] == [str(project), folder]
    new.encode()
