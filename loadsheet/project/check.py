"""All problems of a set of pipeline files: each file's own, and conflicts with the rest of the
project."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.problem import Problem
from loadsheet.project.asset_names import unwritten
from loadsheet.project.conflicts import duplicates
from loadsheet.project.declared import undeclared
from loadsheet.project.folder import PIPELINES, project_folder
from loadsheet.spec.files import real_path
from loadsheet.spec.models import Pipeline
from loadsheet.spec.parallel_check import checking_in_parallel
from loadsheet.spec.pipeline_file import check_file, find_specs

_log = logging.getLogger(__name__)


def check_files(files: Sequence[Path], explicit: Path | None = None) -> list[Problem]:
    """The problems of `files` and of the test files beside them, file by file.

    The other pipelines of their projects are read for conflicts, but their own problems are not
    reported. `explicit` is the project that the user named; by default it is the one around each
    file.
    """
    by_file: dict[str, list[Problem]] = {}
    pipelines: dict[Path, Pipeline | None] = {}
    with checking_in_parallel(files):
        for file in files:
            pipeline, problems = check_file(file)
            if pipeline and (pipeline.file.parent / "tests").is_dir():
                # Imported here: it brings the SQL parser, which a check whose results are cached
                # does not need.
                from loadsheet.sqltest.files import test_problems

                problems += test_problems(pipeline)
            pipelines[real_path(file)] = pipeline
            by_file[str(file)] = problems
    for project, specs in _by_project(files, explicit).items():
        _log.info("checking %d pipeline files of the project %s", len(specs), project)
        for problem in (*undeclared(project, specs), *_conflicts(project, specs, pipelines)):
            by_file.setdefault(problem.file, []).append(problem)
    in_order: list[Problem] = []
    for name, problems in by_file.items():
        in_order += sorted(problems, key=partial(_order, name))
    return in_order


def misnamed_files(project: Path) -> list[Problem]:
    """Files of `project` that look like pipeline files and are ignored because of their names."""
    problems = []
    for file in sorted((project / PIPELINES).glob("*/pipeline.yaml")):
        if file.with_suffix(".yml").exists():
            continue
        problem = Problem(
            file=str(file),
            line=1,
            column=1,
            path="",
            message="ignored: pipeline files must be named pipeline.yml",
            hint="rename it",
            code="unreadable-file",
        )
        problems.append(problem)
    return problems


def _order(spec: str, problem: Problem) -> tuple[bool, str, int, int]:
    """The pipeline file first, then its SQL and tests, each from top to bottom."""
    return problem.file != spec, problem.file, problem.line, problem.column


def _by_project(files: Iterable[Path], explicit: Path | None) -> dict[Path, list[Path]]:
    """Each project with those of `files` that are its pipelines. Other files may be drafts, and
    drafts do not conflict with anything."""
    projects: dict[Path, list[Path]] = {}
    for file in files:
        project = project_folder(explicit, real_path(file).parent)
        if file.name == "pipeline.yml" and (project / PIPELINES).is_dir():
            projects.setdefault(project, []).append(file)
    return projects


def _conflicts(
    project: Path, specs: Sequence[Path], pipelines: dict[Path, Pipeline | None]
) -> list[Problem]:
    """The conflicts of the pipelines in `specs` with all others of the project. `pipelines` holds
    those that have been checked, by file."""
    blamed = [pipelines[real_path(spec)] for spec in specs]
    checked = {real_path(spec) for spec in specs}
    others = []
    for spec in find_specs(project):
        if real_path(spec) not in checked:
            others.append(check_file(spec)[0])
    sound = list(filter(None, others)), list(filter(None, blamed))
    try:
        problems = duplicates(*sound)
        # What a file with problems writes is not known.
        if None not in (*others, *blamed):
            problems += unwritten(*sound)
        return problems
    except SpecError as error:  # a file was removed since it was checked
        return list(error.problems)
