"""`loadsheet status`: where each table stands, by the ledger in the warehouse."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadsheet.cli.output import AsJson, print_json, print_table
from loadsheet.cli.places import open_pipeline, project_folder, project_specs
from loadsheet.connections import project_connections
from loadsheet.spec.load import load_pipeline
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.warehouse.status import TableStatus


def status(
    ctx: typer.Context,
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what was loaded last into each table, and how far its watermark is."""
    specs = [open_pipeline(ctx.obj, pipeline)] if pipeline else _all(project_folder(ctx.obj))
    found = {spec.name: _rows(spec, project) for spec, project in specs}
    if as_json:
        documents = [{"pipeline": name, "tables": [asdict(row) for row in rows]} for name, rows in found.items()]
        print_json({"pipelines": documents})
        return
    for name, rows in found.items():
        _print(name, rows)


def _all(project: Path) -> list[tuple[Pipeline, Path]]:
    return [(load_pipeline(spec), project) for spec in project_specs(project)]


def _rows(pipeline: Pipeline, project: Path) -> list[TableStatus]:
    # Here, so that commands that need no server start without a driver.
    from loadsheet.postgres import connect_warehouse
    from loadsheet.warehouse.status import status_rows

    connection = project_connections(project)(pipeline.warehouse.conn_id)
    with connect_warehouse(connection) as session:
        return status_rows(session, pipeline.name)


def _print(name: str, rows: list[TableStatus]) -> None:
    typer.echo(f"{name}: {len(rows)} tables" if rows else f"{name}: nothing was loaded yet")
    if rows:
        print_table(
            ("table", "loaded at", "action", "rows", "watermark", "seconds", "held back by"),
            [_row(row) for row in rows],
        )


def _row(row: TableStatus) -> tuple[str, ...]:
    if row.loaded_at is None:
        return row.table, "never", "", "", row.watermark or "", "", ""
    seconds = (row.extract_seconds or 0) + (row.load_seconds or 0)
    loaded_at = f"{row.loaded_at:%Y-%m-%d %H:%M:%S %Z}"
    rows = f"{row.extracted or 0:,}"
    return row.table, loaded_at, row.action or "", rows, row.watermark or "", f"{seconds:.1f}", row.held_by
