"""The status of a pipeline: what the ledger has recorded, compared with the source now."""

from __future__ import annotations

from loadsheet.connections.lookup import Connections
from loadsheet.spec.models import Pipeline
from loadsheet.status.models import PipelineStatus
from loadsheet.status.source import add_source_lag
from loadsheet.status.warehouse import warehouse_status


def pipeline_status(pipeline: Pipeline, connections: Connections) -> PipelineStatus:
    """Ask the warehouse, then the source.

    Raises ConnectionMissing, Refused and psycopg errors for the warehouse. If the source cannot be
    asked, the status holds the reason.
    """
    status = warehouse_status(pipeline, connections)
    add_source_lag(pipeline, connections, status)
    return status
