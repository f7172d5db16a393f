"""`loadsheet plan`: the steps of a pipeline, which are Airflow's tasks, and what they would do
now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.cli.errors import FAILED
from loadsheet.cli.output import (
    AsJson,
    EveryStep,
    PipelineArgument,
    print_json,
    prints_every_step,
)
from loadsheet.errors import InputError
from loadsheet.names import closest
from loadsheet.plan.dag_tasks import task_ids
from loadsheet.plan.steps import Step, build_plan
from loadsheet.project.folder import open_pipeline
from loadsheet.redact import visible
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.diff.compare import Comparison
    from loadsheet.preview.models import StepPreview

CHANGES = 4


def plan(
    ctx: typer.Context,
    pipeline: PipelineArgument,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect", help="Compare with the current source and warehouse; writes nothing."
        ),
    ] = False,
    diff: Annotated[
        str | None,
        typer.Option(
            "--diff", metavar="REV", help="What changed since a Git revision: HEAD, main, v1.2."
        ),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option(
            "--sql", metavar="STEP", help="Print the SQL of a step, a table, a transform, or all."
        ),
    ] = None,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code", help=f"Exit with {CHANGES} when something would change or has changed."
        ),
    ] = False,
    verbose: EveryStep = False,
    as_json: AsJson = False,
) -> None:
    """Print a pipeline's steps in order, what they would do now (--connect), and what changed
    (--diff).

    The exit code is 1 when --connect finds a reason why the run would fail.
    """
    spec, project = open_pipeline(ctx.obj, pipeline)
    if exit_code and not connect and diff is None:
        raise InputError(
            "--exit-code reports whether something would change: add --connect or --diff REV"
        )
    written = spec  # with its patterns, which --connect replaces by tables
    since: Comparison | None = None
    if diff is not None:
        # Imported here: only --diff reads from Git.
        from loadsheet.diff.compare import compare_pipelines
        from loadsheet.diff.git import pipeline_at

        since = compare_pipelines(pipeline_at(spec, project, diff), spec, diff)
    previews: Mapping[str, StepPreview] = {}
    if connect:
        # Imported here: a plan without --connect needs no driver.
        from loadsheet.connections.lookup import project_connections
        from loadsheet.preview.pipeline import preview_pipeline

        spec, previews = preview_pipeline(spec, project_connections(project))
    steps = build_plan(spec)
    chosen: list[Step] = []
    if sql is not None:
        chosen = _chosen(steps, sql, written)
    if as_json:
        print_json(_document(spec, steps, previews, since, chosen))
    elif sql is not None:
        texts = [_sql_text(step, spec, previews) for step in chosen]
        typer.echo(visible("\n\n".join(texts)))
    else:
        see_all = ""
        if not prints_every_step(ctx, verbose):
            see_all = f"loadsheet plan {pipeline}{' --connect' if connect else ''} -v lists all"
        _print(spec, steps, previews, since, see_all)
    if any(step.fails for step in previews.values()):
        raise typer.Exit(FAILED)
    has_changed = since is not None and bool(since.changes)
    would_change = any(step.changes != "no" for step in previews.values())
    if exit_code and (has_changed or would_change):
        raise typer.Exit(CHANGES)


def _document(
    pipeline: Pipeline,
    steps: Sequence[Step],
    previews: Mapping[str, StepPreview],
    since: Comparison | None,
    chosen: Sequence[Step],
) -> dict[str, Any]:
    from loadsheet.plan.describe import details
    from loadsheet.preview.models import preview_summary

    documents = []
    tasks = task_ids(pipeline)
    for step in steps:
        step_document = {
            "id": step.id,
            "kind": step.kind,
            "name": step.name,
            "upstream": step.upstream,
            "task": tasks[step.id],
            **details(step, pipeline),
        }
        if step in chosen:
            step_document["sql"] = _sql(step, pipeline, previews)
        if previews:
            step_document["now"] = previews[step.id].as_dict()
        documents.append(step_document)
    document: dict[str, Any] = {
        "pipeline": pipeline.name,
        "schedule": pipeline.schedule,
        "assets": list(pipeline.assets),
        "steps": documents,
    }
    if previews:
        before = {kind: previews[kind].as_dict() for kind in ("extract", "load", "transform")}
        document["connect"] = {**preview_summary(previews.values()), "before": before}
    if since:
        document["diff"] = since.as_dict()
    return document


def _print(
    pipeline: Pipeline,
    steps: Sequence[Step],
    previews: Mapping[str, StepPreview],
    since: Comparison | None,
    see_all: str,
) -> None:
    from loadsheet.cli.plan_tree import plan_text, since_text, summary_text

    if since:
        typer.echo(since_text(since))
        if not previews:
            return
        typer.echo()
    typer.echo(plan_text(pipeline, steps, previews, see_all))
    if previews:
        typer.echo(summary_text(previews))


def _chosen(steps: tuple[Step, ...], wanted: str, pipeline: Pipeline) -> list[Step]:
    """The steps that --sql names. Raises InputError with the names there are."""
    from loadsheet.plan.step_sql import select_steps

    by_name = select_steps(steps, wanted)
    if by_name:
        return by_name
    # A pattern has no step of its own: the tables that it matches have replaced it.
    if any(pattern.name == wanted for pattern in pipeline.patterns):
        members: list[Step] = []
        for step in steps:
            pattern = pipeline.pattern_of(step.name)
            is_matched = pattern is not None and pattern.name == wanted
            # A transform may have the name of a table that the pattern matches.
            if is_matched and step.kind in ("extract", "load"):
                members.append(step)
        return members
    names = list(dict.fromkeys(step.name for step in steps if not step.is_of_pipeline))
    hint = f"; it has {', '.join(names)}; for all steps use --sql all"
    meant = closest(wanted, [*names, *(step.id for step in steps)])
    if meant:
        hint = f" (did you mean {meant!r}?)"
    raise InputError(f"--sql: {pipeline.name} has no step {wanted!r}{hint}")


def _sql_text(step: Step, pipeline: Pipeline, previews: Mapping[str, StepPreview]) -> str:
    """The step's SQL below its id; where there is none, the reason."""
    from loadsheet.plan.step_sql import why_no_sql

    sql = _sql(step, pipeline, previews)
    return f"-- {step.id}\n{sql or why_no_sql(step, bool(previews))}"


def _sql(step: Step, pipeline: Pipeline, previews: Mapping[str, StepPreview]) -> str:
    """The SQL that would run now; without a preview, what the pipeline file alone determines."""
    from loadsheet.plan.step_sql import step_sql

    now = previews.get(step.id)
    if now and now.sql:
        return now.sql
    if now and now.ddl and step.kind == "load":
        return "\n".join(f"{statement};" for statement in now.ddl)
    return step_sql(step, pipeline)
