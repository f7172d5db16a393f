"""`loadsheet check`: every problem of every pipeline file, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loadsheet.cli.checking import check_files
from loadsheet.cli.errors import WRONG_INPUT
from loadsheet.cli.places import PIPELINES, project_folder, project_specs, relative_problem
from loadsheet.errors import InputError
from loadsheet.spec.problem import Problem
from loadsheet.visible import visible


class Format(StrEnum):
    """How problems are printed."""

    text = "text"
    json = "json"
    github = "github"


def check(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH...", help="Pipeline files, or folders that hold some. Default: the project's."),
    ] = None,
    output: Annotated[
        Format, typer.Option("--format", help="text for people, json for scripts, github for annotations in a CI run.")
    ] = Format.text,
) -> None:
    """Print every problem in pipeline files and their SQL; exit code 2 when there is an error."""
    found = [file for path in paths for file in _files(path)] if paths else project_specs(project_folder(ctx.obj))
    files = list(dict.fromkeys(found))
    problems = [relative_problem(problem) for problem in check_files(files)]
    errors = sum(problem.severity == "error" for problem in problems)
    if output is Format.json:
        counts = {"files": len(files), "errors": errors, "warnings": len(problems) - errors}
        typer.echo(json.dumps({**counts, "problems": [problem.as_dict() for problem in problems]}, indent=2))
    else:
        for problem in problems:
            typer.echo(_annotation(problem) if output is Format.github else str(problem))
        typer.echo(_summary(len(files), errors, len(problems) - errors))
    if errors:
        raise typer.Exit(WRONG_INPUT)


def _files(path: Path) -> Iterable[Path]:
    if (path / PIPELINES).is_dir():
        return project_specs(path)
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"there is no file or folder {path}")
        return [path]
    found = sorted(path.rglob("pipeline.yml")) or sorted([*path.rglob("*.yml"), *path.rglob("*.yaml")])
    if not found:
        raise InputError(f"there are no pipeline files in {path}")
    return found


def _summary(files: int, errors: int, warnings: int) -> str:
    found = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}" if errors or warnings else "no problems"
    return f"{_count(files, 'file')} checked: {found}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _annotation(problem: Problem) -> str:
    """A GitHub Actions workflow command; its properties and its text are escaped differently."""
    text = f"{problem.message}\nhint: {problem.hint}" if problem.hint else problem.message
    place = {"file": problem.file, "line": problem.line, "col": problem.column, "title": problem.path or "pipeline"}
    properties = ",".join(f"{key}={_escaped(str(value), more=True)}" for key, value in place.items())
    return f"::{problem.severity} {properties}::{_escaped(text)}"


def _escaped(text: str, more: bool = False) -> str:
    text = visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text
