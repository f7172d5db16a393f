"""`loadsheet grants`: the roles and the privileges that a pipeline needs, as SQL, and the policy of
the lake's key."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from loadsheet.cli.output import PipelineArgument
from loadsheet.connections.lookup import Connection, Connections, project_connections
from loadsheet.errors import InputError
from loadsheet.project.folder import open_pipeline
from loadsheet.redact import visible

_LONGEST_NAME = 63
"""PostgreSQL's limit for a name, in bytes; it would cut off the rest."""


def grants(
    ctx: typer.Context,
    pipeline: PipelineArgument,
    on: Annotated[
        Literal["source", "warehouse", "lake"] | None,
        typer.Option(
            "--on",
            help="Only the statements for this server, or the policy of the lake's key. Default:"
            " the statements for both servers.",
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="The role that reads the source. Default: the login of its connection, or"
            " loadsheet_extractor.",
        ),
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="The role that loads and builds in the warehouse. Default: the login of its"
            " connection, or loadsheet_loader.",
        ),
    ] = None,
    reader: Annotated[
        str, typer.Option(metavar="ROLE", help="The role that reads the marts.")
    ] = "loadsheet_reader",
) -> None:
    """Print the SQL that creates a pipeline's database roles with exactly the privileges it needs.

    Feed it to psql as an administrator, each part on its server. It may be run again. With
    `--on lake`, print the policy (IAM) of the key that the pipeline uses. No server is asked.
    """
    # Imported here: it brings the SQL parser, which `--help` does not need.
    from loadsheet.lake.policy import bucket_policy
    from loadsheet.plan.grants import Roles, source_grants, warehouse_grants

    for name in (extractor, loader, reader):
        if name is not None:
            _refuse_no_role(name)
    spec, project = open_pipeline(ctx.obj, pipeline)
    if on == "lake":
        typer.echo(json.dumps(bucket_policy(spec.lake.bucket, spec.lake.prefix), indent=2))
        return
    connections = project_connections(project)
    source = _connection(connections, spec.source.conn_id)
    warehouse = _connection(connections, spec.warehouse.conn_id)
    roles = Roles(
        extractor=extractor or source.login or "loadsheet_extractor",
        loader=loader or warehouse.login or "loadsheet_loader",
        reader=reader,
        source_database=source.schema or None,
        warehouse_database=warehouse.schema or None,
    )
    parts = {"source": source_grants, "warehouse": warehouse_grants}
    printed = [
        "\n".join(statements(spec, roles)) for end, statements in parts.items() if on in (None, end)
    ]
    typer.echo(visible("\n\n".join(printed)))


def _refuse_no_role(name: str) -> None:
    """Raises InputError for a name that PostgreSQL does not take for a new role. `GRANT ... TO
    "public"` would give the privilege to everyone."""
    is_reserved = name in ("public", "none") or name.startswith("pg_")
    if not name or is_reserved or len(name.encode()) > _LONGEST_NAME:
        raise InputError(
            f"{visible(name)!r} cannot be the name of a role: it must have 1 to {_LONGEST_NAME}"
            " bytes, and must not be public, none or begin with pg_"
        )


def _connection(connections: Connections, conn_id: str) -> Connection:
    """The connection; one without values where it is not defined here."""
    try:
        return connections(conn_id)
    except InputError:
        return Connection(conn_id=conn_id)
