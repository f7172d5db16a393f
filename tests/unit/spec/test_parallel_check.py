"""Many files that nobody has checked yet are checked by several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadsheet.project.check import check_files
from loadsheet.spec import parallel_check, pipeline_file
from loadsheet.spec.compiled import is_remembered
from loadsheet.spec.parallel_check import FEWEST, checking_in_parallel

SPEC = """\
version: 1
source: {{conn_id: shop_source, schema: public}}
lake: {{conn_id: lake, bucket: lake}}
warehouse: {{conn_id: warehouse}}
tables: {{t{number}: {{}}}}
"""


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Just enough of them, on a machine of two cores, with an empty cache."""
    monkeypatch.setenv("LOADSHEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parallel_check, "_cores", lambda: 2)
    for number in range(FEWEST):
        folder = tmp_path / "pipelines" / f"p{number:03}"
        folder.mkdir(parents=True)
        (folder / "pipeline.yml").write_text(SPEC.format(number=number))
        old = time.time() - 60  # what is new is looked at twice
        os.utime(folder / "pipeline.yml", (old, old))
    return pipeline_file.find_specs(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that were started; none may be left."""
    found: list[subprocess.Popen[bytes]] = []

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any):
            super().__init__(*args, **more)
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    yield found
    assert all(process.returncode is not None for process in found)


def test_another_process_begins_with_the_last_and_leaves_what_it_finds(
    specs: list[Path], started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with checking_in_parallel(specs):
        assert len(started) == 1
        until = time.monotonic() + 60
        while not is_remembered(specs[0]) and time.monotonic() < until:
            time.sleep(0.05)
    assert all(is_remembered(spec) for spec in specs)
    monkeypatch.setattr(pipeline_file, "_check", None)  # nobody checks again
    assert [pipeline_file.load_pipeline(spec).name for spec in specs] == [
        spec.parent.name for spec in specs
    ]


def test_what_is_found_is_the_same(
    specs: list[Path], started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec in (specs[3], specs[-3]):
        spec.write_text(spec.read_text().replace("tables", "tabels"))
    together = check_files(specs)
    assert len(started) == 1 and {problem.file for problem in together} == {
        str(specs[3]),
        str(specs[-3]),
    }
    monkeypatch.setenv("LOADSHEET_CACHE", "")
    assert check_files(specs) == together


def test_no_process_is_started_for_few_or_known_files_or_without_a_cache(
    specs: list[Path], started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with checking_in_parallel(specs[1:]):
        pass
    pipeline_file.check_file(specs[-1])
    with checking_in_parallel(specs):
        pass
    monkeypatch.setenv("LOADSHEET_CACHE", "")
    with checking_in_parallel(specs):
        pass
    assert not started


def test_it_ends_when_nobody_waits_for_it_any_more(specs: list[Path]) -> None:
    # a parent that is not the test
    command = [sys.executable, "-P", "-m", "loadsheet.spec.parallel_check", "1"]
    done = subprocess.run(
        command, input=os.fsencode(specs[0]), capture_output=True, env=os.environ, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not is_remembered(specs[0])
