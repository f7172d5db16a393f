"""The lineage of a pipeline: source columns -> staging columns -> marts' columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from loadsheet.errors import Refused
from loadsheet.lineage.analysis import SETTINGS, Analysis, analyze
from loadsheet.lineage.expressions import Expressions
from loadsheet.lineage.models import ROWS, Column, Dataset, Edge, EdgeHow, Lineage
from loadsheet.lineage.staged import StagedTable, columns_in, staged_tables
from loadsheet.lineage.trace import Trace
from loadsheet.pinned import PinnedSession
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Inputs, Pipeline, Transform
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation
from loadsheet.warehouse.externals import relations_of_others

_SCRIPT = "it is a script: only the tables that it reads are known"
_NOT_LOADED = "not loaded yet: run the pipeline first"


def pipeline_lineage(
    session: PinnedSession, pipeline: Pipeline, only: Collection[str] | None = None
) -> Lineage:
    """The lineage of the pipeline's tables and transforms, of the latter `only` those named.

    `session` is one of the warehouse: it explains the SQL, and nothing stays there. What cannot be
    traced is in the result with the reason. Raises SpecError for SQL with problems, psycopg errors.
    """
    session.pin(SETTINGS)
    builder = _Builder(session, pipeline)
    for staged in builder.staged.values():
        builder.add_table(staged)
    for name in transform_inputs(pipeline):  # in the order in which they run
        if only is None or name in only:
            builder.add_transform(pipeline.transform(name))
    return builder.lineage


def named_lineage(pipeline: Pipeline, target: Dataset) -> Lineage:
    """Which tables a staging table or mart is made of, by the pipeline file alone."""
    lineage = Lineage(pipeline=pipeline.name, datasets={target: {}})
    if target.kind == "mart":
        read = _inputs(pipeline, transform_inputs(pipeline)[target.name])
        _add_names(lineage, target, read, "reads")
    else:
        source = Dataset("source", pipeline.source.schema, target.name)
        _add_names(lineage, target, [source], "load")
    return lineage


def file_lineage(pipeline: Pipeline) -> Lineage:
    """Which tables all staging tables and marts are made of, by the pipeline file and its SQL
    alone. What patterns match is not known. Raises SpecError for SQL with problems."""
    lineage = Lineage(pipeline=pipeline.name)
    schemas = pipeline.warehouse
    for table in pipeline.tables:
        source = Dataset("source", pipeline.source.schema, table.name)
        _add_names(lineage, Dataset("staging", schemas.schema, table.name), [source], "load")
    for name, inputs in transform_inputs(pipeline).items():  # in the order in which they run
        mart = Dataset("mart", schemas.mart_schema, name)
        read = _inputs(pipeline, inputs)
        for external in inputs.external:
            schema, _, table_name = external.partition(".")
            read.append(Dataset("external", schema, table_name))
        _add_names(lineage, mart, read, "reads")
        lineage.files[mart] = str(pipeline.transform(name).file)
    return lineage


def _inputs(pipeline: Pipeline, inputs: Inputs) -> list[Dataset]:
    schemas = pipeline.warehouse
    read = [Dataset("staging", schemas.schema, name) for name in inputs.tables]
    return read + [Dataset("mart", schemas.mart_schema, name) for name in inputs.transforms]


def _add_names(lineage: Lineage, target: Dataset, read: Iterable[Dataset], how: EdgeHow) -> None:
    """The rows of `read` reach those of `target`."""
    for dataset in (*read, target):
        lineage.datasets.setdefault(dataset, {})
    for dataset in sorted(set(read)):
        lineage.edges.append(Edge(Column(dataset, ROWS), Column(target, ROWS), (how,)))


class _Builder:
    def __init__(self, session: PinnedSession, pipeline: Pipeline):
        self.session = session
        self.pipeline = pipeline
        self.lineage = Lineage(pipeline=pipeline.name)
        self.staged = staged_tables(session, pipeline)
        names = [transform.name for transform in pipeline.transforms]
        self._built = columns_in(session, pipeline.warehouse.mart_schema, names)

    def add_table(self, staged: StagedTable) -> None:
        """A staging table and its source table."""
        lineage = self.lineage
        source = Dataset("source", self.pipeline.source.schema, staged.table)
        here = Dataset("staging", self.pipeline.warehouse.schema, staged.name)
        lineage.datasets.setdefault(source, {}).update(staged.source_types)
        lineage.datasets[here] = staged.columns
        if not staged.columns:
            lineage.not_traced[here] = _NOT_LOADED
        for name in staged.source_types:
            lineage.edges.append(Edge(Column(source, name), Column(here, name), ("load",)))
        # Before the first load, each column of the source may become one of the table.
        how: EdgeHow = "load" if staged.columns else "unknown"
        lineage.edges.append(Edge(Column(source, ROWS), Column(here, ROWS), (how,)))
        for name, note in staged.notes.items():
            lineage.notes[Column(here, name)] = note

    def add_transform(self, transform: Transform) -> None:
        """A mart, and what its columns and rows come from."""
        lineage = self.lineage
        mart = Dataset("mart", self.pipeline.warehouse.mart_schema, transform.name)
        lineage.files[mart] = str(transform.file)
        lineage.datasets[mart] = self._built.get(transform.name, {})
        try:
            if transform.materialized == "script":
                raise Refused(_SCRIPT)
            found = analyze(self.session, self.pipeline, transform)
        except Refused as error:
            lineage.not_traced[mart] = str(error)
            self._add_inputs(mart, transform)
            return
        lineage.datasets[mart] = {name: type_name for name, (type_name, _) in found.columns.items()}
        expressions = Expressions(transform.sql)
        for name, (_, trace) in found.columns.items():
            column = Column(mart, name)
            self._add_trace(column, trace, found)
            lineage.expressions[column] = expressions.of(trace.passed)
        self._add_trace(Column(mart, ROWS), found.rows, found)

    def _add_trace(self, target: Column, trace: Trace, found: Analysis) -> None:
        hows: dict[Column, set[EdgeHow]] = {}
        for oid in trace.relations if target.is_rows else ():
            dataset = self._dataset(found.tables[oid].relation)
            self.lineage.datasets.setdefault(dataset, {})
            hows[Column(dataset, ROWS)] = {"reads"}
        for origin in trace.origins:
            table = found.tables[origin.relation]
            dataset = self._dataset(table.relation)
            # Of the whole row, the number of the load is no part of what a mart means.
            names = [name for name, _ in table.columns.values() if name != LOAD_ID]
            if origin.column is None:
                names = [ROWS]
            elif origin.column:
                names = [table.columns[origin.column][0]]
            for name in names:
                # What is new since the last run decides when rows are built, not which there are.
                if name != LOAD_ID or not target.is_rows:
                    hows.setdefault(Column(dataset, name), set()).add(origin.how)
            if dataset.kind == "external":
                columns = self.lineage.datasets.setdefault(dataset, {})
                columns.update(dict(table.columns.values()))
        for source in sorted(hows):
            self.lineage.edges.append(Edge(source, target, tuple(sorted(hows[source]))))
        if unknown := found.unknown(trace):
            self.lineage.unknown[target] = unknown

    def _add_inputs(self, mart: Dataset, transform: Transform) -> None:
        """The tables that a mart reads which is not traced."""
        read = _inputs(self.pipeline, transform_inputs(self.pipeline)[transform.name])
        others = relations_of_others(self.session, self.pipeline, transform)
        read += [Dataset("external", one.schema, one.name) for one in others]
        _add_names(self.lineage, mart, read, "unknown")

    def _dataset(self, relation: Relation) -> Dataset:
        schemas = self.pipeline.warehouse
        if relation.schema == schemas.schema and relation.name in self.staged:
            return Dataset("staging", relation.schema, relation.name)
        if relation.schema == schemas.mart_schema and self.pipeline.has_transform(relation.name):
            return Dataset("mart", relation.schema, relation.name)
        return Dataset("external", relation.schema, relation.name)
