"""A pipeline file is written whole or not at all, and never over somebody else's edit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadsheet.authoring.file import SpecFile, write_new
from loadsheet.errors import InputError, SpecError

NEW = {"countries": {"incremental": "updated_at"}}


@pytest.fixture
def file(project: Path) -> Path:
    return project / "pipelines" / "shop" / "pipeline.yml"


def test_the_new_text_takes_the_files_place_with_its_rights(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    file.chmod(0o640)
    spec = SpecFile(file)
    spec.write(spec.with_tables(NEW))
    assert file.read_bytes().startswith(b"\xef\xbb\xbfversion: 1\n")
    assert b"\n  countries: {incremental: updated_at}\ntransforms:" in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in file.parent.iterdir()) == ["pipeline.yml", "sql"]


def test_a_link_stays_a_link(file: Path) -> None:
    elsewhere = file.parents[1] / "elsewhere.yml"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    spec = SpecFile(file)
    spec.write(spec.with_tables(NEW))
    assert file.is_symlink() and "countries:" in elsewhere.read_text()


def test_an_edit_in_between_is_noticed_and_kept(file: Path) -> None:
    spec = SpecFile(file)
    text = spec.with_tables(NEW)
    file.write_text(file.read_text() + "# edited meanwhile\n")
    edited = file.read_bytes()
    with pytest.raises(InputError, match="was changed meanwhile; nothing was written"):
        spec.write(text)
    assert file.read_bytes() == edited
    file.unlink()
    with pytest.raises(InputError, match="was changed meanwhile"):
        spec.write(text)
    assert sorted(path.name for path in file.parent.iterdir()) == ["sql"]


@pytest.mark.parametrize("read_only", ["pipelines/shop/pipeline.yml", "pipelines/shop"])
def test_what_is_read_only_is_left_alone(
    project: Path, file: Path, read_only: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, before = SpecFile(file), file.read_bytes()
    text = spec.with_tables(NEW)
    # Told to be so, because these tests may be run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != (project / read_only).resolve())
    with pytest.raises(InputError, match=f"{read_only} is read-only; nothing was written"):
        spec.write(text)
    assert file.read_bytes() == before
    monkeypatch.undo()
    spec.write(text)  # the control
    assert file.read_bytes() != before


def test_a_text_that_would_not_pass_the_check_is_refused(file: Path) -> None:
    with pytest.raises(SpecError, match="append without incremental"):
        SpecFile(file).with_tables({"countries": {"mode": "append"}})
    with pytest.raises(InputError, match="larger than 1 MiB"):
        SpecFile(file).with_tables(
            {f"t{number}": {"primary_key": "k" * 60} for number in range(15_000)}
        )


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    file = tmp_path / "pipelines" / "new" / "pipeline.yml"
    write_new(file, "one\n")
    with pytest.raises(InputError, match="already there"):
        write_new(file, "two\n")
    assert file.read_text() == "one\n" and os.listdir(file.parent) == ["pipeline.yml"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a file")
    with pytest.raises(
        InputError, match="new cannot be a folder: there is a file; nothing was written"
    ):
        write_new(tmp_path / "new" / "pipeline.yml", "one\n")
