"""A pipeline moved out of production's way: where `loadsheet run --sample` puts what it reads. Pure."""

from __future__ import annotations

from dataclasses import replace

from loadsheet.errors import InputError
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.schemas import in_schemas

SUFFIX = "_sample"
_LONGEST = 63
"""Bytes; PostgreSQL cuts a longer name off, and what is left might be production's own."""


def sampled(pipeline: Pipeline) -> Pipeline:
    """The pipeline with schemas, a lake prefix and a name in the ledger of its own, without its scripts.

    Its transforms read the sample's tables. A script may write anywhere, so it is left out. Raises InputError where a
    schema's name is too long to get a suffix, or belongs to the source.
    """
    staging, mart = (_schema(pipeline, name) for name in (pipeline.warehouse.schema, pipeline.warehouse.mart_schema))
    moved = {
        pipeline.warehouse.schema: (staging, frozenset(table.name for table in pipeline.tables)),
        pipeline.warehouse.mart_schema: (mart, frozenset(transform.name for transform in pipeline.transforms)),
    }
    return replace(
        pipeline,
        name=f"{pipeline.name}_{SUFFIX}",
        lake=replace(pipeline.lake, prefix=f"{pipeline.lake.prefix}{SUFFIX}"),
        warehouse=replace(pipeline.warehouse, schema=staging, mart_schema=mart),
        tables=tuple(replace(table, max_shrink=None) for table in pipeline.tables),
        transforms=tuple(
            replace(transform, sql=in_schemas(transform.sql, moved))
            for transform in pipeline.transforms
            if transform not in scripts(pipeline)
        ),
    )


def scripts(pipeline: Pipeline) -> tuple[Transform, ...]:
    """The transforms that no sample is taken for."""
    return tuple(transform for transform in pipeline.transforms if transform.materialized == "script")


def _schema(pipeline: Pipeline, name: str) -> str:
    moved = f"{name}{SUFFIX}"
    if len(moved.encode()) > _LONGEST:
        raise InputError(f"--sample: {moved!r}, the schema of the sample, is longer than {_LONGEST} bytes")
    if pipeline.source.conn_id == pipeline.warehouse.conn_id and moved == pipeline.source.schema:
        raise InputError(f"--sample: {moved!r}, the schema of the sample, is the one that the pipeline reads from")
    return moved
