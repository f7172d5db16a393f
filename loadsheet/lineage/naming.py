"""What a user names: a mart, a table or a column, by `schema.table.column` or less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from loadsheet.errors import InputError
from loadsheet.lineage.models import ROWS, Column, Dataset, Lineage
from loadsheet.names import closest, did_you_mean
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline


class Asked(NamedTuple):
    """A table or mart of a pipeline, and the column of it that is asked for; empty for all."""

    dataset: Dataset
    column: str

    def __str__(self) -> str:
        return f"{self.dataset}.{self.column}" if self.column else str(self.dataset)


def find_asked(pipeline: Pipeline, name: str) -> Asked | None:
    """What `name` means in the pipeline; None where it has nothing of that name.

    A mart comes before a staging table of the same name, and a source table only with its schema.
    """
    found = None
    longest = ""
    for label, dataset in _labels(pipeline, name):
        if name == label:
            return Asked(dataset, "")
        if name.startswith(label + ".") and len(label) > len(longest):
            longest = label
            found = Asked(dataset, name.removeprefix(label + "."))
    return found


def known_names(pipeline: Pipeline) -> list[str]:
    """The full names of its marts and tables, for messages."""
    names = []
    for label, dataset in _labels(pipeline, ""):
        if label == str(dataset):
            names.append(label)
    return names


def _labels(pipeline: Pipeline, name: str) -> Iterator[tuple[str, Dataset]]:
    """What may be written for each mart and table, the likeliest first; also for the table of a
    pattern that `name` can mean."""
    schemas = pipeline.warehouse
    tables = [table.name for table in pipeline.tables]
    for schema in (f"{schemas.schema}.", f"{pipeline.source.schema}.", ""):
        table, _, _ = name.removeprefix(schema).partition(".")
        if name.startswith(schema) and pipeline.pattern_of(table):
            tables.append(table)
    marts = [Dataset("mart", schemas.mart_schema, one.name) for one in pipeline.transforms]
    staged = [Dataset("staging", schemas.schema, table) for table in tables]
    for dataset in (*marts, *staged):
        yield str(dataset), dataset
    for table in tables:
        source = Dataset("source", pipeline.source.schema, table)
        yield str(source), source
    for dataset in (*marts, *staged):
        yield dataset.name, dataset


def transforms_for(pipeline: Pipeline, dataset: Dataset, down: bool) -> set[str]:
    """The transforms whose SQL has to be traced for a table or mart."""
    inputs = transform_inputs(pipeline)
    if down:
        found = {dataset.name} if dataset.kind == "mart" else set()
        for name, read in inputs.items():  # in the order in which they run
            reads_it = dataset.kind != "mart" and dataset.name in read.tables
            if reads_it or not found.isdisjoint(read.transforms):
                found.add(name)
        return found
    left = [dataset.name] if dataset.kind == "mart" else []
    found = set()
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += inputs[name].transforms
    return found


def start_of(lineage: Lineage, pipeline: Pipeline, asked: Asked, down: bool) -> list[Column]:
    """The columns at which an answer begins. Raises InputError where the table has no such
    column."""
    dataset, name = asked
    if not name:
        return lineage.columns_of(dataset)
    known = lineage.datasets.get(dataset, {})
    if known and name not in known:
        raise InputError(_no_column(pipeline, asked, list(known)))
    if down:
        return [Column(dataset, name)]
    return [Column(dataset, name), Column(dataset, ROWS)]


def _no_column(pipeline: Pipeline, asked: Asked, known: list[str]) -> str:
    dataset, name = asked
    if dataset.kind != "mart":
        table = pipeline.table(dataset.name)
        if name in table.exclude or (table.include and name not in table.include):
            return f"{asked} is not loaded: `columns` of {table.name} leaves it out"
    if closest(name, known):
        return f"{dataset} has no column {name!r}{did_you_mean(name, known)}"
    return f"{dataset} has no column {name!r}; it has {', '.join(known)}"
