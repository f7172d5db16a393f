"""`loadsheet run`: run a pipeline's steps here and now, without Airflow."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.cli.errors import BUG, FAILED, say
from loadsheet.cli.interrupt import exiting_at_once
from loadsheet.cli.output import (
    AsJson,
    EveryStep,
    PipelineArgument,
    print_json,
    prints_every_step,
)
from loadsheet.cli.progress import Silence
from loadsheet.cli.report import Report, live_report
from loadsheet.connections import airflow_side
from loadsheet.connections.lookup import Connections, project_connections
from loadsheet.engine.request import VARIABLE, command_line_request
from loadsheet.engine.resume import RunRecord
from loadsheet.errors import ConnectionMissing, InputError
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step, build_plan
from loadsheet.project.folder import open_pipeline
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.engine.sessions import KeptServers

_NOTHING_DONE = "no step had begun"
_HALF_DONE = "loaded tables stay, unfinished steps are rolled back"
_NEW_RUN = "The same command starts a new run"


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
    rebuild: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Build these transforms in full, although nothing has changed."
        ),
    ] = None,
    accept_source: Annotated[
        bool,
        typer.Option(
            "--accept-source",
            help=(
                "Continue from the watermarks although the source was failed over: you know that it"
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
            help="Resume the last stopped or failed run with its original options.",
        ),
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="1%|ROWS",
            help="For development: load a part of each table, into separate schemas.",
        ),
    ] = None,
    verbose: EveryStep = False,
    as_json: AsJson = False,
) -> None:
    """Extract, load and transform. The exit code is 1 when a step failed, 0 also when nothing was
    new.

    Steps with a temporary failure are retried, as tasks.retries and tasks.retry_delay in the
    pipeline file say. Before the first step, each server must answer.
    """
    spec, project = open_pipeline(ctx.obj, pipeline)
    connections = project_connections(project)
    _refuse_undefined(spec, connections)
    if resume and (tables or full_refresh or rebuild or accept_source or start or end or sample):
        raise InputError(
            "--resume uses the options of the stopped run: leave out the other options"
        )

    def requested(spec: Pipeline, record: RunRecord) -> RunRequest:
        if resume:
            # What it has found of the run before belongs to the record of this one.
            return record.resumed()
        return command_line_request(
            spec,
            tables=tables,
            full_refresh=full_refresh,
            rebuild=rebuild,
            accept_source=accept_source,
            start=start,
            end=end,
            sample=sample,
            variable=_variable(),
        )

    # A wrong option is told without a server, where no pattern's tables are needed for that.
    record = RunRecord(spec)
    request = None if spec.patterns else requested(spec, record)
    with closing(_preflight(spec, connections)) as servers:
        if request is None:
            spec = _resolved(spec, servers)
            record = RunRecord(spec)
            request = requested(spec, record)
        verbose = prints_every_step(ctx, verbose)
        screen = Screen(quiet=as_json, verbose=verbose)
        if sample is not None:
            report, notes = _run_sample(spec, request, connections, screen, sample, servers)
        else:
            report = _run_recorded(spec, request, connections, screen, record, servers)
            notes = []
            # A bug would only happen again.
            if report.failed and record.is_kept and not report.has_bugs and report.can_resume:
                notes.append(f"resume it: loadsheet run {pipeline} --resume")
            if report.to_refresh:
                names = shlex.quote(",".join(report.to_refresh))
                notes.append(
                    f"read again: loadsheet run {pipeline} --tables {names} --full-refresh"
                )
    if as_json:
        print_json({"pipeline": spec.name, "run_id": request.run_id, "steps": report.documents()})
    else:
        see_all = f"loadsheet run {pipeline} -v lists all"
        report.print_summary(spec.name, request.run_id, *notes, see_all=see_all, verbose=verbose)
    report.explain_bugs()
    if report.has_bugs:
        raise typer.Exit(BUG)
    if report.failed:
        raise typer.Exit(FAILED)


@dataclass(frozen=True, kw_only=True)
class Screen:
    """How much a run shows."""

    quiet: bool
    verbose: bool


def _refuse_undefined(spec: Pipeline, connections: Connections) -> None:
    """Raises ConnectionMissing with all connections that are not defined, or lack a variable."""
    missing: list[str] = []
    for conn_id in dict.fromkeys((spec.source.conn_id, spec.lake.conn_id, spec.warehouse.conn_id)):
        try:
            connections(conn_id)
        except ConnectionMissing as error:
            missing.append(str(error))
    if missing:
        raise ConnectionMissing("\n".join(missing))


def _variable() -> str | None:
    """Airflow's Variable, with `--airflow`."""
    if not airflow_side.is_asked_first():
        return None
    return airflow_side.variable(VARIABLE, {})


def _preflight(spec: Pipeline, connections: Connections) -> KeptServers:
    """The servers, when all answer; prints once which of them is waited for."""
    from loadsheet.engine.preflight import preflight
    from loadsheet.engine.sessions import KeptServers

    def print_wait(refusals: Sequence[object], seconds: float) -> None:
        for refusal in refusals:
            say(str(refusal))
        say(f"waiting up to {seconds:g} s (tasks.retries, tasks.retry_delay); Ctrl-C ends")

    servers = KeptServers(spec, connections)
    with (
        # Ctrl-C does not wait for a server that does not answer.
        exiting_at_once(Silence(), _NOTHING_DONE, _NEW_RUN),
        ThreadPoolExecutor(1, thread_name_prefix="loadsheet-preflight") as pool,
    ):
        answered = pool.submit(preflight, spec, servers, print_wait)
        # What the steps need is imported while the servers are asked.
        import loadsheet.engine.runner  # noqa: F401

        try:
            answered.result()
        except BaseException:
            servers.close()
            raise
    return servers


def _resolved(spec: Pipeline, servers: KeptServers) -> Pipeline:
    """The pipeline with the tables that its patterns match in their place. Patterns that match none
    are printed."""
    from loadsheet.engine.resolve import resolved

    with_tables = resolved(spec, servers)
    matching = [spec.pattern_of(table.name) for table in with_tables.tables]
    unmatched = [pattern.name for pattern in spec.patterns if pattern not in matching]
    if unmatched:
        names = ", ".join(unmatched)
        say(f"no table in schema {spec.source.schema!r} of the source matches {names}")
    return with_tables


def _run_recorded(
    spec: Pipeline,
    request: RunRequest,
    connections: Connections,
    screen: Screen,
    record: RunRecord,
    servers: KeptServers,
) -> Report:
    """Run, with a record of the options for `--resume`, which is deleted when no step failed."""

    def note_unchanged(step: Step, status: str) -> None:
        # An incremental table has its watermark; of a table that is copied whole, only the record
        # tells a resumed run that it need not be read again.
        if step.kind == "extract" and status == "skipped" and not spec.table(step.name).incremental:
            record.add_unchanged(step.name)

    # Before the first step: a run that is killed leaves its options behind.
    record.begin(request)
    next_step = _NEW_RUN
    if record.is_kept:
        next_step = f"loadsheet run {spec.name} --resume resumes this run"
    report = run_steps(spec, request, connections, screen, next_step, servers, note_unchanged)
    if not report.failed:
        record.end()
    return report


def _run_sample(
    spec: Pipeline,
    request: RunRequest,
    connections: Connections,
    screen: Screen,
    sample: str,
    servers: KeptServers,
) -> tuple[Report, list[str]]:
    """Run the pipeline with a sample's schemas. Returns the report and notes for the summary."""
    from loadsheet.engine.sample import sampled, scripts

    moved = sampled(spec)
    notes = [
        f"a sample ({sample}), in {moved.warehouse.schema} and {moved.warehouse.mart_schema};"
        f" {spec.warehouse.schema}, {spec.warehouse.mart_schema} and all watermarks are unchanged"
    ]
    left_out = ", ".join(transform.name for transform in scripts(spec))
    if left_out:
        notes.append(f"left out, because a script may write anywhere: {left_out}")
    return run_steps(moved, request, connections, screen, _NEW_RUN, servers), notes


def run_steps(
    spec: Pipeline,
    request: RunRequest,
    connections: Connections,
    screen: Screen,
    next_step: str,
    servers: KeptServers | None = None,
    note: Callable[[Step, str], None] = lambda step, status: None,
) -> Report:
    """Run the steps and show their progress. `next_step` is what an interrupted user can do;
    `servers` may have sessions that the steps can use."""
    from loadsheet.engine.runner import run_pipeline

    verify = None
    if spec.verify:
        from loadsheet.verify.step import verify_due

        verify = verify_due
    with (
        live_report(build_plan(spec), screen.quiet, screen.verbose) as report,
        exiting_at_once(report.live, _HALF_DONE, next_step),
    ):

        def on_step(step: Step, status: str, result: Any) -> None:
            note(step, status)
            report.on_step(step, status, result)

        run_pipeline(
            spec,
            request,
            connections,
            on_step=on_step,
            progress=report.on_progress,
            retrying=True,
            verify=verify,
            servers=servers,
        )
    return report
