"""Every file under tests/specs is a case: drop one in, with the exact output beside it, and it is
tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadsheet.spec.pipeline_file import check_file

SPECS = Path(__file__).parents[2] / "specs"
VALID = sorted((SPECS / "valid").rglob("*.yml"))
INVALID = sorted((SPECS / "invalid").rglob("*.yml"))


def _name(file: Path) -> str:
    case = file.parent if file.name == "pipeline.yml" else file
    return case.stem


def _output(file: Path) -> str:
    lines = "".join(f"{problem}\n" for problem in check_file(file)[1])
    return lines.replace(str(file), "{file}").replace(str(file.parent), "{folder}")


@pytest.mark.parametrize("file", INVALID, ids=_name)
def test_an_invalid_spec_gives_exactly_the_expected_problems(file: Path) -> None:
    assert _output(file) == file.with_suffix(".expected").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", INVALID, ids=_name)
def test_an_invalid_spec_has_no_pipeline_and_at_least_one_located_error(file: Path) -> None:
    pipeline, problems = check_file(file)
    assert pipeline is None
    assert any(problem.severity == "error" for problem in problems)
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)


@pytest.mark.parametrize("file", VALID, ids=_name)
def test_a_valid_spec_has_a_pipeline_and_exactly_the_expected_warnings(file: Path) -> None:
    expected = file.with_suffix(".expected")
    assert check_file(file)[0] is not None
    assert _output(file) == (expected.read_text(encoding="utf-8") if expected.exists() else "")


def test_no_expected_output_is_left_without_its_case() -> None:
    orphans = [file for file in SPECS.rglob("*.expected") if not file.with_suffix(".yml").exists()]
    assert orphans == []


def test_there_are_enough_cases_to_trust() -> None:
    assert len(INVALID) >= 50
    assert len(VALID) >= 12
