"""The projects that the benchmarks of the factory write."""

from __future__ import annotations

from pathlib import Path

from bench.factory import write_project
from loadsheet.project.check import check_files


def test_several_pipelines_of_a_benchmark_are_without_errors(tmp_path: Path) -> None:
    write_project(tmp_path, 3)
    specs = sorted(tmp_path.glob("pipelines/*/pipeline.yml"))
    assert len(specs) == 3 and check_files(specs, tmp_path) == []
