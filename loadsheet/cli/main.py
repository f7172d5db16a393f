"""The `loadsheet` command: its global options and its commands."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from loadsheet import __version__
from loadsheet.cli.errors import reported

# Python prints warnings that no handler takes: these would stand between our lines, in words of a
# driver's developers. What they are about becomes an error of ours, or is tried again.
for _driver in ("psycopg", "urllib3"):
    logging.getLogger(_driver).addHandler(logging.NullHandler())

EXAMPLES = {
    "init": ("warehouse-loads",),
    "check": ("pipelines/flights --format github",),
    "plan": (
        "flights --connect",
        "flights --diff main --exit-code",
        "flights --connect --sql bookings",
    ),
    "add": ("flights loyalty_cards", "flights 'bookings.*' --dry-run"),
    "new": ("shop --source shop_source --tables 'public.order*'",),
    "run": (
        "flights --tables bookings,flights --full-refresh",
        "flights --from 2026-01-01 --to 2026-02-01",
        "flights --sample 1%",
    ),
    "doctor": ("flights",),
    "grants": ("flights --on source | psql service=source-admin",),
    "test": ("flights --only airports",),
    "status": ("flights --watch",),
    "ui": ("flights --port 8080",),
    "verify": ("flights", "flights bookings --values", "flights --sample 5%", "flights --repair"),
    "lineage": (
        "mart.fct_booking_ticket.amount",
        "flights staging.tickets --down",
        "flights --html lineage.html",
    ),
    "docs": ("--out public", "flights --no-connect"),
    "restore": (
        "flights bookings --list",
        "flights bookings --as-of 1042 --into audit.bookings_in_june",
    ),
    "adopt": ("shop store",),
    "gc": ("flights --older-than 30d --dry-run", "flights --sample"),
    "schema": ("> schemas/pipeline.schema.json", "tests"),
    "render": ("flights > flights.dag-factory.yml",),
}
"""The commands, each a function of `loadsheet.cli.<its name>`, and how they are used."""


def _paragraphs(docstring: str | None) -> str:
    """The docstring for --help, each paragraph one line: the terminal breaks it."""
    paragraphs = cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


class _Commands(Mapping[str, TyperCommand]):
    """The commands by name. Only the one that is called is imported and built: all of them together
    take a fifth of a run's start."""

    def __getitem__(self, name: str) -> TyperCommand:
        examples = "\n\n".join(f"Example: loadsheet {name} {example}" for example in EXAMPLES[name])
        module = import_module(f"loadsheet.cli.{name}")
        function = getattr(module, name)
        command_class = getattr(module, "Command", None)  # for what Typer itself cannot parse
        # An app with a single command is how Typer turns a function into a command.
        single = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
        )
        text = _paragraphs(function.__doc__)
        single.command(name, cls=command_class, help=text, epilog=examples)(function)
        command: Any = typer.main.get_command(single)
        return command  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(EXAMPLES)

    def __len__(self) -> int:
        return len(EXAMPLES)


class _Group(TyperGroup):
    """Turns the errors of every command into messages and exit codes, in one place."""

    def __init__(self, **given: Any):
        super().__init__(**given)
        self.commands = _Commands()  # type: ignore[assignment]  # Typer only reads it

    def list_commands(self, ctx: Any) -> list[str]:
        return list(EXAMPLES)

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
    airflow: Annotated[
        bool,
        typer.Option(
            "--airflow",
            help="Take connections, and the Variable of `run`, from Airflow alone: its secrets"
            " backend, environment and database. Airflow must be installed here.",
        ),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Log decisions, waits and versions to stderr; -vv also the SQL that is sent.",
        ),
    ] = 0,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option("--log-format", help="How -v and -vv write their lines."),
    ] = "text",
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Load PostgreSQL tables through a data lake into a warehouse, as one YAML file describes.

    Exit codes: 0 success, 1 the work failed, 2 the input is wrong, 3 a bug, 4 something would
    change (plan --exit-code), 5 nothing was compared (verify), 130 interrupted.
    """
    ctx.obj = project
    if airflow:
        from loadsheet.connections import airflow_side  # only this option needs it so early

        airflow_side.ask_first()
    if verbose:
        from loadsheet.cli import logs  # not needed by a command that is not asked to log

        logs.start(verbose, log_format)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example: loadsheet --project ~/elt/warehouse run flights",
)
app.callback(help=_paragraphs(_options.__doc__))(_options)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    app(prog_name="loadsheet")
