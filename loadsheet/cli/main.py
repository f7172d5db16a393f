"""The `loadsheet` command: its global options and its commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from loadsheet import __version__
from loadsheet.cli.add import add
from loadsheet.cli.check import check
from loadsheet.cli.errors import reported
from loadsheet.cli.gc import gc
from loadsheet.cli.new import new
from loadsheet.cli.plan import plan
from loadsheet.cli.render import render
from loadsheet.cli.run import run
from loadsheet.cli.schema import schema
from loadsheet.cli.status import StatusCommand, status
from loadsheet.cli.test import test


class _Reporting(TyperGroup):
    """Turns the errors of every command into messages and exit codes, in one place."""

    def invoke(self, ctx: Any) -> Any:
        with reported():
            return super().invoke(ctx)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loadsheet {__version__}")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    project: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The project: a folder with pipelines/ and, where used, connections/. "
            "Default: the nearest such folder, from here upwards.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Carry PostgreSQL tables through a lake into a warehouse, as one YAML file says.

    Exit codes: 0 fine, 1 the work failed, 2 the input is wrong, 3 a bug, 4 something would change
    (plan --exit-code), 130 interrupted.
    """
    ctx.obj = project


app = typer.Typer(
    cls=_Reporting, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    epilog="Example: loadsheet --project ~/elt/warehouse run flights",
)  # fmt: skip
app.callback()(_options)
app.command(epilog="Example: loadsheet check pipelines/flights --format github")(check)
app.command(
    epilog="Example: loadsheet plan flights --connect\n\n"
    "Example: loadsheet plan flights --diff main --exit-code\n\n"
    "Example: loadsheet plan flights --connect --sql bookings"
)(plan)
app.command(
    epilog="Example: loadsheet add flights loyalty_cards\n\nExample: loadsheet add flights 'bookings.*' --dry-run"
)(add)
app.command(epilog="Example: loadsheet new shop --source shop_source --tables 'public.order*'")(new)
app.command(
    epilog="Example: loadsheet run flights --tables bookings,flights --full-refresh\n\n"
    "Example: loadsheet run flights --from 2026-01-01 --to 2026-02-01\n\n"
    "Example: loadsheet run flights --sample 1%"
)(run)
app.command(epilog="Example: loadsheet test flights --only airports")(test)
app.command(cls=StatusCommand, epilog="Example: loadsheet status flights --watch")(status)
app.command(
    epilog="Example: loadsheet gc flights --older-than 30d --dry-run\n\nExample: loadsheet gc flights --sample"
)(gc)
app.command(epilog="Example: loadsheet schema > schemas/pipeline.schema.json\n\nExample: loadsheet schema tests")(
    schema
)
app.command(epilog="Example: loadsheet render flights > flights.dag-factory.yml")(render)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    app(prog_name="loadsheet")
