"""`python -m demo.flights`: generate the flights source, and simulate days in it."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer

from demo.flights import a_day_passes
from demo.flights import generate as generate_source

# Tracebacks without local variables: the DSN has a password.
app = typer.Typer(
    help="Generate the flights source, then simulate days in it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
Dsn = Annotated[
    str, typer.Option(envvar="FLIGHTS_DSN", help="postgresql://user:password@host:port/database")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same rows.")]


@app.command()
def generate(
    dsn: Dsn,
    scale: Annotated[
        str,
        typer.Option(help="demo, small, medium, big, or a number of bookings."),
    ] = "demo",
    seed: Seed = 42,
    if_missing: Annotated[
        bool,
        typer.Option("--if-missing", help="Keep an existing source unchanged."),
    ] = False,
) -> None:
    """Create the schema `bookings` and fill it.

    Example: python -m demo.flights generate --dsn postgresql://me:secret@127.0.0.1/flights --scale
    small
    """
    try:
        written = generate_source(dsn, scale, seed)
    except psycopg.errors.DuplicateSchema:
        if not if_missing:
            raise
        typer.echo("the source already exists: kept unchanged")
        return
    for table, rows in written.items():
        typer.echo(f"{table:16} {rows:>10,} rows")


@app.command()
def day(
    dsn: Dsn,
    seed: Seed = 42,
    bookings: Annotated[
        int | None,
        typer.Option(help="Number of new bookings. Default: 1 for every 60."),
    ] = None,
    days: Annotated[int, typer.Option(help="Number of days.")] = 1,
) -> None:
    """Simulate a day: bookings are made, flights leave and land, an airport is renamed.

    Example: python -m demo.flights day --dsn postgresql://me:secret@127.0.0.1/flights --days 3
    """
    for _ in range(days):
        for table, counts in a_day_passes(dsn, seed, bookings).items():
            typer.echo(f"{table:16} {counts.inserted:>8,} inserted {counts.updated:>8,} updated")


if __name__ == "__main__":
    app()
