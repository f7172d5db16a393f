"""Where a pipeline stands by the ledger and the tables in the warehouse."""

from __future__ import annotations

from loadsheet.connections import Connections
from loadsheet.postgres import Session, connect_warehouse
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.standing.models import PipelineStanding, TableStanding, TransformStanding
from loadsheet.steps.transform import relations_read
from loadsheet.warehouse import due, status
from loadsheet.warehouse.status import Failure, Known, Watermark


def known(pipeline: Pipeline, connections: Connections) -> PipelineStanding:
    """All that needs no source. Raises ConnectionMissing, Refused and psycopg errors."""
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        at = status.begin(session)
        ledger = status.known(session, pipeline.name)
        named = {table.name for table in pipeline.tables}
        # One that a pattern matches and that failed at once has left nothing but its failure.
        failed = [name for kind, name in ledger.failures if kind == "table" and _open(ledger, "table", name)]
        return PipelineStanding(
            pipeline=pipeline.name,
            at=at,
            # Those of the spec, then those that the ledger remembers from patterns and earlier specs.
            tables=[
                _table(session, pipeline, name, ledger, name in named or pipeline.pattern_of(name) is not None)
                for name in dict.fromkeys([*(table.name for table in pipeline.tables), *ledger.watermarks, *failed])
            ],
            transforms=[_transform(session, pipeline, transform, ledger) for transform in pipeline.transforms],
        )


def _table(session: Session, pipeline: Pipeline, name: str, known: Known, in_spec: bool) -> TableStanding:
    target, last = Relation(pipeline.warehouse.schema, name), known.loads.get(name)
    mark = known.watermarks.get(name, Watermark(value=None, cursor=None))
    return TableStanding(
        name=name, target=last.target if last else str(target), rows=status.rows_in(session, target), last=last,
        # No run will ever mend what has left the spec.
        failure=_open(known, "table", name) if in_spec else None,
        in_spec=in_spec, watermark=mark.value, cursor=mark.cursor,
    )  # fmt: skip


def _transform(session: Session, pipeline: Pipeline, transform: Transform, known: Known) -> TransformStanding:
    target, last = Relation(pipeline.warehouse.mart_schema, transform.name), known.builds.get(transform.name)
    job = None
    if last:
        job = due.decide(session, pipeline, transform, target, relations_read(pipeline, transform), full=False)
    return TransformStanding(
        name=transform.name, target=str(target), rows=status.rows_in(session, target), last=last,
        failure=_open(known, "transform", transform.name), materialized=transform.materialized,
        due=job.reason if job else "",
    )  # fmt: skip


def _open(known: Known, kind: str, name: str) -> Failure | None:
    failure = known.failures.get((kind, name))
    return failure if failure and failure.worked_at is None else None
