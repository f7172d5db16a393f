"""Whether the role may read what a transform reads: tables and marts of the pipeline, and what others make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loadsheet.plan.preview import StepPreview
from loadsheet.plan.tables_read import is_made_elsewhere, meaning
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import reads
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables


def may_read(
    found: StepPreview, session: Session, pipeline: Pipeline, spec: Transform, own: Iterable[Relation]
) -> bool:
    """Whether the role may; errors with their GRANTs where it may not. What is not there is not asked about."""
    allowed = [rights.has_rights(found, session, relation, ("SELECT",)) for relation in own]
    for relation in _others(session, pipeline, spec):
        allowed.append(rights.uses_schema(found, session, relation.schema))
        allowed.append(rights.has_rights(found, session, relation, ("SELECT",)))
    return all(allowed)


def _others(session: Session, pipeline: Pipeline, spec: Transform) -> Iterator[Relation]:
    """What it reads of others, where it is found."""
    searched = (pipeline.warehouse.schema, pipeline.warehouse.mart_schema, "public")
    for read in reads(parse(spec.sql)):
        if read.certain and not meaning(pipeline, read) and is_made_elsewhere(pipeline, read):
            relations = (Relation(schema, read.name) for schema in ((read.schema,) if read.schema else searched))
            if there := next((relation for relation in relations if tables.kind(session, relation)), None):
                yield there
