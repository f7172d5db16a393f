"""`python -m demo.playground serve` and `sql`: both use the project in the current folder."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.servers import PostgresServer, S3Server
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError

SHOP = Path(__file__).with_name("shop.sql")
ENV = Path(".env")
# Tracebacks without local variables: the connections have passwords.
app = typer.Typer(
    help="Practice servers for Loadsheet: a source, a warehouse and a lake, all on 127.0.0.1.",
    no_args_is_help=True,
    add_completion=False, pretty_exceptions_show_locals=False,
)  # fmt: skip


@app.command()
def serve() -> None:
    """Start the servers and write .env with the connections shop_source, warehouse and lake.

    Ctrl-C stops the servers and removes .env.

    Example: python -m demo.playground serve
    """
    # also where a shell has started us with & or nohup
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with PostgresServer() as postgres, S3Server() as s3:
        source, warehouse = postgres.create_database("shop"), postgres.create_database("warehouse")
        with psycopg.connect(source) as session:
            session.execute(SHOP.read_bytes())
        _write(source, warehouse, s3)
        try:
            typer.echo(f"The servers are up; {ENV} has their connections. Press Ctrl-C to stop.")
            with suppress(KeyboardInterrupt):
                signal.pause()
        finally:
            ENV.unlink(missing_ok=True)


@app.command()
def sql(
    conn_id: Annotated[
        str, typer.Argument(help="A connection of the project, such as shop_source or warehouse.")
    ],
    statement: Annotated[str, typer.Argument(help="The SQL to run.")],
) -> None:
    """Run SQL on a connection and print the rows, like psql.

    Example: python -m demo.playground sql warehouse "SELECT count(*) FROM staging.orders"
    """
    try:
        connection = project_connections(Path.cwd())(conn_id)
        with psycopg.connect(
            host=connection.host,
            port=connection.port,
            user=connection.login,
            password=connection.password,
            dbname=connection.schema,
        ) as session:
            _print(session.execute(statement.encode()))
    except (InputError, psycopg.Error) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _write(source: str, warehouse: str, s3: S3Server) -> None:
    lake = {
        "conn_type": "generic",
        "login": s3.access_key,
        "password": s3.secret_key,
        "extra": {"endpoint_url": s3.endpoint},
    }
    found = {"SHOP_SOURCE": source, "WAREHOUSE": warehouse, "LAKE": json.dumps(lake)}
    try:
        handle = os.open(ENV, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        problem = f"{ENV} already exists: change to an empty folder, or remove the file"
        raise SystemExit(problem) from None
    with os.fdopen(handle, "w") as file:
        file.writelines(f"AIRFLOW_CONN_{name}='{value}'\n" for name, value in found.items())


def _print(cursor: psycopg.Cursor[tuple[object, ...]]) -> None:
    if not cursor.description:
        typer.echo(cursor.statusmessage)
        return
    table = Table(
        *(column.name for column in cursor.description), box=None, pad_edge=False, header_style=""
    )
    for row in cursor:
        table.add_row(*(Text("NULL" if value is None else str(value)) for value in row))
    Console().print(table)


if __name__ == "__main__":
    app()
