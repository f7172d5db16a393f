"""`loadsheet gc --sample`: what `loadsheet run --sample` has made, gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from loadsheet.connections import project_connections
from loadsheet.spec.models import Pipeline
from loadsheet.visible import on_one_line

if TYPE_CHECKING:
    from loadsheet.steps.housekeeping import TableGarbage


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What a pipeline's sample was, or would be in a dry run."""

    relations: list[str]
    schemas: list[str]
    objects: int
    bytes: int
    kept: list[str]
    """Why objects stay that are called like the sample's."""

    @property
    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return vars(self)


def drop_sample(pipeline: Pipeline, project: Path, dry_run: bool) -> Dropped:
    """Drop the tables, views and empty schemas of the pipeline's sample, and remove its objects from the lake.

    The ledger's rows stay: a sample that is being taken must still find its fence. Raises what servers raise.
    """
    from loadsheet.lake.store import Lake
    from loadsheet.postgres import connect_warehouse
    from loadsheet.sample import sampled
    from loadsheet.steps import housekeeping
    from loadsheet.warehouse import sample_tables

    connections, moved = project_connections(project), sampled(pipeline)
    lake = Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket)
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        relations = sample_tables.made(session, moved)
        schemas = [] if dry_run else sample_tables.drop(session, moved, relations)
        found = housekeeping.find_sample(moved, lake, session)
    if not dry_run:
        housekeeping.remove(found, lake)
    return _dropped([str(relation) for relation, _ in relations], schemas, found)


def _dropped(relations: list[str], schemas: list[str], found: list[TableGarbage]) -> Dropped:
    verdicts = [verdict for table in found for verdict in table.verdicts]
    gone = [verdict.attempt for verdict in verdicts if verdict.remove]
    return Dropped(
        relations=relations, schemas=schemas, objects=sum(len(attempt.objects) for attempt in gone),
        bytes=sum(attempt.bytes for attempt in gone),
        kept=list(dict.fromkeys(verdict.why for verdict in verdicts if not verdict.remove)),
    )  # fmt: skip


def print_dropped(name: str, dropped: Dropped, dry_run: bool) -> None:
    """One line, and why something stays."""
    did = "would remove" if dry_run else "removed"
    relations = ", ".join(map(on_one_line, dropped.relations)) or "no tables"
    schemas = f"; schemas {', '.join(dropped.schemas)}" if dropped.schemas else ""
    objects = f"{dropped.objects:,} objects ({dropped.bytes:,} bytes) in the lake"
    typer.echo(f"{name}: {did} the sample: {relations}{schemas}; {objects}")
    for why in dropped.kept:
        typer.echo(f"  objects stay: {why}")
