"""The staging tables and marts of a pipeline as Airflow assets: their URIs, which tasks write and
read them, and the schedule that waits for them.

A URI names the warehouse by its connection id. A host would be another one in each environment, and
a parse asks no connection. The scheme begins with `x-`: Airflow takes such a URI as it is. For any
other scheme it looks through all providers (60 ms in each process that parses). `postgres` also
needs a host, a port and a database, which OpenLineage would take for the real ones.

A table that is read by data interval has a second asset, whose events have partition keys: a DAG
without partitions ignores an event with one, and a DAG with partitions needs one.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from loadsheet.plan.gaps import is_read_by_interval
from loadsheet.plan.steps import Step
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline


def asset_uri(conn_id: str, schema: str, table: str) -> str:
    """The URI of a table in the warehouse behind the connection. It is also the asset's name:
    Airflow refuses to run a task whose asset shares only one of the two with another DAG's."""
    parts = [quote(part, safe="") for part in (conn_id, schema, table)]
    return f"x-loadsheet://{'/'.join(parts)}"


def intervals_uri(table_uri: str) -> str:
    """The URI of a table's data intervals: `table_uri` and one more part, which no table has."""
    return f"{table_uri}/intervals"


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
    found: list[Any] = []
    for name in step.tables or (step.name,):
        uri = asset_uri(to.conn_id, to.schema, name)
        found.append(uri)
        if is_read_by_interval(pipeline.table(name)):
            found.append(intervals_uri(uri))
    return found


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
    return list(dict.fromkeys(asset_uri(*target) for target in asset_targets(pipeline)))


def asset_targets(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """Connection, schema and name of each table under `schedule.assets`, in their order."""
    found: list[tuple[str, str, str]] = []
    for name in pipeline.assets:
        # The id of a connection may have dots, but not the other two.
        *conn_id, schema, table = name.rsplit(".", 2)
        found.append((conn_id[0] if conn_id else pipeline.warehouse.conn_id, schema, table))
    return found
