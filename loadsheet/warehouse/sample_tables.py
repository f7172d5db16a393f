"""The tables and views of a sample: what `loadsheet run --sample` has made in the warehouse, and nothing else there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg

from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import retention

# By the ledger's word, and only in the sample's own schemas: another pipeline may have its sample there as well.
_MADE = """
SELECT nspname::text, relname::text, relkind = 'v' FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = ANY (%(schemas)s) AND relkind IN ('r', 'p', 'v') AND nspname || '.' || relname IN (
    SELECT target FROM loadsheet.scope WHERE pipeline = %(pipeline)s
    UNION SELECT target FROM loadsheet.transform_run WHERE pipeline = %(pipeline)s
) ORDER BY 1, 2
"""

Made = list[tuple[Relation, bool]]
"""Each with whether it is a view."""


def made(session: Session, pipeline: Pipeline) -> Made:
    """The tables and views that runs of `pipeline`, one that `loadsheet.sample.sampled` has moved, have made."""
    if retention.tables_known(session, pipeline.name) is None:
        return []
    rows = session.execute(_MADE, {"schemas": _schemas(pipeline), "pipeline": pipeline.name})
    return [(Relation(schema, name), is_view) for schema, name, is_view in rows]


def drop(session: Session, pipeline: Pipeline, relations: Made) -> list[str]:
    """Drop them all or none, then the sample's schemas that are empty; returns the names of those.

    Raises psycopg.errors.DependentObjectsStillExist when somebody else's view reads one of them.
    """
    with session.transaction():
        _drop(session, "VIEW", (relation for relation, is_view in relations if is_view))
        _drop(session, "TABLE", (relation for relation, is_view in relations if not is_view))
    return [name for name in _schemas(pipeline) if _drop_schema(session, name)]


def _schemas(pipeline: Pipeline) -> Sequence[str]:
    return list(dict.fromkeys((pipeline.warehouse.schema, pipeline.warehouse.mart_schema)))


def _drop(session: Session, kind: str, relations: Iterable[Relation]) -> None:
    if names := ", ".join(relation.sql for relation in relations):
        session.execute(f"DROP {kind} {names}".encode())


def _drop_schema(session: Session, name: str) -> bool:
    try:
        with session.transaction():
            session.execute(f"DROP SCHEMA {ident(name)}".encode())
    except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.InvalidSchemaName):
        return False
    return True
