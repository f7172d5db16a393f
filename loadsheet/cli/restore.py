"""`loadsheet restore`: a staging table again from the lake, as it was after one of its loads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.cli.errors import FAILED, describe_error, say
from loadsheet.cli.output import AsJson, PipelineArgument, print_json, print_table, show
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError
from loadsheet.outcome import Outcome
from loadsheet.project.folder import open_pipeline
from loadsheet.redact import on_one_line
from loadsheet.sql.text import Relation
from loadsheet.wording import counted, listed

if TYPE_CHECKING:
    from loadsheet.engine.restore import Candidate, Restored

_RESERVED = ("loadsheet", "information_schema")
_WORKING_TABLE = re.compile(r"_loadsheet_.*")
# PostgreSQL would take more, but those are mistakes of quoting: --into '"audit"."orders"'.
_NAME = re.compile(r"\w([\w$ -]*[\w$-])?")
_MOST_BYTES = 63
"""Longer names would be cut, to another table's perhaps."""
_HEADS = ("load", "committed at", "action", "rows", "can be restored", "run")


def restore(
    ctx: typer.Context,
    pipeline: PipelineArgument,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The staging table.")],
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="LOAD",
            help="The load after which the table was as wanted: its number (_load_id), the id of"
            " its run, or a time: the newest that was committed by then. Default: the newest.",
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEMA.TABLE", help="Make this new table instead, and change nothing else."
        ),
    ] = None,
    list_loads: Annotated[
        bool, typer.Option("--list", help="Show the loads and which can be restored; change none.")
    ] = False,
    accept_counts: Annotated[
        bool,
        typer.Option(
            "--accept-counts",
            help="Restore what the loads have written, although the ledger has counted other rows:"
            " another user has changed the table between two loads.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a staging table again from the lake alone, as it was after one of its loads.

    In place, the watermark goes back with the rows, so the next run reads on from there, and the
    marts that read the table are built again.
    """
    if list_loads and (as_of or into or accept_counts):
        raise InputError("--list changes nothing: leave out the other options")
    place = _relation(into)
    spec, project = open_pipeline(ctx.obj, pipeline)
    connections = project_connections(project)
    # Imported here: `--help` needs no driver.
    from loadsheet.engine import restore as engine

    if list_loads:
        found = engine.candidates(spec, table, connections)
        _list(spec.name, table, found, as_json)
        return
    restored = engine.restore(
        spec, table, connections, as_of=as_of, into=place, accept_counts=accept_counts
    )
    if as_json:
        print_json(_document(spec.name, restored))
    else:
        _print(restored, is_read_whole=spec.table(table).incremental is None)
    if any(isinstance(result, Exception) for result in restored.marts.values()):
        raise typer.Exit(FAILED)


def _relation(into: str | None) -> Relation | None:
    if into is None:
        return None
    schema, dot, name = into.partition(".")
    why = ""
    if not (schema and dot and name):
        why = "it has no schema"
    elif schema in _RESERVED or schema.startswith("pg_"):
        why = f"the schema {schema} is not for tables of users"
    elif _WORKING_TABLE.fullmatch(name):
        why = "Loadsheet's own working tables have such names"
    for part in (schema, name):
        if part and not _NAME.fullmatch(part):
            why = "a name has letters, digits, _, $, - and blanks, without quotes"
        elif len(part.encode()) > _MOST_BYTES:
            why = f"{part} is longer than PostgreSQL allows (bytes of a name: {_MOST_BYTES})"
    if why:
        raise InputError(
            on_one_line(
                f"--into {into}: {why}. Name the new table with its schema, as in audit.orders"
            )
        )
    return Relation(schema, name)


def _list(pipeline: str, table: str, found: list[Candidate], as_json: bool) -> None:
    if as_json:
        loads = []
        for one in found:
            loads.append(
                {
                    "load": one.load.load_no,
                    "run_id": one.load.run_id,
                    "committed_at": one.load.committed_at,
                    "action": one.load.action,
                    "restored": one.load.restored,
                    "rows": one.rows,
                    "can_be_restored": not one.missing.count,
                    "missing": one.missing.first,
                    "missing_count": one.missing.count,
                }
            )
        print_json({"pipeline": pipeline, "table": table, "loads": loads})
        return
    rows = []
    for one in reversed(found):
        can = "yes"
        if one.missing.count:
            can = f"no, gone: {', '.join(map(str, one.missing.first))}"
            more = one.missing.count - len(one.missing.first)
            can += f" and {more:,} more" if more else ""
        action = one.load.action
        if one.load.restored is not None:
            action += f" of {one.load.restored}"
        time = f"{one.load.committed_at:%Y-%m-%d %H:%M:%SZ}"
        rows.append((str(one.load.load_no), time, action, f"{one.rows:,}", can, one.load.run_id))
    print_table(_HEADS, rows)


def _print(restored: Restored, is_read_whole: bool) -> None:
    placed = restored.placed
    load = restored.load
    show(
        on_one_line(
            f"{restored.place}: {counted(placed.rows, 'row')}, as after load {load.load_no} of run"
            f" {load.run_id} ({load.committed_at:%Y-%m-%d %H:%M:%SZ}), from"
            f" {counted(len(restored.replayed), 'load')} in the lake"
        )
    )
    if restored.is_elsewhere:
        return
    if placed.newer_columns:
        names = listed(placed.newer_columns)
        show(on_one_line(f"  without values, because they came later: {names}"))
    if placed.wider_columns:
        names = listed(placed.wider_columns)
        show(on_one_line(f"  with the wider types of later, because something uses them: {names}"))
    if is_read_whole:
        show("  the next run reads the whole table again, as the source has it then")
    elif placed.watermark is not None:
        show(on_one_line(f"  the next run reads on from {placed.watermark}"))
    for name, result in restored.marts.items():
        if isinstance(result, Outcome):
            show(on_one_line(f"  mart {name}: {result.message}"))
        else:
            say(f"error: mart {name}: {describe_error(result)}")


def _document(pipeline: str, restored: Restored) -> dict[str, Any]:
    placed = restored.placed
    marts: dict[str, Any] = {}
    for name, result in restored.marts.items():
        if isinstance(result, Outcome):
            marts[name] = {"status": result.status, "message": result.message}
        else:
            marts[name] = {"status": "failed", "message": describe_error(result)}
    return {
        "pipeline": pipeline,
        "table": restored.table,
        "place": str(restored.place),
        "load": restored.load.load_no,
        "run_id": restored.load.run_id,
        "committed_at": restored.load.committed_at,
        "rows": placed.rows,
        "replayed": restored.replayed,
        "watermark": placed.watermark,
        "columns_without_values": placed.newer_columns,
        "columns_with_wider_types": placed.wider_columns,
        "marts": marts,
    }
