"""`loadsheet gc`: removes what the lake no longer needs, or everything a sample run created."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from loadsheet.cli.errors import FAILED, WRONG_INPUT, describe, is_expected, say
from loadsheet.cli.output import AsJson, print_json, print_table
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError, WorkError
from loadsheet.project.folder import open_pipeline, project_folder, project_specs
from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.spec.schedule import duration

if TYPE_CHECKING:
    from loadsheet.engine.garbage import TableGarbage
    from loadsheet.lake.garbage import Verdict

Specs = Sequence[tuple[Pipeline, Path]]
Found = TypeVar("Found")

_HEADS = (
    "table",
    "abandoned attempts",
    "old loads",
    "objects",
    "bytes",
    "kept loads",
    "kept attempts",
    "kept bytes",
)


def gc(
    ctx: typer.Context,
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all."),
    ] = None,
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE", help="Keep everything younger than this: 12h, 7d. At least 1h."
        ),
    ] = "7d",
    keep: Annotated[
        int, typer.Option(metavar="N", min=1, help="Keep the newest N loads of each table.")
    ] = 3,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Remove instead what `run --sample` has made: its tables, schemas and objects.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove abandoned attempts and old loads from the lake, never what a retry or a rebuild needs.

    With --sample, drop everything a sample run created.
    """
    age = _age(older_than)
    if sample and _given(ctx, "older_than", "keep"):
        raise InputError("--sample removes the sample whole: leave out --older-than and --keep")
    specs = [open_pipeline(ctx.obj, pipeline)] if pipeline else _all(project_folder(ctx.obj))
    if sample:
        _drop_samples(specs, dry_run, as_json)
        return
    found, code = _each(specs, lambda spec, project: _sweep(spec, project, age, keep, dry_run))
    if as_json:
        documents = [
            {"pipeline": name, "tables": [_document(t) for t in tables]}
            for name, tables in found.items()
        ]
        print_json(
            {"dry_run": dry_run, "older_than": older_than, "keep": keep, "pipelines": documents}
        )
    else:
        for name, tables in found.items():
            _print(name, tables, dry_run)
    if code:
        raise typer.Exit(code)


def _drop_samples(specs: Specs, dry_run: bool, as_json: bool) -> None:
    dropped, code = _each(specs, lambda spec, project: drop_sample(spec, project, dry_run))
    if as_json:
        documents = [{"pipeline": name, **sample.document} for name, sample in dropped.items()]
        print_json({"dry_run": dry_run, "pipelines": documents})
    else:
        for name, sample in dropped.items():
            print_dropped(name, sample, dry_run)
    if code:
        raise typer.Exit(code)


def _each(specs: Specs, work: Callable[[Pipeline, Path], Found]) -> tuple[dict[str, Found], int]:
    """What `work` finds, by pipeline, and an exit code; one pipeline's server that is away keeps no
    other's garbage."""
    found, codes = {}, []
    for spec, project in specs:
        try:
            found[spec.name] = work(spec, project)
        except Exception as error:
            if not is_expected(error):
                raise
            say(f"error: {spec.name}: {describe(error)}")
            codes.append(WRONG_INPUT if isinstance(error, InputError) else FAILED)
    return found, min(codes, default=0)


def _given(ctx: typer.Context, *options: str) -> bool:
    """Whether any of them stands on the command line."""
    return any(
        getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE" for name in options
    )


def _age(text: str) -> timedelta:
    from loadsheet.engine.garbage import YOUNGEST

    try:
        age = duration(text)
    except (ValueError, OverflowError) as error:
        raise InputError(f"--older-than {text}: {error}") from None
    if age < YOUNGEST:
        raise InputError(
            f"--older-than {text} is too young: an attempt may be under way for that long; use 1h"
            " or more"
        )
    return age


def _all(project: Path) -> Specs:
    return [(load_pipeline(spec), project) for spec in project_specs(project)]


def _sweep(
    pipeline: Pipeline, project: Path, age: timedelta, keep: int, dry_run: bool
) -> list[TableGarbage]:
    # Here, so that commands that need no server start without a driver.
    from loadsheet.engine import garbage
    from loadsheet.lake.store import Lake
    from loadsheet.postgres import connect_warehouse

    connections = project_connections(project)
    lake = Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket)
    try:
        with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
            found = garbage.find(pipeline, lake, session, age, keep)
    except Exception as error:
        if isinstance(error, InputError) or not is_expected(error):
            raise
        raise WorkError(f"nothing was removed: {describe(error)}") from error
    if not dry_run:
        garbage.remove(found, lake)
    return found


@dataclass(frozen=True)
class _Sum:
    """Attempts, loads, objects and bytes of some verdicts."""

    attempts: int
    loads: int
    objects: int
    bytes: int


def _sum(verdicts: Sequence[Verdict]) -> _Sum:
    return _Sum(
        attempts=sum(not v.is_load for v in verdicts),
        loads=sum(v.is_load for v in verdicts),
        objects=sum(len(v.attempt.objects) for v in verdicts),
        bytes=sum(v.attempt.bytes for v in verdicts),
    )


def _split(tables: Sequence[TableGarbage]) -> tuple[_Sum, _Sum]:
    """What goes and what stays."""
    verdicts = [verdict for table in tables for verdict in table.verdicts]
    return _sum([v for v in verdicts if v.remove]), _sum([v for v in verdicts if not v.remove])


def _print(name: str, tables: list[TableGarbage], dry_run: bool) -> None:
    gone, kept = _split(tables)
    did = "would remove" if dry_run else "removed"
    typer.echo(
        f"{name}: {did} {gone.attempts} abandoned attempts and {gone.loads} old loads"
        f" ({gone.objects:,} objects, {gone.bytes:,} bytes); {kept.loads} loads and {kept.attempts}"
        f" attempts stay ({kept.bytes:,} bytes)"
    )
    if tables:
        print_table((*_HEADS, "because"), [_row(table) for table in tables])


def _row(table: TableGarbage) -> tuple[str, ...]:
    gone, kept = _split([table])
    numbers = (
        gone.attempts,
        gone.loads,
        gone.objects,
        gone.bytes,
        kept.loads,
        kept.attempts,
        kept.bytes,
    )
    reasons = dict.fromkeys(verdict.why for verdict in table.verdicts if not verdict.remove)
    left = [] if table.in_spec else ["not in the spec"]
    return (table.table, *(f"{number:,}" for number in numbers), "; ".join([*left, *reasons]))


def _document(table: TableGarbage) -> dict[str, Any]:
    gone, kept = _split([table])
    return {
        "table": table.table,
        "in_spec": table.in_spec,
        "removed": vars(gone),
        "kept": vars(kept),
        "attempts": [
            {
                "prefix": v.attempt.prefix,
                "is_load": v.is_load,
                "removed": v.remove,
                "why": v.why,
                "objects": len(v.attempt.objects),
                "bytes": v.attempt.bytes,
                "newest": v.attempt.newest,
            }
            for v in table.verdicts
        ],
    }


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What a pipeline's sample was, or would be in a dry run."""

    relations: list[str]
    schemas: list[str]
    objects: int
    bytes: int
    kept: list[str]
    """Why objects with the sample's names stay."""

    @property
    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return vars(self)


def drop_sample(pipeline: Pipeline, project: Path, dry_run: bool) -> Dropped:
    """Drop the tables, views and empty schemas of the pipeline's sample, and remove its objects
    from the lake.

    The ledger's rows stay: a sample that is being taken must still find its fence. Raises what
    servers raise.
    """
    from loadsheet.engine import garbage, sample
    from loadsheet.engine.sample import sampled
    from loadsheet.lake.store import Lake
    from loadsheet.postgres import connect_warehouse

    connections, moved = project_connections(project), sampled(pipeline)
    lake = Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket)
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        relations = sample.made(session, moved)
        schemas = [] if dry_run else sample.drop(session, moved, relations)
        found = garbage.find_sample(moved, lake, session)
    if not dry_run:
        garbage.remove(found, lake)
    return _dropped([str(relation) for relation, _ in relations], schemas, found)


def _dropped(relations: list[str], schemas: list[str], found: list[TableGarbage]) -> Dropped:
    verdicts = [verdict for table in found for verdict in table.verdicts]
    gone = [verdict.attempt for verdict in verdicts if verdict.remove]
    return Dropped(
        relations=relations,
        schemas=schemas,
        objects=sum(len(attempt.objects) for attempt in gone),
        bytes=sum(attempt.bytes for attempt in gone),
        kept=list(dict.fromkeys(verdict.why for verdict in verdicts if not verdict.remove)),
    )


def print_dropped(name: str, dropped: Dropped, dry_run: bool) -> None:
    """One line, and why something stays."""
    did = "would remove" if dry_run else "removed"
    relations = ", ".join(map(on_one_line, dropped.relations)) or "no tables"
    schemas = f"; schemas {', '.join(dropped.schemas)}" if dropped.schemas else ""
    objects = f"{dropped.objects:,} objects ({dropped.bytes:,} bytes) in the lake"
    typer.echo(f"{name}: {did} the sample: {relations}{schemas}; {objects}")
    for why in dropped.kept:
        typer.echo(f"  objects stay: {why}")
