"""All problems of a set of pipeline files: each file's own, and what only shows beside the rest of
the project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.problem import Problem
from loadsheet.project.conflicts import duplicates
from loadsheet.project.declared import undeclared
from loadsheet.project.folder import PIPELINES, project_folder
from loadsheet.spec.models import Pipeline
from loadsheet.spec.parallel_check import checking_in_parallel
from loadsheet.spec.pipeline_file import check_file, find_specs


def check_files(files: Sequence[Path], given: Path | None = None) -> list[Problem]:
    """The problems of `files` and of the tests beside them, file by file.

    Their projects' other pipelines are read, but not blamed. `given` is the project the user has
    named; else it is the one around each file.
    """
    groups: dict[str, list[Problem]] = {}
    pipelines: dict[Path, Pipeline | None] = {}
    with checking_in_parallel(files):
        for file in files:
            pipeline, problems = check_file(file)
            if pipeline:
                problems += _of_tests(pipeline)
            pipelines[file.resolve()] = pipeline
            groups[str(file)] = problems
    for project, own in _projects(files, given):
        for problem in (*undeclared(project, own), *_beside(project, own, pipelines)):
            groups.setdefault(problem.file, []).append(problem)
    in_order: list[Problem] = []
    for spec, found in groups.items():
        in_order += sorted(found, key=partial(_order, spec))
    return in_order


def unread(project: Path) -> list[Problem]:
    """Files that look like pipelines of `project` and are ignored because of their names."""
    files = sorted((project / PIPELINES).glob("*/pipeline.yaml"))
    message, hint = "ignored: pipeline files must be named pipeline.yml", "rename it"
    return [
        Problem(
            file=str(file),
            line=1,
            column=1,
            path="",
            message=message,
            hint=hint,
            code="unreadable-file",
        )
        for file in files
        if not file.with_suffix(".yml").exists()
    ]


def _of_tests(pipeline: Pipeline) -> list[Problem]:
    if not (pipeline.file.parent / "tests").is_dir():
        return []
    # Here, because the SQL parser comes with it, which a check that is remembered does without.
    from loadsheet.sqltest.files import test_problems

    return test_problems(pipeline)


def _order(spec: str, problem: Problem) -> tuple[bool, str, int, int]:
    return problem.file != spec, problem.file, problem.line, problem.column


def _projects(files: Iterable[Path], given: Path | None) -> Iterator[tuple[Path, list[Path]]]:
    """Each project with those of `files` that are its pipelines. Loose files may be drafts, and are
    left alone."""
    projects: dict[Path, list[Path]] = {}
    for file in files:
        project = project_folder(given, file.resolve().parent)
        if (project / PIPELINES).is_dir() and file.name == "pipeline.yml":
            projects.setdefault(project, []).append(file)
    yield from projects.items()


def _beside(
    project: Path, own: Sequence[Path], known: dict[Path, Pipeline | None]
) -> list[Problem]:
    asked = {file.resolve() for file in own}
    rest = (check_file(file)[0] for file in find_specs(project) if file.resolve() not in asked)
    blamed = filter(None, (known[file.resolve()] for file in own))
    try:
        return duplicates(list(filter(None, rest)), list(blamed))
    except SpecError as error:  # a file that has just been taken away
        return list(error.problems)
