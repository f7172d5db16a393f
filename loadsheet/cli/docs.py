"""`loadsheet docs`: a static site of the tables and marts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loadsheet.cli.errors import FAILED, WRONG_INPUT, say
from loadsheet.cli.output import PipelinesOrAll, show
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError
from loadsheet.project.folder import find_pipeline, project_folder, project_specs
from loadsheet.redact import hanging, on_one_line
from loadsheet.spec.files import real_path
from loadsheet.wording import counted


def docs(
    ctx: typer.Context,
    pipelines: PipelinesOrAll = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Where the site goes: a new or empty folder, or one with an earlier site.",
        ),
    ] = Path("build/docs"),
    no_connect: Annotated[
        bool,
        typer.Option(
            "--no-connect",
            help="Ask no server: write what the files say, without types, comments, lineage of"
            " columns, and states.",
        ),
    ] = False,
) -> None:
    """Write a static site of all tables and marts: columns, comments, keys, checks, lineage, SQL,
    state.

    It is one HTML file, which loads nothing: it opens from a disk and from any web server. Reads
    only, apart from FOLDER. The site is also written where a pipeline file has problems or a server
    cannot be asked, and says so; the exit code is then 2 or 1.
    """
    # Imported here: `--help` needs no driver.
    from loadsheet.site.recorded import recorded
    from loadsheet.site.write import refuse_others, write_site

    found = [find_pipeline(ctx.obj, name) for name in pipelines or ()]
    projects = {project for _, project in found}
    if len(projects) > 1:
        raise InputError("these pipelines are in several projects: name those of one")
    project = projects.pop() if projects else project_folder(ctx.obj)
    files = list({real_path(file): file for file, _ in found}.values()) or project_specs(project)
    refuse_others(out)  # before the servers are asked
    documents = recorded(files, None if no_connect else project_connections(project))
    file = write_site(out, documents)
    entries = documents["overview"]["pipelines"]
    targets = sum(len(entry["targets"]) for entry in entries)
    shown = counted(targets, "table or mart", "tables and marts")
    show(
        f"written: {on_one_line(str(file))} ({counted(len(entries), 'pipeline')}, {shown})",
        wrap=False,
    )
    code = 0
    for entry in entries:
        code = max(code, _report(entry, no_connect))
    if code:
        raise typer.Exit(code)


def _report(entry: dict[str, Any], no_connect: bool) -> int:
    """Print what the site lacks of a pipeline; returns the exit code that follows."""
    name = entry["name"]
    if entry["error"]:
        say(hanging(f"error: {entry['error']}"))
        return WRONG_INPUT
    if no_connect:
        return 0
    if entry["source_unknown"]:
        why = entry["source_unknown"]
        say(hanging(f"warning: {name}: the source could not be asked: {why}"))
    if entry["unknown"]:
        say(hanging(f"error: {name}: the warehouse could not be asked: {entry['unknown']}"))
        return FAILED
    return 0
