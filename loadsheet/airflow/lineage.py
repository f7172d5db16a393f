"""What the operators tell Airflow's OpenLineage provider, where it is installed: the tables that a
step reads and writes, their columns, how these follow from each other, and what was checked in
their rows.

The provider calls these methods in a process beside the task. Nothing here is asked otherwise, and
an error costs the event its details and the task nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Connection as AirflowConnection

from loadsheet.airflow.command_line import converted
from loadsheet.airflow.lineage_checks import assertions, row_count
from loadsheet.airflow.locate import pipeline_file

if TYPE_CHECKING:
    from loadsheet.checks import Check, Checked
    from loadsheet.connections.lookup import Connection
    from loadsheet.lineage.openlineage import Names
    from loadsheet.spec.models import Pipeline
    from loadsheet.warehouse.ledger import Kind as LedgerKind


@dataclass
class StepLineage:
    """What the provider reads of an answer. It makes an OperatorLineage of it, whichever class it
    is: so none of the provider's has to be imported."""

    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    run_facets: dict[str, Any] = field(default_factory=dict)
    job_facets: dict[str, Any] = field(default_factory=dict)


class ReportsLineage:
    """The lineage of a step operator, for the provider's DefaultExtractor."""

    kind: ClassVar[Any]
    spec: str
    name: str
    get_dag: Callable[[], Any]
    checked: list[Checked]
    """What the task has checked so far."""

    def _own_tables(self) -> Sequence[str]:
        """The tables that the task extracts or loads."""
        return [self.name] if self.kind in ("extract", "load", "table") else ()

    def get_openlineage_facets_on_start(self) -> StepLineage:
        """The step's tables by name."""
        return self._lineage(None)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> StepLineage:
        """The step's tables by name, with the check that has failed it."""
        return self._lineage(None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> StepLineage:
        """The step's tables with their columns, the column lineage, how much was written, and what
        was checked."""
        return self._lineage(task_instance.run_id)

    def _lineage(self, run_id: str | None) -> StepLineage:
        from loadsheet.lineage.openlineage import Names
        from loadsheet.spec.pipeline_file import load_pipeline

        if self.kind not in ("extract", "load", "table", "batch", "transform", "verify"):
            return StepLineage()
        pipeline = load_pipeline(pipeline_file(self.spec, self.get_dag()))
        names = Names("", _connection(pipeline.source), _connection(pipeline.warehouse))
        if self.kind == "verify":
            return StepLineage(inputs=[*self._compared(pipeline, names)])
        inputs: list[Any] = []
        outputs: list[Any] = []
        job_facets: dict[str, Any] = {}
        for event in self._events(pipeline, names, run_id):
            inputs += _datasets(event["inputs"])
            outputs += _datasets(event["outputs"])
            if self.kind == "transform":
                job_facets = _job_facets(event["job"])
        lake = [_lake(pipeline, table) for table in self._own_tables()]
        if self.kind == "extract":
            outputs = lake
        elif self.kind == "load":
            inputs += lake
        return StepLineage(inputs=inputs, outputs=outputs, job_facets=job_facets)

    def _compared(self, pipeline: Pipeline, names: Names) -> Iterator[Any]:
        """The tables and marts that the step `verify` has compared, and the source's tables."""
        from airflow.providers.common.compat.openlineage import facet

        from loadsheet.lineage.models import Dataset

        for one in self.checked:
            dataset = Dataset("mart", pipeline.warehouse.mart_schema, one.name)
            if one.kind == "table":
                dataset = Dataset("staging", pipeline.warehouse.schema, one.name)
                source = Dataset("source", pipeline.source.schema, one.name)
                yield facet.Dataset(**names.dataset(source))
            quality = {"dataQualityAssertions": assertions(one.checks)}
            counts = {} if one.rows is None else {"dataQualityMetrics": row_count(one.rows)}
            # Both places are in use for assertions: OpenLineage's documentation has them in
            # `facets`, and their type is that of an input's.
            yield facet.InputDataset(
                **names.dataset(dataset), facets=quality, inputFacets=quality | counts
            )

    def _checks_of(self, name: str) -> list[Check]:
        return [check for one in self.checked if one.name == name for check in one.checks]

    def _events(
        self, pipeline: Pipeline, names: Names, run_id: str | None
    ) -> Iterator[dict[str, Any]]:
        """What the task writes, each as `loadsheet lineage --openlineage` describes it. Only a task
        that has written is worth a question to the warehouse."""
        from loadsheet.lineage.graph import named_lineage, pipeline_lineage
        from loadsheet.lineage.models import Dataset
        from loadsheet.lineage.openlineage import job_events
        from loadsheet.postgres import connect_warehouse
        from loadsheet.warehouse.published import last_published

        schemas = pipeline.warehouse
        targets = [Dataset("staging", schemas.schema, table) for table in self._own_tables()]
        if self.kind == "transform":
            targets = [Dataset("mart", schemas.mart_schema, self.name)]
        if run_id is None or self.kind == "extract":
            # An extract has checked the rows of its source, others those that they write.
            end = "inputs" if self.kind == "extract" else "outputs"
            for target in targets:
                (event,) = job_events(named_lineage(pipeline, target), pipeline, names, [target])
                event[end][0]["checks"] = self._checks_of(target.name)
                yield event
            return
        with connect_warehouse(names.warehouse) as session:
            only = {self.name} if self.kind == "transform" else set()
            kind: LedgerKind = "transform" if self.kind == "transform" else "table"
            lineage = pipeline_lineage(session, pipeline, only)
            for target in targets:
                (event,) = job_events(lineage, pipeline, names, [target])
                event["outputs"][0]["written"] = last_published(
                    session, pipeline.name, kind, target.name, str(target), run_id
                )
                event["outputs"][0]["checks"] = self._checks_of(target.name)
                yield event


def _connection(end: Any) -> Connection:
    return converted(end.conn_id, AirflowConnection.get(end.conn_id))


def _lake(pipeline: Pipeline, table: str) -> Any:
    """The objects of a table in the lake, as the storage operators of Airflow name theirs."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    from loadsheet.lake.manifest import load_prefix

    folder = load_prefix(pipeline, table).rstrip("/")
    return Dataset(namespace=f"s3://{pipeline.lake.bucket}", name=folder)


def _datasets(entries: list[dict[str, Any]]) -> Iterator[Any]:
    from airflow.providers.common.compat.openlineage import facet

    for entry in entries:
        facets: dict[str, Any] = {}
        if schema := entry["facets"].get("schema"):
            fields = [facet.SchemaDatasetFacetFields(**field) for field in schema["fields"]]
            facets["schema"] = facet.SchemaDatasetFacet(fields=fields)
        if lineage := entry["facets"].get("columnLineage"):
            facets["columnLineage"] = facet.ColumnLineageDatasetFacet(
                fields={
                    name: facet.Fields(
                        inputFields=[facet.InputField(**one) for one in field["inputFields"]]
                    )
                    for name, field in lineage["fields"].items()
                },
                dataset=[facet.InputField(**one) for one in lineage["dataset"]],
            )
        if checks := entry.get("checks"):
            facets["dataQualityAssertions"] = assertions(checks)
        name = {"namespace": entry["namespace"], "name": entry["name"]}
        if written := entry.get("written"):
            statistics = facet.OutputStatisticsOutputDatasetFacet(
                rowCount=written.inserted + written.updated, size=written.bytes
            )
            yield facet.OutputDataset(
                **name, facets=facets, outputFacets={"outputStatistics": statistics}
            )
        else:
            yield facet.Dataset(**name, facets=facets)


def _job_facets(job: dict[str, Any]) -> dict[str, Any]:
    from airflow.providers.common.compat.openlineage.facet import SQLJobFacet

    return {"sql": SQLJobFacet(query=job["facets"]["sql"]["query"])}
