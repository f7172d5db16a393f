"""What another local user has planted is not believed. Two real users where the tests run as
root."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadsheet.engine.request import RunRequest
from loadsheet.engine.resume import RunRecord
from loadsheet.errors import InputError
from loadsheet.spec import compiled
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.trust import why_not_trusted
from tests.users import AS_ROOT, NOBODY, nobody

USERS = {0, os.geteuid()}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder such as /tmp, in which every user may create files."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def ours(shared: Path) -> Path:
    place = shared / "ours"
    place.mkdir(mode=0o755)
    return place


def group_of_an_image(shared: Path) -> Path:
    place = ours(shared)
    place.chmod(0o775)
    return place


def by_our_link(shared: Path) -> Path:
    place = ours(shared)
    (shared / "link").symlink_to(place)
    return shared / "link"


def planted(shared: Path) -> Path:
    with nobody():
        (shared / "planted").mkdir(mode=0o755)
    return shared / "planted"


def below_planted(shared: Path) -> Path:
    with nobody():
        (shared / "planted").mkdir(mode=0o777)
        (shared / "planted").chmod(0o777)
    (shared / "planted" / "ours").mkdir()
    return shared / "planted" / "ours"


def given_to_us(shared: Path) -> Path:
    """A folder of ours that lies below one of theirs: they can put another in its place."""
    with nobody():
        (shared / "theirs").mkdir(mode=0o755)
    place = shared / "theirs" / "ours"
    place.mkdir()
    return place


def by_their_link(shared: Path) -> Path:
    ours(shared)
    with nobody():
        (shared / "link").symlink_to(shared / "ours")
    return shared / "link"


def for_everybody(shared: Path) -> Path:
    place = ours(shared)
    place.chmod(0o777)
    return place


def sticky_itself(shared: Path) -> Path:
    place = ours(shared)
    place.chmod(0o1777)
    return place


def below_one_for_everybody(shared: Path) -> Path:
    place = for_everybody(shared) / "inner"
    place.mkdir()
    return place


@pytest.mark.parametrize("make", [ours, group_of_an_image, by_our_link])
def test_our_own_folder_is_trusted(shared: Path, make: Callable[[Path], Path]) -> None:
    assert why_not_trusted(make(shared), USERS) == ""


@pytest.mark.parametrize("make", [for_everybody, sticky_itself, below_one_for_everybody])
def test_a_folder_that_everybody_may_change_is_not(
    shared: Path, make: Callable[[Path], Path]
) -> None:
    assert why_not_trusted(make(shared), USERS).startswith("every user may write to ")


@AS_ROOT
@pytest.mark.parametrize("make", [planted, below_planted, given_to_us, by_their_link])
def test_what_another_user_has_made_is_not(shared: Path, make: Callable[[Path], Path]) -> None:
    assert why_not_trusted(make(shared), USERS).endswith(" belongs to another user")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path) -> RunRecord:
    monkeypatch.setenv("LOADSHEET_STATE", str(shared / "state"))
    file = tmp_path / "shop" / "pipeline.yml"
    file.parent.mkdir()
    file.write_text(
        "version: 1\nsource: {conn_id: s}\nlake: {conn_id: l, bucket: lake}\n"
        "warehouse: {conn_id: w}\ntables: {t: }\n"
    )
    return RunRecord(load_pipeline(file))


def test_our_own_record_of_a_run_is_read(record: RunRecord) -> None:
    record.begin(RunRequest(run_id="one"))
    assert record.resumed().run_id == "one"


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_record_that_others_may_write_is_not_read_and_not_written(
    record: RunRecord, shared: Path, mode: int
) -> None:
    """It says which tables need not be read again."""
    record.begin(RunRequest(run_id="one"))
    (shared / "state").chmod(mode)
    with pytest.raises(InputError, match="no run of shop was stopped on this machine"):
        record.resumed()
    before = {file: file.read_bytes() for file in (shared / "state").iterdir()}
    record.begin(RunRequest(run_id="two"))
    assert {file: file.read_bytes() for file in (shared / "state").iterdir()} == before


@AS_ROOT
def test_a_link_in_the_place_of_our_temporary_file_is_not_followed(
    record: RunRecord, shared: Path, tmp_path: Path
) -> None:
    """Its name was the process's id, and it was written through a link."""
    record.begin(RunRequest(run_id="one"))
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (file,) = (shared / "state").iterdir()
    file.with_suffix(f".{os.getpid()}.new").symlink_to(victim)
    record.begin(RunRequest(run_id="two"))
    assert victim.read_text() == "untouched"
    assert json.loads(file.read_text())["request"]["run_id"] == "two"


@AS_ROOT
def test_an_entry_of_the_cache_that_another_user_has_planted_is_not_read(
    monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    folder = shared / "cache"
    monkeypatch.setenv("LOADSHEET_CACHE", str(folder))
    compiled.write_entry("ab" * 32, {"data": 1})
    assert compiled.read_entry("ab" * 32) == {"data": 1}
    os.chown(folder, NOBODY, NOBODY)
    assert compiled.read_entry("ab" * 32) is None
    compiled.write_entry("cd" * 32, {"data": 2})
    assert not (folder / "cd").exists()
