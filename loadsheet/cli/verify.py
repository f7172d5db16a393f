"""`loadsheet verify`: whether the staging tables equal their source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.cli.errors import FAILED
from loadsheet.cli.output import AsJson, PipelineArgument, print_json, show
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError
from loadsheet.project.folder import open_pipeline
from loadsheet.redact import on_one_line
from loadsheet.verify.text import row_text, states_text, verdict_text
from loadsheet.wording import counted, listed

if TYPE_CHECKING:
    from loadsheet.verify.look import Look
    from loadsheet.verify.models import Difference, TableVerdict, Verification

_MOST_PRINTED = 10
NOT_COMPARED = 5
"""The exit code where nothing was compared, or not what was asked for by name. A pager would take 0
for an answer, and 1 for rows that differ."""


def verify(
    ctx: typer.Context,
    pipeline: PipelineArgument,
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TABLE]...", help="The tables and transforms to compare. Default: all."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Compare only rows whose cursor is this or higher."),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="5%", help="Compare a share of the rows, others each time."),
    ] = None,
    gentle: Annotated[
        bool,
        typer.Option("--gentle", help="Read the source in ranges, with pauses between them."),
    ] = False,
    values: Annotated[
        bool, typer.Option("--values", help="Also print the values that differ.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Read the rows that differ again, build the marts that read them, and compare once"
            " more.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare staging tables with their source and marts with their SELECT, and name the rows that
    are missing, extra or different.

    Without --repair it writes nothing but the verdict, into the ledger: `loadsheet status` shows
    it. Rows written since the last load count as newer, not as different. The exit code is 1 when a
    table or mart differs; with --repair, when one still does. It is 5 when nothing could be
    compared, or not a table or mart that was named.
    """
    spec, project = open_pipeline(ctx.obj, pipeline)
    # Imported here: `--help` needs no driver.
    from loadsheet.verify.look import Look, share_of
    from loadsheet.verify.pipeline import verify_pipeline

    if repair and gentle:
        raise InputError("--repair compares all rows of a table in one scan: leave out --gentle")
    share = share_of(sample) if sample is not None else 1.0
    look = Look(since=since, share=share, gentle=gentle)

    def report(verdict: TableVerdict) -> None:
        if not as_json:
            _print(verdict, values)

    connections = project_connections(project)
    found = verify_pipeline(spec, connections, tables or (), report, look)
    if not as_json:
        _print_summary(found, look)
    has_failed = False
    document = None
    if repair:
        from loadsheet.cli.repair import repair_differences

        before = found
        repaired = repair_differences(spec, connections, before, as_json)
        has_failed = repaired.has_failed
        if repaired.names:
            again = verify_pipeline(spec, connections, repaired.names, report, look)
            found = before.with_later(again)
            if not as_json:
                _print_summary(again, look)
        document = {**repaired.document, "before": _verdicts(before, values)}
    if as_json:
        print_json({**_document(found, values), "repair": document})
    if found.differs or has_failed:
        raise typer.Exit(FAILED)
    if not found.is_compared or set(found.not_compared) & set(tables or ()):
        raise typer.Exit(NOT_COMPARED)


def _print(verdict: TableVerdict, values: bool) -> None:
    show(on_one_line(verdict_text(verdict)))
    if verdict.why:
        show(on_one_line(f"  {verdict.why}"))
    if verdict.not_recorded:
        show(on_one_line(f"  the verdict is not recorded: {verdict.not_recorded}"))
    for reason in verdict.left_out:
        show(on_one_line(f"  column not compared: {reason}"))
    where = "in the source" if verdict.kind == "table" else "in its SELECT"
    for kind, rows in verdict.named.items():
        for row in rows[:_MOST_PRINTED]:
            show(on_one_line(f"  {kind}: {row_text(row, values, where)}"))
        more = verdict.counts[kind] - _MOST_PRINTED
        if rows and more > 0:
            show(f"  {kind}: {counted(more, 'more row')}")


def _print_summary(found: Verification, look: Look) -> None:
    if found.verdicts:
        show(states_text(found))
    if not found.is_compared:
        show("nothing was compared, so nothing is known of the rows")
    elif found.not_compared:
        show(on_one_line(f"not compared, see above: {listed(found.not_compared)}"))
    if found.left_out:
        show(on_one_line(f"left out: {', '.join(found.left_out)}"))
    if look.part:
        show(on_one_line(f"compared: {look.part}"))
        if look.confidence:
            show(look.confidence)


def _document(found: Verification, values: bool) -> dict[str, Any]:
    return {
        "pipeline": found.pipeline,
        "differs": found.differs,
        "not_compared": found.not_compared,
        **_verdicts(found, values),
        "left_out": found.left_out,
    }


def _verdicts(found: Verification, values: bool) -> dict[str, Any]:
    return {
        "tables": [_entry(verdict, values) for verdict in found.tables],
        "marts": [_entry(verdict, values) for verdict in found.marts],
    }


def _entry(verdict: TableVerdict, values: bool) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for kind, differences in verdict.named.items():
        rows[kind] = [_row_document(row, values) for row in differences]
    return {
        verdict.kind: verdict.table,
        "target": verdict.target,
        "state": verdict.state,
        "why": verdict.why,
        "source_rows": verdict.source_rows,
        "target_rows": verdict.target_rows,
        "newer": verdict.newer,
        "unproven": verdict.unproven,
        "counts": verdict.counts,
        "rows": rows,
        "columns_not_compared": verdict.left_out,
        "part": verdict.part or None,
        "through_load": verdict.through or None,
        "not_recorded": verdict.not_recorded or None,
    }


def _row_document(row: Difference, values: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"key": row.key}
    if not row.changes:
        return document
    if not values:
        return document | {"columns": [change.column for change in row.changes]}
    changes = {
        change.column: {"source": change.source, "target": change.target} for change in row.changes
    }
    return document | {"changes": changes}
