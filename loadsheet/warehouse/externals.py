"""The tables of others that a transform reads, under the names by which the ledger may know
them."""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.spec.sql_reading import is_made_elsewhere, resolve_read
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import tables_read
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables, tombstones
from loadsheet.warehouse.search_path import named_schemas


def relations_of_others(
    session: Session, pipeline: Pipeline, transform: Transform
) -> list[Relation]:
    """The existing tables that the transform reads and that its pipeline does not make."""
    searched = named_schemas(pipeline)
    found: list[Relation] = []
    for read in tables_read(parse(transform.sql)):
        if (
            not read.certain
            or resolve_read(pipeline, read)
            or not is_made_elsewhere(pipeline, read)
        ):
            continue
        # As the server finds it: in the first schema of the search path that has it.
        schemas = [read.schema] if read.schema else searched
        for schema in schemas:
            relation = Relation(schema, read.name)
            if tables.kind(session, relation):
                found.append(relation)
                break
    return found


def external_inputs(session: Session, pipeline: Pipeline, transform: Transform) -> list[Relation]:
    """The tables under `external` that the transform reads.

    If another pipeline loads or builds one in this warehouse, the ledger tells when it has changed:
    of the keys of deleted rows, under the name of their staging table.
    """
    # Most pipelines have none, and their SQL need not be read again.
    if not pipeline.external:
        return []
    found = relations_of_others(session, pipeline, transform)
    return list(dict.fromkeys(tombstones.owner_of(session, one) or one for one in found))
