"""`loadsheet gc`: removes what the lake no longer needs, or everything a sample run created."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from loadsheet.cli.errors import FAILED, WRONG_INPUT, describe_error, is_expected, say
from loadsheet.cli.output import AsJson, PipelineOrAll, console, print_json, print_table, show
from loadsheet.cli.summary import print_line
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError, WorkError
from loadsheet.project.folder import open_pipelines
from loadsheet.redact import hanging, on_one_line
from loadsheet.spec.models import Pipeline
from loadsheet.spec.schedule import duration
from loadsheet.wording import counted, listed

if TYPE_CHECKING:
    from loadsheet.engine.garbage import Removal, TableGarbage
    from loadsheet.lake.garbage import Verdict

Specs = Sequence[tuple[Pipeline, Path]]
"""Pipelines, each with its project."""
Result = TypeVar("Result")

_HEADS = ("table", "removed", "kept", "bytes removed", "bytes kept")


_NOT_IN_SPEC = "not in the spec"


def gc(
    ctx: typer.Context,
    pipeline: PipelineOrAll = None,
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
            help="Remove instead what `run --sample` created: its tables, schemas and objects.",
        ),
    ] = False,
    versions: Annotated[
        bool,
        typer.Option(
            "--versions",
            help="In a bucket that keeps versions: also remove the versions, for good.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove abandoned attempts and old loads from the lake, never what a retry or a rebuild needs.

    With --sample, drop everything a sample run created.
    """
    # First: wrong input is reported before a server is asked.
    age = _age(older_than)
    if sample and _is_any_given(ctx, "older_than", "keep", "versions"):
        raise InputError(
            "--sample removes the complete sample: leave out --older-than, --keep and --versions"
        )
    pipelines, project = open_pipelines(ctx.obj, pipeline)
    specs = [(spec, project) for spec in pipelines]
    if sample:
        _drop_samples(specs, dry_run, as_json)
        return

    def collect(spec: Pipeline, project: Path) -> tuple[list[TableGarbage], Removal]:
        return _collect(spec, project, age, keep, versions, dry_run)

    garbage, code = _each(specs, collect)
    if as_json:
        documents = []
        for name, (tables, removal) in garbage.items():
            document = {
                "pipeline": name,
                "marked": vars(removal.all_marked),
                "refused": list(removal.refusals),
                "tables": [_document(table, None if dry_run else removal) for table in tables],
            }
            documents.append(document)
        options = {"dry_run": dry_run, "older_than": older_than, "keep": keep}
        print_json({**options, "pipelines": documents})
    else:
        for name, (tables, removal) in garbage.items():
            _print(name, tables, removal, dry_run)
    if any(removal.refusals for _, removal in garbage.values()):
        code = code or FAILED
    if code:
        raise typer.Exit(code)


def _drop_samples(specs: Specs, dry_run: bool, as_json: bool) -> None:
    def drop(spec: Pipeline, project: Path) -> Dropped:
        return drop_sample(spec, project, dry_run)

    dropped, code = _each(specs, drop)
    if as_json:
        documents = [{"pipeline": name, **sample.document} for name, sample in dropped.items()]
        print_json({"dry_run": dry_run, "pipelines": documents})
    else:
        for name, sample in dropped.items():
            print_dropped(name, sample, dry_run)
    if code:
        raise typer.Exit(code)


def _each(specs: Specs, work: Callable[[Pipeline, Path], Result]) -> tuple[dict[str, Result], int]:
    """The result of `work` by pipeline, and the exit code.

    An error is printed, and the next pipeline follows: one server that is down must not keep the
    garbage of all others.
    """
    results: dict[str, Result] = {}
    codes = []
    for spec, project in specs:
        try:
            results[spec.name] = work(spec, project)
        except Exception as error:
            # A bug is not a matter of one pipeline: it ends the command, with a traceback.
            if not is_expected(error):
                raise
            say(hanging(f"error: {spec.name}: {describe_error(error)}"))
            codes.append(WRONG_INPUT if isinstance(error, InputError) else FAILED)
    # Failed work (1) outranks wrong input (2).
    return results, min(codes, default=0)


def _is_any_given(ctx: typer.Context, *options: str) -> bool:
    """Whether any of `options` is on the command line, even with its default value."""
    sources = [ctx.get_parameter_source(name) for name in options]
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)


def _age(text: str) -> timedelta:
    from loadsheet.engine.garbage import YOUNGEST

    try:
        age = duration(text)
        datetime.now(UTC) - age
    except ValueError as error:
        raise InputError(f"--older-than {text}: {error}") from None
    except OverflowError:
        raise InputError(
            f"--older-than {text} goes back to before the year 1: write a shorter time, such as"
            " 365d"
        ) from None
    if age < YOUNGEST:
        raise InputError(
            f"--older-than {text} is too short: an attempt may still be running after that time;"
            " use 1h or more"
        )
    return age


def _collect(
    pipeline: Pipeline, project: Path, age: timedelta, keep: int, versions: bool, dry_run: bool
) -> tuple[list[TableGarbage], Removal]:
    """Find the garbage of a pipeline and, unless in a dry run, remove it."""
    # Imported here: `--help` needs no driver.
    from loadsheet.engine import garbage
    from loadsheet.engine.lock_holders import holders_named, of_loads
    from loadsheet.lake.store import Lake
    from loadsheet.postgres import connect_warehouse

    connections = project_connections(project)
    lake = Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket)
    with ExitStack() as stack:
        try:
            warehouse = connect_warehouse(connections(pipeline.warehouse.conn_id))
            session = stack.enter_context(warehouse)
            tables = garbage.find(pipeline, lake, session, age, keep, versions)
            if dry_run or not tables:
                return tables, garbage.Removal()
            alone = garbage.without_restores(session, pipeline.name, tables)
            with holders_named(connections, {session.conn_id: [of_loads(pipeline.name)]}):
                check = stack.enter_context(alone)
        except Exception as error:
            if isinstance(error, InputError) or not is_expected(error):
                raise
            # The garbage is found before anything is removed.
            raise WorkError(f"nothing was removed: {describe_error(error)}") from error
        removal = garbage.remove(tables, lake, check)
    return tables, removal


@dataclass
class _Totals:
    """Sums over some verdicts. The names are keys of the JSON document."""

    attempts: int = 0
    loads: int = 0
    objects: int = 0
    bytes: int = 0

    def add(self, verdict: Verdict) -> None:
        if verdict.is_load:
            self.loads += 1
        else:
            self.attempts += 1

    def add_amount(self, objects: int, size: int) -> None:
        self.objects += objects
        self.bytes += size


def _totals(tables: Sequence[TableGarbage], removal: Removal | None) -> tuple[_Totals, _Totals]:
    """What is removed and what is kept, also because the lake refused to remove it. What is marked
    as deleted is neither. Without a `removal`, what would be."""
    removed = _Totals()
    kept = _Totals()
    for table in tables:
        for verdict in table.verdicts:
            attempt = verdict.attempt
            if not verdict.remove:
                kept.add(verdict)
                kept.add_amount(attempt.count, attempt.bytes)
                continue
            if removal is None:
                removed.add(verdict)
                removed.add_amount(attempt.count, attempt.bytes)
                continue
            is_refused = attempt.prefix in removal.refusals
            (kept if is_refused else removed).add(verdict)
            freed = removal.freed[attempt.prefix]
            removed.add_amount(freed.objects, freed.bytes)
            if is_refused:
                marked = removal.marked.get(attempt.prefix)
                gone = freed.objects + (marked.objects if marked else 0)
                left = attempt.bytes - freed.bytes - (marked.bytes if marked else 0)
                kept.add_amount(attempt.count - gone, left)
    return removed, kept


def _print(name: str, tables: list[TableGarbage], removal: Removal, dry_run: bool) -> None:
    done = None if dry_run else removal
    removed, kept = _totals(tables, done)
    verb = "would remove" if dry_run else "removed"
    show(
        f"{name}: {verb} {counted(removed.attempts, 'abandoned attempt')} and"
        f" {counted(removed.loads, 'old load')} ({counted(removed.objects, 'object')},"
        f" {counted(removed.bytes, 'byte')}); {counted(kept.loads, 'load')} and"
        f" {counted(kept.attempts, 'attempt')} stay ({counted(kept.bytes, 'byte')})"
    )
    if removal.all_marked.objects:
        show(_marked(removal))
    if removal.refusals:
        say(_refused(name, removal))
    if not tables:
        return
    rows: list[tuple[str, ...]] = []
    tables_by_reason: dict[str, list[str]] = {}
    for table in tables:
        removed, kept = _totals([table], done)
        row = (
            table.table,
            f"{removed.attempts + removed.loads:,}",
            f"{kept.attempts + kept.loads:,}",
            f"{removed.bytes:,}",
            f"{kept.bytes:,}",
        )
        rows.append(row)
        if not table.in_spec:
            tables_by_reason.setdefault(_NOT_IN_SPEC, []).append(table.table)
        for reason in _reasons_to_keep([table]):
            tables_by_reason.setdefault(f"kept ({reason})", []).append(table.table)
    print_table(_HEADS, rows)
    # Below the table: with a column for them, none would be readable at 80 columns.
    out = console()
    for reason, names in tables_by_reason.items():
        text = on_one_line(f"{reason}: {listed(names)}")
        print_line(out, "", "", text, indent="  ")


def _reasons_to_keep(tables: Sequence[TableGarbage]) -> list[str]:
    """Each reason once."""
    reasons = [v.why for table in tables for v in table.verdicts if not v.remove]
    return list(dict.fromkeys(reasons))


def _marked(removal: Removal) -> str:
    marked = removal.all_marked
    objects = counted(marked.objects, "object is", "objects are")
    size = counted(marked.bytes, "byte is", "bytes are")
    return (
        f"  the bucket keeps versions: {objects} marked as deleted, and {size} not free yet;"
        " `loadsheet gc --versions` removes them for good"
    )


def _refused(name: str, removal: Removal) -> str:
    prefix, error = next(iter(removal.refusals.items()))
    attempts = counted(len(removal.refusals), "attempt stays", "attempts stay")
    return (
        f"{name}: {attempts}, because the lake does not let this key remove all of the objects:"
        f" {on_one_line(prefix)}: {describe_error(error)}"
    )


def _document(table: TableGarbage, removal: Removal | None) -> dict[str, Any]:
    removed, kept = _totals([table], removal)
    refusals = removal.refusals if removal else {}
    attempts = []
    for verdict in table.verdicts:
        document = {
            "prefix": verdict.attempt.prefix,
            "is_load": verdict.is_load,
            "removed": verdict.remove and verdict.attempt.prefix not in refusals,
            "why": verdict.why,
            "objects": verdict.attempt.count,
            "bytes": verdict.attempt.bytes,
            "newest": verdict.attempt.newest,
        }
        attempts.append(document)
    return {
        "table": table.table,
        "in_spec": table.in_spec,
        "removed": vars(removed),
        "kept": vars(kept),
        "attempts": attempts,
    }


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What was removed of a pipeline's sample, or would be in a dry run."""

    relations: list[str]
    schemas: list[str]
    objects: int
    bytes: int
    marked: int
    """Bytes of these that a bucket with versions does not free."""
    kept: list[str]
    """Why objects with the sample's names stay."""

    @property
    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return vars(self)


def drop_sample(pipeline: Pipeline, project: Path, dry_run: bool) -> Dropped:
    """Drop the tables, views and empty schemas of the pipeline's sample, and remove its objects
    from the lake.

    The ledger's rows stay: a sample run that is still at work must find its fence. Raises the
    errors of the servers.
    """
    from loadsheet.engine import garbage, sample
    from loadsheet.engine.lock_holders import holders_named, of_table
    from loadsheet.engine.sample import sampled
    from loadsheet.lake.store import Lake
    from loadsheet.postgres import connect_warehouse

    connections = project_connections(project)
    moved = sampled(pipeline)  # as `run --sample` ran it, with schemas of its own
    lake = Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket)
    schemas: list[str] = []
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        relations = sample.created_relations(session, moved)
        if not dry_run:
            waits = {session.conn_id: [of_table(relation) for relation, _ in relations]}
            with holders_named(connections, waits):
                schemas = sample.drop_relations(session, moved, relations)
        tables = garbage.find_sample(moved, lake, session)
    removal = garbage.Removal()
    if not dry_run:
        removal = garbage.remove(tables, lake)
    removed, _ = _totals(tables, None if dry_run else removal)
    kept = _reasons_to_keep(tables)
    if removal.refusals:
        kept.append(_refused(pipeline.name, removal))
    return Dropped(
        relations=[str(relation) for relation, _ in relations],
        schemas=schemas,
        objects=removed.objects,
        bytes=removed.bytes,
        marked=removal.all_marked.bytes,
        kept=kept,
    )


def print_dropped(name: str, dropped: Dropped, dry_run: bool) -> None:
    """Print one line, and the reasons why objects stay."""
    verb = "would remove" if dry_run else "removed"
    parts = [", ".join(map(on_one_line, dropped.relations)) or "no tables"]
    if dropped.schemas:
        parts.append(f"schemas {', '.join(dropped.schemas)}")
    objects = counted(dropped.objects, "object")
    parts.append(f"{objects} ({counted(dropped.bytes, 'byte')}) in the lake")
    show(f"{name}: {verb} the sample: {'; '.join(parts)}")
    if dropped.marked:
        show(
            f"  the bucket keeps versions: {counted(dropped.marked, 'byte is', 'bytes are')} marked"
            " as deleted, and not free yet"
        )
    for why in dropped.kept:
        show(f"  objects stay: {why}")
