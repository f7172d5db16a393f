"""`loadsheet init`: a project of your own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from loadsheet.cli.output import AsJson, print_json
from loadsheet.errors import InputError
from loadsheet.project.scaffold import Scaffold, create_project, ignores_env


def init(
    ctx: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="The project's folder, new or existing. Default: the current folder.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a project: example pipeline, connections, DAG loader, Docker, CI and editor files.

    Existing files are listed and left alone.
    """
    if folder and ctx.obj:
        raise InputError("name the folder once: `loadsheet init DIR`, without --project")
    made = create_project(folder or ctx.obj or Path())
    hints: list[str] = []
    # Existing files are not edited, so the user has to close this gap.
    if ".gitignore" in made.kept and not ignores_env(made.folder / ".gitignore"):
        hints.append("add `.env` to .gitignore: it will hold passwords")
    if as_json:
        names = {"written": list(made.written), "kept": list(made.kept)}
        print_json({"project": str(made.folder), **names, "hints": hints})
        return
    _print(made, hints)


def _print(made: Scaffold, hints: list[str]) -> None:
    if made.written:
        typer.echo(f"Files written to {made.folder}:")
        for name in made.written:
            typer.echo(f"  {name}")
    else:
        typer.echo(f"No files written to {made.folder}.")
    if made.kept:
        typer.echo("Files left alone because they exist:")
        for name in made.kept:
            typer.echo(f"  {name}")
    for hint in hints:
        typer.echo(f"Hint: {hint}")
    if not made.written:
        return
    typer.echo("Next:")
    if made.folder.resolve() != Path.cwd():
        typer.echo(f"  cd {shlex.quote(str(made.folder))}")
    typer.echo("  cp .env.example .env    # then fill in your servers")
    typer.echo("  loadsheet check")
    typer.echo("  loadsheet new shop      # a pipeline from the tables of your source")
