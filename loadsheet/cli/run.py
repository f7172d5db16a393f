"""`loadsheet run`: walk a pipeline's steps here and now, without Airflow."""

from __future__ import annotations

from typing import Annotated

import typer

from loadsheet.cli.asking import run_request
from loadsheet.cli.errors import BUG, FAILED
from loadsheet.cli.interrupt import stopping_at_once
from loadsheet.cli.output import AsJson, print_json
from loadsheet.cli.places import open_pipeline
from loadsheet.cli.plan import PipelineArgument
from loadsheet.cli.report import Report, live_report
from loadsheet.connections import Connections, project_connections
from loadsheet.plan.steps import build_plan
from loadsheet.spec.models import Pipeline


def run(
    ctx: typer.Context,
    pipeline: PipelineArgument,
    tables: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these tables, and the transforms they feed.")
    ] = None,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Read, load and build everything (or all of --tables) again.")
    ] = False,
    accept_source: Annotated[
        bool,
        typer.Option(
            "--accept-source",
            help="Go on from the watermarks although the source was failed over: it is known to have lost nothing.",
        ),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="X", help="Only rows whose cursor is at or after X, a time (UTC) or a number."),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="Y", help="... and before Y.")] = None,
    as_json: AsJson = False,
) -> None:
    """Extract, load and transform; exit code 1 when a step failed, 0 also when there was nothing new.

    A failure that may pass is tried again, as the spec's tasks.retries and tasks.retry_delay say.
    """
    from loadsheet.runner import run_pipeline
    from loadsheet.steps.resolve import resolved

    spec, project = open_pipeline(ctx.obj, pipeline)
    connections = project_connections(project)
    _check_connections(spec, connections)
    spec = resolved(spec, connections)
    request = run_request(
        spec, tables=tables, full_refresh=full_refresh, accept_source=accept_source, start=start, end=end
    )
    with live_report(build_plan(spec), quiet=as_json) as report, stopping_at_once(report.live):
        run_pipeline(spec, request, connections, on_step=report.on_step, progress=report.on_progress, retrying=True)
    if as_json:
        print_json({"pipeline": spec.name, "run_id": request.run_id, "steps": report.documents()})
    else:
        report.print_summary(spec.name, request.run_id)
    _exit(report)


def _check_connections(spec: Pipeline, connections: Connections) -> None:
    """A connection nobody defines is wrong input, to be told before the first step and not by it."""
    for conn_id in dict.fromkeys((spec.source.conn_id, spec.lake.conn_id, spec.warehouse.conn_id)):
        connections(conn_id)


def _exit(report: Report) -> None:
    report.explain_bugs()
    if report.has_bugs:
        raise typer.Exit(BUG)
    if report.failed:
        raise typer.Exit(FAILED)
