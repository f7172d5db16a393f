"""`loadsheet add`: adds tables of the source to a pipeline file, each with the entry that its
catalog suggests."""

from __future__ import annotations

from typing import Annotated

import typer

from loadsheet.cli.output import AsJson, PipelineArgument, print_json, show
from loadsheet.connections.lookup import project_connections
from loadsheet.project.folder import display_path, open_pipeline
from loadsheet.wording import counted

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the diff, and write nothing.")]


def add(
    ctx: typer.Context,
    pipeline: PipelineArgument,
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE", help="Names, or patterns in quotes: 'order_*', 'bookings.*', '*'."
        ),
    ],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Add tables of the source to a pipeline file. The source's catalog suggests keys and cursors.

    The rest of the file does not change. If there is any problem, nothing is written.
    """
    # Imported here: they bring the driver, which `--help` does not need.
    from loadsheet.authoring.advice import print_suggestions, suggest
    from loadsheet.authoring.choose import choose
    from loadsheet.authoring.file import SpecFile
    from loadsheet.postgres import connect_source
    from loadsheet.source.discovery import relations

    spec, project = open_pipeline(ctx.obj, pipeline)
    file = SpecFile(spec.file)
    defaults = file.data.get("defaults") or {}
    with connect_source(project_connections(project)(spec.source.conn_id)) as session:
        schema = spec.source.schema
        choice = choose(
            tables, schema, relations(session, schema), file.data["tables"], spec.pattern_of
        )
        suggestions = suggest(session, schema, choice, defaults)
    text = file.with_tables({name: suggestion.entry for name, suggestion in suggestions.items()})
    write = bool(suggestions) and not dry_run
    if write:
        file.write(text)
    if as_json:
        document = {
            "pipeline": spec.name,
            "file": display_path(file.path),
            "written": write,
            "added": [suggestion.document for suggestion in suggestions.values()],
            **choice.document,
            "diff": file.diff(text),
        }
        print_json(document)
        return
    tables_added = counted(len(suggestions), "table") if suggestions else "no tables"
    verb = "would be added" if dry_run else "added"
    show(f"{spec.name}: {tables_added} {verb} to {display_path(file.path)}")
    print_suggestions(suggestions.values(), choice, defaults)
    if dry_run and suggestions:
        typer.echo(f"\n{file.diff(text)}", nl=False)
