"""`loadsheet run`: walk a pipeline's steps here and now, without Airflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from loadsheet.cli.errors import BUG, FAILED, say
from loadsheet.cli.interrupt import stopping_at_once
from loadsheet.cli.output import AsJson, PipelineArgument, print_json
from loadsheet.cli.report import Report, live_report
from loadsheet.connections.lookup import Connections, project_connections
from loadsheet.engine.request import command_line_request
from loadsheet.engine.resume import RunRecord
from loadsheet.errors import InputError
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step, build_plan
from loadsheet.project.folder import open_pipeline
from loadsheet.spec.models import Pipeline

_ANEW = "The same command starts a new run"


def run(
    ctx: typer.Context,
    pipeline: PipelineArgument,
    tables: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only these tables, and the transforms they feed."),
    ] = None,
    full_refresh: Annotated[
        bool,
        typer.Option(
            "--full-refresh", help="Read, load and build everything (or all of --tables) again."
        ),
    ] = False,
    accept_source: Annotated[
        bool,
        typer.Option(
            "--accept-source",
            help=(
                "Go on from the watermarks although the source was failed over: it is known to have"
                " lost nothing."
            ),
        ),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="X",
            help="Only rows whose cursor is at or after X, a time (UTC) or a number.",
        ),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="Y", help="... and before Y.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run that was stopped or has failed, as it was asked for.",
        ),
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="1%|ROWS",
            help="For development: so much of each table, into schemas of their own.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Extract, load and transform; exit code 1 when a step failed, 0 also when there was nothing
    new.

    A failure that may pass is tried again, as the spec's tasks.retries and tasks.retry_delay say.
    """
    spec, project = open_pipeline(ctx.obj, pipeline)
    connections = project_connections(project)
    _check_connections(spec, connections)
    spec = _resolved(spec, connections)
    record = RunRecord(spec)
    if resume:
        if tables or full_refresh or accept_source or start or end or sample:
            raise InputError(
                "--resume goes on as the stopped run was asked for: leave out the other options"
            )
        request = record.resumed()
    else:
        request = command_line_request(
            spec,
            tables=tables,
            full_refresh=full_refresh,
            accept_source=accept_source,
            start=start,
            end=end,
            sample=sample,
        )
    if sample is not None:
        report, notes = _run_sample(spec, request, connections, as_json, sample)
    else:
        report = _run_recorded(spec, request, connections, as_json, record)
        goes_on = report.failed and record.is_kept and not report.has_bugs
        notes = [f"resume it: loadsheet run {pipeline} --resume"] if goes_on else []
    if as_json:
        print_json({"pipeline": spec.name, "run_id": request.run_id, "steps": report.documents()})
    else:
        report.print_summary(spec.name, request.run_id, *notes)
    _exit(report)


def _resolved(spec: Pipeline, connections: Connections) -> Pipeline:
    """The pipeline with tables in the place of its patterns; says which of them match none."""
    from loadsheet.engine.resolve import resolved

    found = resolved(spec, connections)
    matching = [spec.pattern_of(table.name) for table in found.tables]
    idle = [pattern.name for pattern in spec.patterns if pattern not in matching]
    if idle:
        say(f"no table in schema {spec.source.schema!r} of the source matches {', '.join(idle)}")
    return found


def _run_recorded(
    spec: Pipeline, request: RunRequest, connections: Connections, quiet: bool, record: RunRecord
) -> Report:
    """Run, and keep what was asked for until the run has ended well."""

    def note(step: Step, state: str) -> None:
        if step.kind == "extract" and state == "skipped" and not spec.table(step.name).incremental:
            record.unchanged(step.name)

    record.begin(request)
    way_on = f"loadsheet run {spec.name} --resume resumes this run" if record.is_kept else _ANEW
    report = _run(spec, request, connections, quiet, way_on, note)
    if not report.failed:
        record.end()
    return report


def _run_sample(
    spec: Pipeline, request: RunRequest, connections: Connections, quiet: bool, sample: str
) -> tuple[Report, list[str]]:
    """Run the pipeline moved to schemas of its own; the report, and what else people should know."""
    from loadsheet.engine.sample import sampled, scripts

    moved = sampled(spec)
    ours, theirs = moved.warehouse, spec.warehouse
    notes = [
        f"a sample ({sample}), in {ours.schema} and {ours.mart_schema}; {theirs.schema},"
        f" {theirs.mart_schema} and all watermarks are as they were"
    ]
    left_out = ", ".join(transform.name for transform in scripts(spec))
    if left_out:
        notes.append(f"left out, because a script may write anywhere: {left_out}")
    return _run(moved, request, connections, quiet, _ANEW), notes


def _run(
    spec: Pipeline,
    request: RunRequest,
    connections: Connections,
    quiet: bool,
    way_on: str,
    note: Callable[[Step, str], None] = lambda step, state: None,
) -> Report:
    from loadsheet.engine.runner import run_pipeline

    with (
        live_report(build_plan(spec), quiet=quiet) as report,
        stopping_at_once(report.live, way_on),
    ):

        def on_step(step: Step, state: str, result: Any) -> None:
            note(step, state)
            report.on_step(step, state, result)

        run_pipeline(
            spec, request, connections, on_step=on_step, progress=report.on_progress, retrying=True
        )
    return report


def _check_connections(spec: Pipeline, connections: Connections) -> None:
    """An undefined connection is wrong input, reported before the first step."""
    for conn_id in dict.fromkeys((spec.source.conn_id, spec.lake.conn_id, spec.warehouse.conn_id)):
        connections(conn_id)


def _exit(report: Report) -> None:
    report.explain_bugs()
    if report.has_bugs:
        raise typer.Exit(BUG)
    if report.failed:
        raise typer.Exit(FAILED)
