"""Where a pipeline stands: what the ledger knows, beside what the source says now. Reads only."""

from __future__ import annotations

from loadsheet.connections import Connections
from loadsheet.spec.models import Pipeline
from loadsheet.standing.in_source import ask
from loadsheet.standing.in_warehouse import known
from loadsheet.standing.models import PipelineStanding, Standing, TableStanding, TransformStanding

__all__ = ["PipelineStanding", "Standing", "TableStanding", "TransformStanding", "standing"]


def standing(pipeline: Pipeline, connections: Connections) -> PipelineStanding:
    """Ask the warehouse, then the source. Raises ConnectionMissing, Refused and psycopg errors for the warehouse;
    a source that cannot be asked is only said to be so."""
    found = known(pipeline, connections)
    ask(pipeline, connections, found)
    return found
