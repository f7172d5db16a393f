"""`loadsheet adopt`: a renamed pipeline takes over what the ledger knows under its old name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from loadsheet.cli.output import AsJson, print_json, show
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError
from loadsheet.project.folder import display_path, open_pipeline, pipeline_names
from loadsheet.redact import on_one_line
from loadsheet.spec.pipeline_file import find_specs
from loadsheet.wording import counted


def adopt(
    ctx: typer.Context,
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="The pipeline's name until now, in the ledger.")
    ],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The pipeline's name now, or its file.")
    ],
    as_json: AsJson = False,
) -> None:
    """Let a renamed pipeline continue where it was: take over watermarks, loads and runs of
    transforms.

    Only tables and marts in the pipeline's schemas are taken over, in one transaction. No row is
    read or written. Stop the runs of both names first.
    """
    pipeline, project = open_pipeline(ctx.obj, new)
    if pipeline.name == old:
        raise InputError(
            f"{old!r} is the name in {display_path(pipeline.file)}: change it there first"
        )
    _refuse_two_owners(project, old, pipeline.name)
    # Imported here: `--help` needs no driver.
    from loadsheet.engine.lock_holders import holders_named, of_table
    from loadsheet.postgres import connect_warehouse
    from loadsheet.sql.text import Relation
    from loadsheet.warehouse import adopt as taking_over

    connections = project_connections(project)
    conn_id = pipeline.warehouse.conn_id
    ledgers = [of_table(Relation("loadsheet", name)) for name in ("scope", "load", "failure")]
    waits = {conn_id: ledgers}
    with (
        holders_named(connections, waits, "nothing was taken over: "),
        connect_warehouse(connections(conn_id)) as session,
    ):
        adopted = taking_over.adopt(session, pipeline, old)
    if as_json:
        print_json({"old": old, "new": pipeline.name, **asdict(adopted)})
        return
    tables = counted(len(adopted.tables), "table")
    transforms = counted(len(adopted.transforms), "transform")
    show(on_one_line(f"{pipeline.name} has taken over {tables} and {transforms} of {old}"))
    if adopted.kept:
        kept = ", ".join(adopted.kept)
        show(on_one_line(f"loaded by {pipeline.name} itself since then, and kept so: {kept}"))


def _refuse_two_owners(project: Path, old: str, new: str) -> None:
    """Raises InputError where `old` is still a pipeline of the project: it would load again."""
    for spec in find_specs(project):
        if old in pipeline_names(spec):
            raise InputError(
                f"{display_path(spec)} is still a pipeline {old!r}, which would load its tables"
                f" from the start next to {new!r}: rename or remove it first"
            )
