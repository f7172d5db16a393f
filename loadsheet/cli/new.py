"""`loadsheet new`: writes the file of a new pipeline, from the source's catalog."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadsheet.cli.add import DryRun
from loadsheet.cli.output import AsJson, print_json, show
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError
from loadsheet.project.folder import PIPELINES, display_path, nearest_project
from loadsheet.spec.pipeline_file import check_file, find_specs
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.authoring.advice import Suggestion
    from loadsheet.authoring.ends import Ends
    from loadsheet.postgres import Session

_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,250}")
_MODELINE = "# yaml-language-server: $schema=../../schemas/pipeline.schema.json\n"
_TEMPLATE = """\
# `loadsheet check` checks this file, `loadsheet plan {name}` shows the steps,
# `loadsheet run {name}` runs them.
version: 1
pipeline: {quoted}
# Five cron fields in UTC, or "@hourly", "@daily"; null: only when triggered manually.
schedule: null

# Ids of connections (see connections/); this file never holds a password.
source: {source}
lake: {lake}
warehouse: {warehouse}
{notify}
# Rows that are deleted from the source stay in merged tables, unless deletes removes them.
# defaults: {{deletes: hard}}
#
# One line per table. Columns, types and primary keys come from the source's catalog.
# `loadsheet add {name} TABLE` adds one, with its key and its cursor.
tables:
{tables}
# Marts: sql/<name>.sql holds a SELECT, and a line here names it. Their order follows from the SQL.
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
    """Create a pipeline file with its connections and a line for each table, ready for `loadsheet
    run`."""
    # Imported here: they bring the driver, which `--help` does not need.
    from loadsheet.authoring.advice import print_suggestions, suggest
    from loadsheet.authoring.choose import choose
    from loadsheet.authoring.ends import Ends
    from loadsheet.authoring.file import check_new, diff, write_new
    from loadsheet.postgres import connect_source
    from loadsheet.source.discovery import relations

    project = ctx.obj or nearest_project(Path.cwd()) or Path.cwd()
    if not project.is_dir():
        raise InputError(f"there is no folder {project}")
    file = _new_file(project, pipeline)
    ends = Ends.of(project, source=source, warehouse=warehouse, lake=lake, bucket=bucket)
    with connect_source(project_connections(project)(ends.source)) as session:
        schema = schema or _schema(session, tables or ())
        choice = choose(tables or ["*"], schema, relations(session, schema), ())
        suggestions = suggest(session, schema, choice, {})
    if not suggestions:
        raise InputError(f"no table in schema {schema!r} can be loaded; nothing was written")
    text = _text(pipeline, ends, schema, _free_schemas(pipeline, ends), suggestions)
    # Without that file, an editor would report a schema that it cannot load.
    if (project / "schemas" / "pipeline.schema.json").is_file():
        text = f"{_MODELINE}{text}"
    check_new(file, text)
    if not dry_run:
        write_new(file, text)
    if as_json:
        document = {
            "pipeline": pipeline,
            "file": display_path(file),
            "written": not dry_run,
            "added": [suggestion.document for suggestion in suggestions.values()],
            **choice.document,
            "diff": diff(file, "", text),
        }
        print_json(document)
        return
    verb = "would be created" if dry_run else "created"
    show(f"{display_path(file)} {verb}, with {counted(len(suggestions), 'table')}")
    print_suggestions(suggestions.values(), choice, {})
    if dry_run:
        typer.echo(f"\n{diff(file, '', text)}", nl=False)
    else:
        show(f"Next: loadsheet check, loadsheet run {pipeline}")


def _free_schemas(name: str, ends: Ends) -> tuple[str, str]:
    """Schemas for staging and marts that no other pipeline of the project uses in that warehouse.

    Names alone would not do: `a-b`, `a_b` and `A_b` become the same.
    """
    # ASCII, and short enough that a number and `_staging` fit into PostgreSQL's 63 bytes.
    base = re.sub(r"\W", "_", name.lower(), flags=re.ASCII)[:50]
    if base.startswith("pg_"):  # reserved by PostgreSQL
        base = f"_{base}"
    prefix = base
    for number in itertools.count(2):
        pair = (f"{prefix}_staging", f"{prefix}_mart")
        if ends.used_schemas.isdisjoint(pair):
            break
        prefix = f"{base}_{number}"
    return pair


def _text(
    name: str,
    ends: Ends,
    schema: str,
    schemas: tuple[str, str],
    suggestions: Mapping[str, Suggestion],
) -> str:
    from loadsheet.spec.edit import flow_yaml, table_yaml

    staging, mart = schemas
    notify = ""
    if ends.slack:
        notify = f"notify: {flow_yaml({'slack_conn_id': ends.slack})}\n"
    lines = [
        f"  {table_yaml(table, suggestion.entry)}\n" for table, suggestion in suggestions.items()
    ]
    return _TEMPLATE.format(
        name=name,
        quoted=flow_yaml(name),
        source=flow_yaml({"conn_id": ends.source, "schema": schema}),
        lake=flow_yaml({"conn_id": ends.lake, "bucket": ends.bucket}),
        warehouse=flow_yaml({"conn_id": ends.warehouse, "schema": staging, "mart_schema": mart}),
        notify=notify,
        tables="".join(lines),
    )


def _new_file(project: Path, name: str) -> Path:
    """Where the pipeline's file will be. Raises InputError when the name cannot be used or is
    taken."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be a pipeline's name: use letters, digits, '_', '-' and '.', and do"
            " not start with '.'"
        )
    file = project / PIPELINES / name / "pipeline.yml"
    if file.exists():
        raise InputError(
            f"{display_path(file)} is already there: `loadsheet add {name} TABLE` adds tables to it"
        )
    # The name is the DAG id, which a pipeline in a folder of another name may have.
    for other in find_specs(project):
        pipeline, _ = check_file(other)
        if pipeline and pipeline.name == name:
            raise InputError(f"the name {name!r} is already taken by {display_path(other)}")
    return file


def _schema(session: Session, tables: tuple[str, ...] | list[str]) -> str:
    """The schema that `tables` name, else the only one that has tables.

    Raises InputError with the names of the schemas where there is no single one.
    """
    from loadsheet.source.discovery import filled_schemas, grants_for_schemas

    schemas = filled_schemas(session)
    named = set()
    for text in tables:
        schema, dot, _ = text.partition(".")
        if dot and schema in schemas:
            named.add(schema)
    if len(named) == 1:
        return named.pop()
    if len(schemas) == 1 and not named:
        return schemas[0]
    if not schemas:
        grants = " ".join(grants_for_schemas(session))
        advice = f"; run in the source: {grants}" if grants else ""
        raise InputError(
            f"the source has no tables that this role can see; nothing was written{advice}"
        )
    raise InputError(f"which schema? Name it with --schema, one of: {', '.join(schemas)}")
