"""`resolve.*`: which tables a pattern means today. Asked when a run begins, never while a file is
read."""

from __future__ import annotations

from collections.abc import Collection

from loadsheet.connections.lookup import Connections
from loadsheet.engine import garbage
from loadsheet.engine.sessions import Servers
from loadsheet.outcome import Outcome
from loadsheet.postgres import Session
from loadsheet.source.discovery import relations
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline


def resolve(pipeline: Pipeline, pattern: str, source: Session, warehouse: Session) -> Outcome:
    """The source's tables that `pattern` matches and nothing before it does, in the outcome's
    `names`.

    A table that was loaded once and is gone is among them: its extraction is skipped, where
    everybody sees it. Raises Refused when the role may not use the schema.
    """
    found = _own_tables(pipeline, source)
    known = garbage.tables_known(warehouse, pipeline.name) or set()
    names = tuple(name for name in sorted(found | known) if _is_meant(pipeline, pattern, name))
    there, gone = ([name for name in names if (name in found) == here] for here in (True, False))
    message = f"{pattern} matches {len(there)} tables: {', '.join(there) or 'none'}"
    if gone:
        message += f"; no longer in the source, kept in the warehouse: {', '.join(gone)}"
    return Outcome(status="done", message=message, names=names)


def resolved(pipeline: Pipeline, connections: Connections) -> Pipeline:
    """The pipeline with the tables that its patterns match now in their place; itself where it has
    none."""
    if not pipeline.patterns:
        return pipeline
    servers = Servers(pipeline, connections)
    with servers.source() as source, servers.warehouse() as warehouse:
        return with_tables(pipeline, source, garbage.tables_known(warehouse, pipeline.name) or ())


def with_tables(pipeline: Pipeline, source: Session, known: Collection[str]) -> Pipeline:
    """The pipeline with the tables that its patterns match in their place; `known` are those loaded
    before.

    So are tables that a transform reads and the source lacks: they are skipped, and the transform
    waits for them. Raises Refused when the role may not use the schema.
    """
    read = {name for inputs in transform_inputs(pipeline).values() for name in inputs.tables}
    names = sorted({*_own_tables(pipeline, source), *known, *read})
    matched = [(pipeline.pattern_of(name), name) for name in names]
    return pipeline.with_matched(
        name for pattern in pipeline.patterns for found, name in matched if found == pattern
    )


def _own_tables(pipeline: Pipeline, source: Session) -> set[str]:
    return {
        relation.name
        for relation in relations(source, pipeline.source.schema)
        if relation.is_own_table
    }


def _is_meant(pipeline: Pipeline, pattern: str, name: str) -> bool:
    meant = pipeline.pattern_of(name)
    return meant is not None and meant.name == pattern
