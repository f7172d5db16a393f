"""The test files of a pipeline, `tests/*.yml` beside it: read, checked, all problems at once with their positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.spec.document import read_document
from loadsheet.spec.finding import dotted
from loadsheet.spec.load import refuse_link_outwards
from loadsheet.spec.models import Pipeline
from loadsheet.spec.problem import Problem
from loadsheet.testing.fields import CODE
from loadsheet.testing.models import Case, Declared
from loadsheet.testing.needed import unsaid
from loadsheet.testing.reader import Reader

Tests = tuple[list[Case], dict[str, Declared]]
"""The tests of all files, and what the files say of tables, by `schema.table`."""


def test_files(pipeline: Pipeline) -> list[Path]:
    """The pipeline's test files, sorted."""
    folder = pipeline.file.parent / "tests"
    return sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")])


def read_tests(pipeline: Pipeline) -> Tests:
    """The tests of all files. Raises SpecError with every problem of every file."""
    tests, problems = _read(pipeline)
    if problems:
        raise SpecError(problems)
    return tests


def test_problems(pipeline: Pipeline) -> list[Problem]:
    """All that is wrong with the test files, as far as nothing has to be run to know."""
    (cases, declared), problems = _read(pipeline)
    for case in cases if not problems else ():
        if message := unsaid(pipeline, case, declared):
            file, line, column = case.where.rsplit(":", 2)
            path = dotted(("tests", case.name))
            problems.append(
                Problem(file=file, line=int(line), column=int(column), path=path, message=message, code=CODE)
            )
    return problems


def _read(pipeline: Pipeline) -> tuple[Tests, list[Problem]]:
    cases: list[Case] = []
    declared: dict[str, Declared] = {}
    problems: list[Problem] = []
    for file in test_files(pipeline):
        try:
            refuse_link_outwards(file)
            document = read_document(file)
        except SpecError as error:
            problems += map(_of_a_test_file, error.problems)
            continue
        reader = Reader(pipeline, document, file.parent)
        cases += reader.cases()
        declared |= reader.declared(declared)
        problems += reader.problems
    return (cases, declared), problems


def _of_a_test_file(problem: Problem) -> Problem:
    is_empty = problem.code == "missing-key" and not problem.path
    return replace(problem, hint="a test file has the keys tests and tables") if is_empty else problem
