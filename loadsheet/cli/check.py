"""`loadsheet check`: every problem of every pipeline file, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from loadsheet.cli.errors import WRONG_INPUT
from loadsheet.errors import InputError
from loadsheet.project.folder import PIPELINES, project_folder, project_specs, relative_problem


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
    explain: Annotated[
        str,
        typer.Option(
            metavar="CODE", help="Say why there is a rule, such as unknown-key, and what mends it."
        ),
    ] = "",
) -> None:
    """Print every problem in pipeline files and their SQL; exit code 2 when there is an error."""
    # Here, not at the top: every other command would pay for these imports, too.
    from loadsheet.cli.formats import as_annotation, as_json, as_sarif, as_text, explanation
    from loadsheet.project.check import check_files, misnamed_files

    if explain:
        typer.echo(explanation(explain))
        return
    if paths:
        found = list(chain.from_iterable(map(_files, paths)))
        unseen = []
    else:
        found = project_specs(project_folder(ctx.obj))
        unseen = misnamed_files(project_folder(ctx.obj))
    files = list(dict.fromkeys(found))
    problems = [relative_problem(problem) for problem in (*check_files(files, ctx.obj), *unseen)]
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    if output is Format.json:
        counts = {"files": len(files), "errors": errors, "warnings": warnings}
        typer.echo(
            json.dumps({**counts, "problems": [as_json(problem) for problem in problems]}, indent=2)
        )
    elif output is Format.sarif:
        typer.echo(json.dumps(as_sarif(problems), indent=2))
    else:
        for line in map(as_annotation, problems) if output is Format.github else as_text(problems):
            typer.echo(line)
        typer.echo(_summary(len(files), errors, warnings))
    if errors:
        raise typer.Exit(WRONG_INPUT)


def _files(path: Path) -> Iterable[Path]:
    if (path / PIPELINES).is_dir():
        return project_specs(path)
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"there is no file or folder {path}")
        return [path]
    found = sorted(path.rglob("pipeline.yml")) or sorted(
        [*path.rglob("*.yml"), *path.rglob("*.yaml")]
    )
    if not found:
        raise InputError(f"there are no pipeline files in {path}")
    return found


def _summary(files: int, errors: int, warnings: int) -> str:
    found = (
        f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
        if errors or warnings
        else "no problems"
    )
    return f"{_count(files, 'file')} checked: {found}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
