"""Pipelines in a Git repository: what a push can bring, and what becomes of a run whose commit is
gone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowException
from airflow.providers.git.bundles.git import GitDagBundle

from loadsheet.airflow.git_bundle import GitPipelineBundle
from loadsheet.airflow.stubs import WATCH_FILE
from tests.git import git, new_repository

PYTHON = "# an Airflow DAG, says Airflow's look at the text\nraise SystemExit('run')\n"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "storage"))
    return tmp_path / "storage"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    new_repository(folder)
    push(folder, {"pipelines/one/pipeline.yml": "version: 1\n"})
    return folder


def push(repository: Path, files: dict[str, str], *how: str) -> str:
    """The new commit."""
    for name, text in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    git(repository, "add", "--all", "--force")
    git(repository, "commit", "--quiet", "--message", "pushed", *how)
    return git(repository, "rev-parse", "HEAD")


def bundle(
    repository: Path, kind: type[GitDagBundle] = GitPipelineBundle, **settings: Any
) -> GitDagBundle:
    # As from a server: from a path Git would take the repository's objects along, those of lost
    # commits too.
    return kind(name="pipelines", repo_url=f"file://{repository}", tracking_ref="main", **settings)


def runs(bundle: GitDagBundle) -> set[str]:
    """The files that Airflow runs for pipelines, and those of others."""
    names = set()
    for file in bundle.path.rglob("*.py"):
        is_ours = "from loadsheet.airflow." in file.read_text()
        names.add(file.name if is_ours else f"{file.name}, pushed")
    return names - {WATCH_FILE}


def test_python_in_the_repository_is_never_run(repository: Path, storage: Path) -> None:
    first = bundle(repository)
    first.initialize()
    homes = [
        os.path.relpath(first.path, start)
        for start in (first.repo_path, first.base_dir, first.base_dir.parent)
    ]
    homes = [home for home in homes if not home.startswith("..")]
    names = ("one.yml.py", "two.yml.py", "pushed.py", WATCH_FILE)
    pushed = {
        f"{home}/{name}": PYTHON
        for home in [*homes, "dags", "pipelines/two", "."]
        for name in names
    }
    commit = push(repository, {"pipelines/two/pipeline.yml": "version: 1\n", **pushed})
    first.refresh()
    assert runs(first) == {"one.yml.py", "two.yml.py"}
    version = bundle(repository, version=commit)
    version.initialize()
    assert runs(version) == {"one.yml.py", "two.yml.py"}
    plain = bundle(repository, GitDagBundle)
    plain.initialize()
    assert "pushed.py, pushed" in runs(plain)


def test_a_versions_files_go_with_its_clone(repository: Path, storage: Path) -> None:
    made = bundle(repository, version=git(repository, "rev-parse", "HEAD"))
    made.initialize()
    assert runs(made) == {"one.yml.py"}
    shutil.rmtree(made.repo_path)  # as Airflow does when nobody has used it for long
    assert not made.path.exists()


def test_a_versions_files_survive_what_airflow_does_to_its_clone(
    repository: Path, storage: Path
) -> None:
    first = git(repository, "rev-parse", "HEAD")
    for _ in range(2):  # the second time, Airflow runs `git reset` and `git clean` in it
        made = bundle(repository, version=first, prune_dotgit_folder=False)
        made.initialize()
        (made.repo_path / "left_by_a_task").write_text("")
        written = (made.path / "one.yml.py").stat().st_ctime_ns
    again = bundle(repository, version=first, prune_dotgit_folder=False)
    again.initialize()
    assert not (made.repo_path / "left_by_a_task").exists()
    # another task may be reading it
    assert (made.path / "one.yml.py").stat().st_ctime_ns == written


def test_only_the_dag_processor_prepares_to_parse(
    repository: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[bool] = []
    monkeypatch.setattr(
        "loadsheet.airflow.git_bundle.prepare_to_parse", lambda: prepared.append(True)
    )
    made = bundle(repository)
    made.initialize()  # as a worker does, where bundles have no versions
    assert not prepared and runs(made) == {"one.yml.py"}
    made.refresh()
    assert prepared


def test_after_a_forced_push_a_run_goes_on_where_its_commit_was_seen(
    repository: Path, storage: Path
) -> None:
    seen = bundle(repository)
    seen.initialize()
    lost = git(repository, "rev-parse", "HEAD")
    new = push(repository, {"pipelines/two/pipeline.yml": "version: 1\n"}, "--amend")
    git(repository, "reflog", "expire", "--expire=now", "--all")
    git(repository, "gc", "--quiet", "--prune=now")
    seen.refresh()
    assert seen.get_current_version().version == new and runs(seen) == {"one.yml.py", "two.yml.py"}
    kept = bundle(repository, version=lost)
    kept.initialize()
    assert runs(kept) == {"one.yml.py"}
    shutil.rmtree(storage)  # another machine
    with pytest.raises(AirflowException, match=f"Version {lost} not found in the repository"):
        bundle(repository, version=lost).initialize()


def test_a_push_without_pipelines_changes_nothing_and_is_an_error(
    repository: Path, storage: Path
) -> None:
    made = bundle(repository)
    made.initialize()
    git(repository, "rm", "-r", "--quiet", "pipelines")
    push(repository, {"readme": ""})
    with pytest.raises(FileNotFoundError, match="is not a project: it has no folder `pipelines`"):
        made.refresh()
    assert runs(made) == {"one.yml.py"}
