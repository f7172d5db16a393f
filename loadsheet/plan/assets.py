"""The staging tables and marts of a pipeline as Airflow assets: their URIs, which tasks write and
read them, and the schedule that waits for them.

A URI names the warehouse by its connection id. A host would be another one in each environment, and
a parse asks no connection. The scheme begins with `x-`: Airflow takes such a URI as it is. For any
other scheme it looks through all providers (60 ms in each process that parses). `postgres` also
needs a host, a port and a database, which OpenLineage would take for the real ones.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from loadsheet.plan.steps import Step
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline


def asset_uri(conn_id: str, schema: str, table: str) -> str:
    """The URI of a table in the warehouse behind the connection. It is also the asset's name:
    Airflow refuses to run a task whose asset shares only one of the two with another DAG's."""
    parts = [quote(part, safe="") for part in (conn_id, schema, table)]
    return f"x-loadsheet://{'/'.join(parts)}"


def written_by(step: Step, pipeline: Pipeline) -> list[Any]:
    """The outlets of a task, in dag-factory's form: the URIs of what it writes. Which tables a
    pattern matches only a run knows, so its outlet is an alias."""
    to = pipeline.warehouse
    if step.kind == "transform":
        return [asset_uri(to.conn_id, to.mart_schema, step.name)]
    if step.kind not in ("load", "table", "batch"):
        return []
    if step.mapped:
        name = asset_uri(to.conn_id, to.schema, step.name)
        return [{"__type__": "airflow.sdk.AssetAlias", "name": name}]
    tables = step.tables or (step.name,)
    return [asset_uri(to.conn_id, to.schema, table) for table in tables]


def read_by(step: Step, pipeline: Pipeline) -> list[str]:
    """The inlets of the step's task: what a transform reads and this pipeline does not make. Other
    inputs are those of tasks of the same DAG."""
    if step.kind != "transform":
        return []
    conn_id = pipeline.warehouse.conn_id
    external = transform_inputs(pipeline)[step.name].external
    return [asset_uri(conn_id, *name.split(".", 1)) for name in external]


def waited_for(pipeline: Pipeline) -> list[str]:
    """The URIs of the tables under `schedule.assets`."""
    return [asset_uri(*target) for target in asset_targets(pipeline)]


def asset_targets(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """Connection, schema and name of each table under `schedule.assets`, in their order."""
    found: list[tuple[str, str, str]] = []
    for name in pipeline.assets:
        # The id of a connection may have dots, but not the other two.
        *conn_id, schema, table = name.rsplit(".", 2)
        found.append((conn_id[0] if conn_id else pipeline.warehouse.conn_id, schema, table))
    return found
