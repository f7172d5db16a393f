"""The resolve step: which tables a pattern matches now. The source is asked when a run begins,
never while a pipeline file is read."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from loadsheet.engine.sessions import Servers
from loadsheet.outcome import Outcome
from loadsheet.postgres import Session
from loadsheet.source.discovery import relations
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline
from loadsheet.warehouse.scope import extracted_tables
from loadsheet.wording import counted, listed


def resolve(pipeline: Pipeline, pattern: str, source: Session, warehouse: Session) -> Outcome:
    """The tables that belong to `pattern`, in the outcome's `names`. A table that matches several
    patterns belongs to the first.

    A table that was loaded once and is no longer in the source is among them, so that its skipped
    extraction shows what became of it. Raises Refused when the role may not use the schema.
    """
    in_source = _source_tables(pipeline, source)
    loaded = extracted_tables(warehouse, pipeline.name) or set()
    present: list[str] = []
    gone: list[str] = []
    for name in sorted(in_source | loaded):
        owner = pipeline.pattern_of(name)
        if owner is None or owner.name != pattern:
            continue
        if name in in_source:
            present.append(name)
        else:
            gone.append(name)
    message = f"{pattern} matches {counted(len(present), 'table')}: {listed(present) or 'none'}"
    if gone:
        message += f"; no longer in the source, kept in the warehouse: {listed(gone)}"
    return Outcome(status="done", message=message, names=tuple(sorted(present + gone)))


def resolved(pipeline: Pipeline, servers: Servers) -> Pipeline:
    """The pipeline with the tables that its patterns match now, in place of the patterns; the same
    pipeline where it has none."""
    if not pipeline.patterns:
        return pipeline
    with servers.source() as source, servers.warehouse() as warehouse:
        loaded = extracted_tables(warehouse, pipeline.name) or ()
        return with_matched_tables(pipeline, source, loaded)


def with_matched_tables(pipeline: Pipeline, source: Session, loaded: Collection[str]) -> Pipeline:
    """The pipeline with the tables that its patterns match, in place of the patterns.

    These are the source's tables, those `loaded` before, and those that a transform reads. Where
    the source lacks one, its steps are skipped, and a transform that reads it waits. Raises Refused
    when the role may not use the schema.
    """
    names = _source_tables(pipeline, source) | set(loaded)
    for inputs in transform_inputs(pipeline).values():
        names.update(inputs.tables)
    by_pattern: dict[str, list[str]] = {pattern.name: [] for pattern in pipeline.patterns}
    for name in sorted(names):
        pattern = pipeline.pattern_of(name)
        if pattern:
            by_pattern[pattern.name].append(name)
    return pipeline.with_matched(chain.from_iterable(by_pattern.values()))


def _source_tables(pipeline: Pipeline, source: Session) -> set[str]:
    """The tables of the source's schema, without partitions and what belongs to an extension."""
    return {
        relation.name
        for relation in relations(source, pipeline.source.schema)
        if relation.is_own_table
    }
