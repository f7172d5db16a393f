"""`loadsheet init`: a project that passes its own check, in a new or an existing folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from loadsheet.project import scaffold
from loadsheet.project.scaffold import EXAMPLE_FILES, FILES, SCHEMA_FILES
from tests.unit.cli.conftest import Cli

ALL = sorted([*FILES, *EXAMPLE_FILES, *(f"schemas/{name}" for name in SCHEMA_FILES)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its name."""
    files = (file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_new_folder_becomes_a_project_that_passes_its_check(cli: Cli, here: Path) -> None:
    made = cli("init", "warehouse loads")
    assert made.code == 0, made.err
    assert sorted(contents(here / "warehouse loads")) == ALL
    lines = made.out.splitlines()
    assert lines[0] == "Files written to warehouse loads:"
    assert lines[1 : len(ALL) + 1] == [f"  {name}" for name in ALL]
    assert lines[len(ALL) + 1 : len(ALL) + 3] == ["Next:", "  cd 'warehouse loads'"]
    checked = cli("--project", "warehouse loads", "check")
    assert (checked.code, checked.out) == (0, "1 file checked: no problems\n")


def test_the_current_folder_is_the_default(cli: Cli, here: Path) -> None:
    assert cli("init").code == 0
    assert sorted(contents(here)) == ALL


def test_the_global_option_names_the_folder_as_well(cli: Cli, here: Path) -> None:
    assert cli("--project", "there", "init").code == 0
    assert sorted(contents(here / "there")) == ALL
    twice = cli("--project", "there", "init", "elsewhere")
    assert twice.code == 2 and "name the folder once" in twice.err
    assert not (here / "elsewhere").exists()


def test_existing_files_are_listed_and_left_alone(cli: Cli, here: Path) -> None:
    (here / "README.md").write_text("mine\n")
    (here / "connections").mkdir()
    (here / "connections" / "connections.yml").write_text("{}\n")
    made = cli("init")
    assert made.code == 0
    left = made.out.partition("Files left alone because they exist:\n")[2]
    assert left.startswith("  README.md\n  connections/connections.yml\nNext:")
    assert (here / "README.md").read_text() == "mine\n"
    assert (here / "connections" / "connections.yml").read_text() == "{}\n"
    assert sorted(contents(here)) == ALL


def test_a_second_time_changes_nothing(cli: Cli, here: Path) -> None:
    cli("init")
    before = contents(here)
    again = cli("init", "--json")
    assert again.code == 0
    assert again.json == {"project": ".", "written": [], "kept": ALL, "hints": []}
    assert contents(here) == before
    assert "Next:" not in cli("init").out


def test_scripts_get_the_names_as_json(cli: Cli, here: Path) -> None:
    (here / "Dockerfile").write_text("FROM scratch\n")
    made = cli("init", "--json").json
    assert made["kept"] == ["Dockerfile"]
    assert made["written"] == [name for name in ALL if name != "Dockerfile"]


def test_a_project_with_pipelines_gets_no_example(cli: Cli, here: Path) -> None:
    (here / "pipelines" / "mine").mkdir(parents=True)
    (here / "pipelines" / "mine" / "pipeline.yml").write_text("version: 1\n")
    assert cli("init").code == 0
    assert not (here / "pipelines" / "example").exists()


@pytest.mark.parametrize("text", ["*.pyc\n", "*.pyc\n/.env\n", ""])
def test_a_gitignore_must_ignore_the_passwords(cli: Cli, here: Path, text: str) -> None:
    (here / ".gitignore").write_text(text)
    hinted = ".env" not in text
    hint = "add `.env` to .gitignore: it will hold passwords"
    assert (f"Hint: {hint}" in cli("init").out) == hinted
    assert cli("init", "--json").json["hints"] == ([hint] if hinted else [])


def test_a_link_to_nowhere_counts_as_a_file(cli: Cli, here: Path) -> None:
    (here / ".gitignore").symlink_to(here / "missing" / "gitignore")
    made = cli("init", "--json")
    assert made.code == 0 and made.json["kept"] == [".gitignore"] and made.json["hints"]
    assert not (here / "missing").exists()


def make(path: Path, kind: str) -> None:
    path.mkdir(parents=True) if kind == "folder" else path.write_text("")


@pytest.mark.parametrize(
    ("obstacles", "named"),
    [
        ({"pipelines": "file"}, ["pipelines is not a folder"]),
        ({"README.md": "folder"}, ["README.md is a folder, not a file"]),
        (
            {".github": "file", "Dockerfile": "folder"},
            [".github is not a folder", "Dockerfile is a folder, not a file"],
        ),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_is_written(
    cli: Cli, here: Path, obstacles: dict[str, str], named: list[str]
) -> None:
    for name, kind in obstacles.items():
        make(here / name, kind)
    before = sorted(here.rglob("*"))
    failed = cli("init")
    assert failed.code == 2
    advice = "Nothing was written: rename what is in the way"
    assert failed.err == f"error: {'; '.join(named)}. {advice}\n"
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("folder", ["taken", "taken/below"])
def test_a_file_cannot_become_a_project(cli: Cli, here: Path, folder: str) -> None:
    (here / "taken").write_text("")
    failed = cli("init", folder)
    assert failed.code == 2 and "taken is not a folder" in failed.err


def test_a_full_disk_leaves_no_part(
    cli: Cli,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part would be kept as the user's own file by the next `loadsheet init`."""

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(file: Path, *given: Any, **more: Any) -> Any:
        opened = opening(file, *given, **more)
        if file != Path("Dockerfile"):
            return opened
        opened.write(b"FROM")
        opened.close()
        return Full()

    opening = Path.open
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_full)
        failed = cli("init")
    assert failed.code == 1 and "space" in failed.err.lower()
    assert not (here / "Dockerfile").exists()
    assert cli("init").code == 0
    assert sorted(contents(here)) == ALL


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_failed_work(cli: Cli, here: Path) -> None:
    here.chmod(0o500)
    assert cli("init", "below").code == 1


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Warehouse Loads", "warehouse-loads"),
        ("shop_2", "shop_2"),
        ("_x-", "x"),
        ("été", "t"),
        ("__", "loadsheet-project"),
    ],
)
def test_containers_are_named_after_the_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert scaffold.project_name(tmp_path / folder) == name
