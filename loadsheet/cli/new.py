"""`loadsheet new`: a pipeline of your own, from a connection to the source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadsheet.cli.add import DryRun, count
from loadsheet.cli.output import AsJson, print_json
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError
from loadsheet.project.folder import PIPELINES, display_path
from loadsheet.spec.pipeline_file import check_file, find_specs

if TYPE_CHECKING:
    from loadsheet.authoring.advice import Suggestion
    from loadsheet.authoring.ends import Ends
    from loadsheet.postgres import Session

_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,250}")
_BEGIN = """\
# `loadsheet check` reads this file, `loadsheet plan {name}` shows the steps, `loadsheet run {name}` runs them.
version: 1
pipeline: {quoted}
schedule: null      # or five cron fields in UTC, or "@hourly", "@daily"; null: only when triggered manually

# Ids of connections (see connections/); this file never holds a password.
source: {source}
lake: {lake}
warehouse: {warehouse}
{notify}
# One line per table. Columns, types and primary keys come from the source's catalog.
# `loadsheet add {name} TABLE` adds one, with its key and its cursor.
tables:
{tables}
# Marts: sql/<name>.sql holds a SELECT, and a line here names it. What runs after what follows from the SQL.
# transforms:
#   <name>: {{materialized: merge, unique_key: id}}
"""


def new(
    ctx: typer.Context,
    pipeline: Annotated[
        str,
        typer.Argument(metavar="PIPELINE", help="The new pipeline's name: its folder and DAG id."),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="CONN", help="Connection to the source. Default: the only one that it can be."
        ),
    ] = None,
    warehouse: Annotated[
        str | None,
        typer.Option(metavar="CONN", help="Default: the other pipelines', or the only one left."),
    ] = None,
    lake: Annotated[
        str | None,
        typer.Option(
            metavar="CONN", help="Default: the other pipelines', or the only one of its kind."
        ),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE",
            help="A table or a pattern in quotes, 'bookings.*'; may be repeated. Default: all.",
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Schema of the tables. Default: the pattern's, or the only one."
        ),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Default: the bucket of the other pipelines, else the lake connection's id.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Start a pipeline: a file with its connections and a line for each table, ready for `loadsheet
    run`."""
    # Here, because other commands should not wait for them.
    from loadsheet.authoring.advice import print_suggestions, suggest
    from loadsheet.authoring.choose import choose
    from loadsheet.authoring.ends import Ends
    from loadsheet.authoring.file import check_new, diff, write_new
    from loadsheet.postgres import connect_source
    from loadsheet.source.discovery import relations

    project = _project(ctx.obj)
    file = _free(project, pipeline)
    ends = Ends.of(project, source=source, warehouse=warehouse, lake=lake, bucket=bucket)
    with connect_source(project_connections(project)(ends.source)) as session:
        schema = schema or _schema(session, tables or ())
        choice = choose(tables or ["*"], schema, relations(session, schema), ())
        suggestions = suggest(session, schema, choice, {})
    if not suggestions:
        raise InputError(
            f"there is no table in schema {schema!r} to begin with; nothing was written"
        )
    text = _text(pipeline, ends, schema, _free_schemas(pipeline, ends), suggestions)
    if (project / "schemas" / "pipeline.schema.json").is_file():
        text = f"# yaml-language-server: $schema=../../schemas/pipeline.schema.json\n{text}"
    check_new(file, text)
    if not dry_run:
        write_new(file, text)
    if as_json:
        added = [suggestion.document for suggestion in suggestions.values()]
        facts = {"pipeline": pipeline, "file": display_path(file), "written": not dry_run}
        print_json({**facts, "added": added, **choice.document, "diff": diff(file, "", text)})
        return
    typer.echo(
        f"{display_path(file)} {'would be' if dry_run else 'is'} made, with {count(len(suggestions))}"
    )
    print_suggestions(suggestions.values(), choice)
    if dry_run:
        typer.echo(f"\n{diff(file, '', text)}", nl=False)
    else:
        typer.echo(f"Next: loadsheet check, loadsheet run {pipeline}")


def _free_schemas(name: str, ends: Ends) -> tuple[str, str]:
    """Schemas for staging and marts that no other pipeline of the project uses in that warehouse.

    `a-b`, `a_b` and `A_b` would else write into the same.
    """
    base = re.sub(r"\W", "_", name.lower(), flags=re.ASCII)[:50]
    base = f"_{base}" if base.startswith("pg_") else base  # reserved
    bases = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
    pairs = ((f"{base}_staging", f"{base}_mart") for base in bases)
    return next(pair for pair in pairs if not ends.used_schemas.intersection(pair))


def _text(
    name: str,
    ends: Ends,
    schema: str,
    schemas: tuple[str, str],
    suggestions: Mapping[str, Suggestion],
) -> str:
    from loadsheet.spec.edit import flow, pair

    notify = f"notify: {flow({'slack_conn_id': ends.slack})}\n" if ends.slack else ""
    tables = "".join(f"  {pair(table, found.entry)}\n" for table, found in suggestions.items())
    return _BEGIN.format(
        name=name,
        quoted=flow(name),
        source=flow({"conn_id": ends.source, "schema": schema}),
        lake=flow({"conn_id": ends.lake, "bucket": ends.bucket}),
        warehouse=flow(
            {"conn_id": ends.warehouse, "schema": schemas[0], "mart_schema": schemas[1]}
        ),
        notify=notify,
        tables=tables,
    )


def _project(given: Path | None) -> Path:
    """The project to extend; the current folder becomes one where there is none."""
    if given and not given.is_dir():
        raise InputError(f"there is no folder {given}")
    here = Path.cwd()
    return given or next(
        (folder for folder in (here, *here.parents) if (folder / PIPELINES).is_dir()), here
    )


def _free(project: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be a pipeline's name: letters, digits, '_', '-' and '.', to begin"
            " with no '.'"
        )
    file = project / PIPELINES / name / "pipeline.yml"
    if file.exists():
        raise InputError(
            f"{display_path(file)} is already there: `loadsheet add {name} TABLE` adds tables to it"
        )
    for other in find_specs(project):
        pipeline, _ = check_file(other)
        if pipeline and pipeline.name == name:
            raise InputError(f"the name {name!r} is already taken by {display_path(other)}")
    return file


def _schema(session: Session, tables: tuple[str, ...] | list[str]) -> str:
    """The schema that the tables name, else the only one with tables in it."""
    from loadsheet.source.discovery import filled_schemas

    schemas = filled_schemas(session)
    named = {
        text.partition(".")[0]
        for text in tables
        if text.partition(".")[0] in schemas and "." in text
    }
    if len(named) == 1:
        return named.pop()
    if len(schemas) == 1 and not named:
        return schemas[0]
    if not schemas:
        raise InputError("the source has no tables that this role may see; nothing was written")
    raise InputError(f"which schema? Name it with --schema, one of: {', '.join(schemas)}")
