"""The checks of a release: a good one passes, and each mistake is found."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts import release
from tests.git import commit_all, git, new_repository

CHANGELOG = """\
# Changelog

## 1.2.0 (2026-05-01)

- Something new.

### Fixed

- A bug.

## 1.1.0 (2026-04-01)

- Older.
"""
METADATA = """\
Metadata-Version: 2.4
Name: loadsheet
Version: 1.2.0
Summary: A summary
License-Expression: Apache-2.0
Classifier: Programming Language :: Python :: 3
Requires-Python: >=3.11
"""
INFO = "loadsheet-1.2.0.dist-info"
WHEEL = {
    "loadsheet/__init__.py": "",
    f"{INFO}/METADATA": METADATA,
    f"{INFO}/entry_points.txt": "[console_scripts]\nloadsheet = loadsheet.__main__:main\n",
    f"{INFO}/licenses/LICENSE": "",
    f"{INFO}/licenses/NOTICE": "",
}
SDIST = ["PKG-INFO", "pyproject.toml", "loadsheet/__init__.py", "LICENSE", "NOTICE"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed repository of version 1.2.0, whose 1.1.0 was released."""
    (tmp_path / "loadsheet").mkdir()
    (tmp_path / "loadsheet" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    new_repository(tmp_path)
    git(tmp_path, "commit", "--allow-empty", "-m", "The version before")
    git(tmp_path, "tag", "v1.1.0")
    commit_all(tmp_path)
    return tmp_path


def declare(root: Path, line: str) -> None:
    (root / "loadsheet" / "__init__.py").write_text(line + "\n")
    commit_all(root)


def dist(root: Path, wheel: dict[str, str], sdist: list[str]) -> Path:
    folder = root / "dist"
    folder.mkdir()
    with zipfile.ZipFile(folder / "loadsheet-1.2.0-py3-none-any.whl", "w") as archive:
        for name, text in wheel.items():
            archive.writestr(name, text)
    with tarfile.open(folder / "loadsheet-1.2.0.tar.gz", "w:gz") as archive:
        for name in sdist:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return folder


def in_top(names: list[str]) -> list[str]:
    return [f"loadsheet-1.2.0/{name}" for name in names]


def test_a_clean_commit_with_its_changelog_may_be_released(repository: Path) -> None:
    assert release.commit_problems(repository, None) == []


def test_the_commands_that_remain_are_printed_after_the_check(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(["commands"], repository) == 0
    printed = capsys.readouterr().out
    assert 'git tag -a v1.2.0 -m "Loadsheet 1.2.0"\ngit push origin v1.2.0\n' in printed


def test_a_dirty_tree_is_refused_and_no_command_is_printed(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "new.py").touch()
    assert release.main(["commands"], repository) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "release: the working tree has changes that are not committed:\n?? new.py" in printed.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# Changelog\n", "no section"),
        (CHANGELOG.replace("1.2.0 (2026-05-01)", "Unreleased (1.2.0)"), "'## Unreleased (1.2.0)'"),
        (CHANGELOG.replace("(2026-05-01)", ""), "must be '## 1.2.0 (YYYY-MM-DD)'"),
        (CHANGELOG.replace("## 1.2.0", "## 1.3.0"), "first section is '## 1.3.0"),
        (CHANGELOG.replace("## 1.2", "## Unreleased\n\n- More.\n\n## 1.2"), "'## Unreleased'"),
        ("## 1.2.0 (2026-05-01)\n\n## 1.1.0 (2026-04-01)\n\n- Older.\n", "1.2.0 is empty"),
    ],
)
def test_a_wrong_changelog_is_refused(repository: Path, text: str, problem: str) -> None:
    (repository / "CHANGELOG.md").write_text(text)
    commit_all(repository)
    (found,) = release.commit_problems(repository, None)
    assert problem in found


def test_a_version_that_has_a_tag_is_refused(repository: Path) -> None:
    git(repository, "tag", "v1.2.0")
    (found,) = release.commit_problems(repository, None)
    assert found.startswith("the tag v1.2.0 exists already")


def test_a_version_older_than_the_newest_tag_is_refused() -> None:
    problems = release.tag_problems("1.9.0", ["v1.2.0", "v1.10.0", "nightly"])
    assert problems == ["version 1.9.0 is older than the newest tag, v1.10.0"]
    assert release.tag_problems("1.11.0", ["v1.10.0"]) == []


def test_the_tag_of_the_checked_out_commit_fits_also_when_it_is_annotated(repository: Path) -> None:
    git(repository, "tag", "-a", "v1.2.0", "-m", "Loadsheet 1.2.0")
    assert release.commit_problems(repository, "v1.2.0") == []


def test_a_tag_of_another_version_is_refused(repository: Path) -> None:
    (found,) = release.commit_problems(repository, "v1.1.0")
    assert found.startswith("the tag is v1.1.0, but the version is 1.2.0")


def test_a_tag_of_another_commit_is_refused(repository: Path) -> None:
    git(repository, "tag", "v1.2.0", "HEAD~1")
    (found,) = release.commit_problems(repository, "v1.2.0")
    assert found == "the tag v1.2.0 is not the commit that is checked out"


def test_a_tag_that_does_not_exist_is_an_error_of_git(
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert release.main(["check", "--tag", "v1.2.0"], repository) == 1
    assert "release: git rev-parse v1.2.0^{commit}:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", 'no line __version__ = "..."'),
        ('__version__ = "1.2"', "'1.2' is not of the form 1.2.3"),
        ('__version__ = "1.2.0.dev1"', "'1.2.0.dev1' is not of the form 1.2.3"),
    ],
)
def test_a_version_that_is_not_a_release_is_refused(
    repository: Path, line: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(repository, line)
    assert release.main(["check"], repository) == 1
    assert problem in capsys.readouterr().err


def test_a_missing_changelog_is_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "CHANGELOG.md").unlink()
    assert release.main(["notes"], repository) == 1
    assert "CHANGELOG.md cannot be read: No such file" in capsys.readouterr().err


def test_the_notes_are_the_section_of_the_version_without_its_heading(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(["notes"], repository) == 0
    assert capsys.readouterr().out == "- Something new.\n\n### Fixed\n\n- A bug.\n"


def test_a_complete_wheel_and_sdist_pass(tmp_path: Path) -> None:
    assert release.artefact_problems(dist(tmp_path, WHEEL, in_top(SDIST)), "1.2.0") == []


@pytest.mark.parametrize(
    ("wheel", "problem"),
    [
        (
            {f"{INFO}/METADATA": METADATA.replace("Apache", "MIT")},
            "License-Expression is 'MIT-2.0'",
        ),
        ({f"{INFO}/METADATA": METADATA.replace("1.2.0", "1.1.0")}, "Version is '1.1.0'"),
        ({f"{INFO}/METADATA": METADATA.replace("Summary: A summary\n", "")}, "no Summary"),
        ({f"{INFO}/METADATA": METADATA.replace("Requires-Python: >=3.11\n", "")}, "no Requires"),
        ({f"{INFO}/entry_points.txt": "[console_scripts]\n"}, "no command loadsheet"),
        ({"dags/__init__.py": ""}, "unexpected top-level entry dags"),
        ({"tests/test_one.py": ""}, "unexpected top-level entry tests"),
    ],
)
def test_a_wrong_wheel_is_refused(tmp_path: Path, wheel: dict[str, str], problem: str) -> None:
    (found,) = release.artefact_problems(dist(tmp_path, WHEEL | wheel, in_top(SDIST)), "1.2.0")
    assert problem in found


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_artefacts_without_the_licence_are_refused(tmp_path: Path, name: str) -> None:
    wheel = {path: text for path, text in WHEEL.items() if not path.endswith(name)}
    sdist = [path for path in SDIST if path != name]
    problems = release.artefact_problems(dist(tmp_path, wheel, in_top(sdist)), "1.2.0")
    assert problems == [
        f"loadsheet-1.2.0-py3-none-any.whl: no {name}",
        f"loadsheet-1.2.0.tar.gz: no {name}",
    ]


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ("loadsheet-1.2.0/.env", "is a hidden file"),
        ("elsewhere/module.py", "is outside loadsheet-1.2.0/"),
    ],
)
def test_an_sdist_with_a_stray_file_is_refused(tmp_path: Path, extra: str, problem: str) -> None:
    folder = dist(tmp_path, WHEEL, [*in_top(SDIST), extra])
    (found,) = release.artefact_problems(folder, "1.2.0")
    assert found == f"loadsheet-1.2.0.tar.gz: {extra} {problem}"


def test_missing_and_additional_artefacts_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "loadsheet-1.1.0.tar.gz").touch()
    assert release.artefact_problems(folder, "1.2.0") == [
        "dist/loadsheet-1.2.0-py3-none-any.whl is missing",
        "dist/loadsheet-1.2.0.tar.gz is missing",
        "dist/loadsheet-1.1.0.tar.gz does not belong there",
    ]


def test_files_that_are_no_archives_are_refused(tmp_path: Path) -> None:
    folder = dist(tmp_path, WHEEL, in_top(SDIST))
    for file in folder.iterdir():
        file.write_text("not an archive")
    wheel, sdist = release.artefact_problems(folder, "1.2.0")
    assert wheel == "loadsheet-1.2.0-py3-none-any.whl: not a zip archive"
    assert sdist.startswith("loadsheet-1.2.0.tar.gz: cannot be read:")
