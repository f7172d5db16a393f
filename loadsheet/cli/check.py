"""`loadsheet check`: every problem of every pipeline file, before anything runs."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loadsheet.cli.errors import MOST_PROBLEMS, WRONG_INPUT
from loadsheet.cli.output import screen_width, show
from loadsheet.errors import InputError
from loadsheet.problem import Problem
from loadsheet.project.folder import (
    PIPELINES,
    find_pipeline,
    project_folder,
    project_specs,
    refuse_other_kinds,
    relative_problem,
)
from loadsheet.wording import counted


class Format(StrEnum):
    """How problems are printed."""

    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"


def check(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...",
            help="Pipeline files, or folders that hold some. Default: the project's.",
        ),
    ] = None,
    output: Annotated[
        Format,
        typer.Option(
            "--format",
            help=(
                "text for people, json for scripts, github for annotations in a CI run, sarif for"
                " code scanning."
            ),
        ),
    ] = Format.text,
    show_all: Annotated[
        bool,
        typer.Option("--all", help=f"Print all problems, not only {MOST_PROBLEMS}."),
    ] = False,
    explain: Annotated[
        str,
        typer.Option(
            metavar="CODE", help="Explain a rule, such as unknown-key: its reason and the fix."
        ),
    ] = "",
) -> None:
    """Print the problems in pipeline files and their SQL; exit code 2 when there is an error."""
    # Imported here: `--help` needs none of them.
    from loadsheet.cli.formats import as_annotation, as_json, as_sarif, as_text, explanation
    from loadsheet.project.check import check_files, misnamed_files

    if explain:
        show(explanation(explain))
        return
    files: list[Path] = []
    misnamed: list[Problem] = []
    if paths:
        for path in paths:
            files += _spec_files(path, ctx.obj)
        files = list(dict.fromkeys(files))  # a file may be given twice
    else:
        project = project_folder(ctx.obj)
        files += project_specs(project)
        misnamed = misnamed_files(project)
    problems = [relative_problem(problem) for problem in (*check_files(files, ctx.obj), *misnamed)]
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    if output is Format.json:
        documents = [as_json(problem) for problem in problems]
        counts = {"files": len(files), "errors": errors, "warnings": warnings}
        typer.echo(json.dumps({**counts, "problems": documents}, indent=2))
    elif output is Format.sarif:
        typer.echo(json.dumps(as_sarif(problems), indent=2))
    else:
        width = screen_width(sys.stdout)
        shown = problems if show_all else first_problems(problems)
        lines = map(as_annotation, shown) if output is Format.github else as_text(shown, width)
        for line in lines:
            typer.echo(line)
        if len(shown) < len(problems):
            left_out = counted(len(problems) - len(shown), "more problem")
            show(f"{left_out} not shown: --all shows them")
        result = "no problems"
        if problems:
            result = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
        show(f"{counted(len(files), 'file')} checked: {result}")
    if errors:
        raise typer.Exit(WRONG_INPUT)


def first_problems(problems: list[Problem]) -> list[Problem]:
    """As many problems as are printed, in their order: no warning takes the place of an error."""
    by_weight = sorted(problems, key=lambda problem: problem.severity != "error")
    chosen = {id(problem) for problem in by_weight[:MOST_PROBLEMS]}
    return [problem for problem in problems if id(problem) in chosen]


def _spec_files(path: Path, explicit: Path | None) -> list[Path]:
    """The pipeline files of a project, below a folder, or the file itself. Where there is no such
    path, the file of the pipeline of that name, as for other commands."""
    try:
        is_folder = path.is_dir()
        is_there = is_folder or path.exists()
    except OSError:  # too long for a file's name
        is_folder = is_there = False
    if not is_there:
        file, _ = find_pipeline(explicit, str(path))
        return [file]
    if not is_folder:
        # A problem shows the line it is in: a line of .env may be a password.
        return [refuse_other_kinds(explicit, path)]
    if (path / PIPELINES).is_dir():
        return project_specs(path)
    files = sorted(path.rglob("pipeline.yml"))
    if not files:  # a folder of drafts, or of examples
        files = sorted([*path.rglob("*.yml"), *path.rglob("*.yaml")])
    if not files:
        raise InputError(f"there are no pipeline files in {path}")
    return files
