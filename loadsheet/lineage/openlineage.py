"""The lineage as OpenLineage events: a JobEvent for each table that is loaded and each mart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from loadsheet import __version__
from loadsheet.connections.lookup import Connection
from loadsheet.lineage.models import Column, Dataset, Edge, Lineage, carries_values
from loadsheet.plan.steps import step_id
from loadsheet.redact import masked
from loadsheet.spec.models import Pipeline

_SPEC = "https://openlineage.io/spec"
_PRODUCER = f"urn:loadsheet:{__version__}"
_FACETS = {
    "columnLineage": "facets/1-2-0/ColumnLineageDatasetFacet.json",
    "schema": "facets/1-2-0/SchemaDatasetFacet.json",
    "jobType": "facets/2-0-4/JobTypeJobFacet.json",
    "sql": "facets/1-1-0/SQLJobFacet.json",
}
_DEFAULT_PORT = 5432


@dataclass(frozen=True)
class Names:
    """How OpenLineage names things: a job as Airflow's provider names the task, a table by its
    server and database."""

    job_namespace: str
    source: Connection
    warehouse: Connection

    def dataset(self, dataset: Dataset) -> dict[str, str]:
        """The namespace and the name of a table."""
        server = self.source if dataset.kind == "source" else self.warehouse
        namespace = f"postgres://{server.host}:{server.port or _DEFAULT_PORT}"
        return {"namespace": namespace, "name": f"{server.schema}.{dataset}"}


def job_events(
    lineage: Lineage, pipeline: Pipeline, names: Names, targets: list[Dataset]
) -> Iterator[dict[str, Any]]:
    """The events of the steps that write `targets`: what each reads and writes, and how the columns
    follow from each other. A mart that is not traced has its inputs and no columns."""
    now = datetime.now(UTC).isoformat()
    for target in targets:
        edges = [
            edge for column in lineage.columns_of(target) for edge in lineage.into.get(column, ())
        ]
        yield {
            "eventTime": now,
            "producer": _PRODUCER,
            "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/JobEvent",
            "job": _job(pipeline, names, target),
            "inputs": [
                names.dataset(dataset) | {"facets": _schema(lineage, dataset)}
                for dataset in sorted({edge.source.dataset for edge in edges})
            ],
            "outputs": [
                names.dataset(target)
                | {
                    "facets": _schema(lineage, target)
                    | _column_lineage(lineage, names, target, edges)
                }
            ],
        }


def _job(pipeline: Pipeline, names: Names, target: Dataset) -> dict[str, Any]:
    facets = _facet("jobType", processingType="BATCH", integration="LOADSHEET", jobType="TASK")
    if target.kind == "mart":
        sql = masked(pipeline.transform(target.name).sql)
        facets |= _facet("sql", query=sql, dialect="postgres")
    step = step_id("transform" if target.kind == "mart" else "load", target.name)
    return {
        "namespace": names.job_namespace,
        "name": f"{pipeline.name}.{step}",
        "facets": facets,
    }


def _schema(lineage: Lineage, dataset: Dataset) -> dict[str, Any]:
    types = lineage.datasets.get(dataset)
    if not types:
        return {}
    fields = [{"name": name, "type": type_name} for name, type_name in types.items()]
    return _facet("schema", fields=fields)


def _column_lineage(
    lineage: Lineage, names: Names, target: Dataset, edges: list[Edge]
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    whole: list[dict[str, Any]] = []
    for edge in edges:
        if edge.source.is_rows:
            # OpenLineage has no word for "the rows of": the inputs say that they are read.
            continue
        field = names.dataset(edge.source.dataset) | {
            "field": edge.source.name,
            "transformations": [
                {
                    "type": "DIRECT" if carries_values(how) else "INDIRECT",
                    "subtype": "IDENTITY" if how == "load" else how.upper(),
                }
                for how in edge.hows
            ],
        }
        if edge.target.is_rows:
            whole.append(field)
        else:
            fields.setdefault(edge.target.name, {"inputFields": []})["inputFields"].append(field)
    if not fields and not whole:
        return {}
    for name, entry in fields.items():
        texts = [one.text for one in lineage.expressions.get(Column(target, name), ())[:1]]
        for field in entry["inputFields"] if texts else ():
            for transformation in field["transformations"]:
                transformation["description"] = texts[0]
    return _facet("columnLineage", fields=fields, dataset=whole)


def _facet(name: str, **content: Any) -> dict[str, Any]:
    schema = f"{_SPEC}/{_FACETS[name]}#/$defs/{_FACETS[name].rpartition('/')[2][:-5]}"
    return {name: {"_producer": _PRODUCER, "_schemaURL": schema, **content}}
