"""The record of a run, from which `--resume` knows which whole tables had nothing new."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadsheet.engine.resume import RunRecord
from loadsheet.outcome import RunRequest
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setenv("LOADSHEET_STATE", str(tmp_path / "state"))
    file = tmp_path / "shop" / "pipeline.yml"
    file.parent.mkdir()
    file.write_text(
        "version: 1\nsource: {conn_id: s}\nlake: {conn_id: l, bucket: lake}\n"
        "warehouse: {conn_id: w}\ntables: {a: , b: , c: }\n"
    )
    return load_pipeline(file)


def begun(pipeline: Pipeline, run_id: str) -> RunRecord:
    record = RunRecord(pipeline)
    record.begin(RunRequest(run_id=run_id))
    return record


def found_unchanged(pipeline: Pipeline) -> frozenset[str]:
    return RunRecord(pipeline).resumed().found_unchanged


def test_tables_with_nothing_new_are_known_to_a_run_that_resumes(pipeline: Pipeline) -> None:
    record = begun(pipeline, "one")
    record.add_unchanged("a")
    record.add_unchanged("b")
    assert found_unchanged(pipeline) == {"a", "b"}
    # The run that resumes keeps what it was told, and adds to it.
    again = RunRecord(pipeline)
    again.begin(again.resumed())
    again.add_unchanged("c")
    assert found_unchanged(pipeline) == {"a", "b", "c"}


def test_a_run_that_was_followed_by_another_adds_nothing_to_its_record(pipeline: Pipeline) -> None:
    record = begun(pipeline, "one")
    begun(pipeline, "two")
    record.add_unchanged("a")
    assert RunRecord(pipeline).resumed().run_id == "two"
    assert found_unchanged(pipeline) == frozenset()


def test_a_line_that_was_cut_off_counts_for_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    record = begun(pipeline, "one")
    record.add_unchanged("a")
    record.add_unchanged("b")
    (file,) = (tmp_path / "state").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert found_unchanged(pipeline) == {"a"}


def test_a_record_that_is_gone_is_not_made_again(pipeline: Pipeline, tmp_path: Path) -> None:
    record = begun(pipeline, "one")
    record.end()
    record.add_unchanged("a")
    assert not list((tmp_path / "state").iterdir())
