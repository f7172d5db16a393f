"""The lineage of a pipeline as values: columns, and the edges between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from loadsheet.lineage.expressions import Expression
from loadsheet.lineage.trace import DIRECT, How

Kind = Literal["source", "staging", "external", "mart"]
EdgeHow = How | Literal["load", "reads", "unknown"]
"""As How; `load` from a source column to its staging column; `reads` from the rows of a table to
those of a mart; `unknown` where a mart reads a table and its columns are not traced, and from a
source table to a staging table that is not loaded yet."""
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
ROWS = ""
"""In place of a column: which rows a table has. No column has this name; `*` may be one."""


@dataclass(frozen=True, order=True)
class Dataset:
    """A table of the source, a staging table, a mart, or a table of another in the warehouse."""

    kind: Kind
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, order=True)
class Column:
    """A column, or ROWS."""

    dataset: Dataset
    name: str

    @property
    def is_rows(self) -> bool:
        """Whether it stands for the rows of its table."""
        return self.name == ROWS

    def __str__(self) -> str:
        return f"{self.dataset}.{self.name}"


def carries_values(how: EdgeHow) -> bool:
    """Whether values arrive in this way, and not only a decision about them."""
    return how == "load" or how in DIRECT


@dataclass(frozen=True, order=True)
class Edge:
    """One column reaches another. Direct: its values arrive; else it decides about values or
    rows."""

    source: Column
    target: Column
    hows: tuple[EdgeHow, ...]

    @property
    def is_direct(self) -> bool:
        """Whether values arrive."""
        return any(map(carries_values, self.hows))

    @property
    def is_between_rows(self) -> bool:
        """Whether it only says that a mart reads a table."""
        return self.hows in (("reads",), ("unknown",))


@dataclass(kw_only=True)
class Lineage:
    """The columns of a pipeline's tables and marts, and how they reach each other."""

    pipeline: str
    datasets: dict[Dataset, dict[str, str]] = field(default_factory=dict)
    """The columns of each that is known, and their types, in order."""
    edges: list[Edge] = field(default_factory=list)
    expressions: dict[Column, list[Expression]] = field(default_factory=dict)
    """Of a mart's column, the outermost first."""
    files: dict[Dataset, str] = field(default_factory=dict)
    """The SQL file of each mart."""
    unknown: dict[Column, list[str]] = field(default_factory=dict)
    """What of a column, or of a mart's rows, is not known: ends of sentences."""
    not_traced: dict[Dataset, str] = field(default_factory=dict)
    """The tables and marts of which no column is traced, and why."""
    notes: dict[Column, str] = field(default_factory=dict)
    """What is to be said about a staging column."""

    @cached_property
    def into(self) -> Mapping[Column, Sequence[Edge]]:
        """The edges to each column."""
        found: dict[Column, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.target, []).append(edge)
        return found

    @cached_property
    def out_of(self) -> Mapping[Column, Sequence[Edge]]:
        """The edges from each column."""
        found: dict[Column, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.source, []).append(edge)
        return found

    def columns_of(self, dataset: Dataset) -> list[Column]:
        """The columns of a table or mart, then its rows."""
        names = [*self.datasets.get(dataset, ()), ROWS]
        return [Column(dataset, name) for name in names]

    def reached(self, start: Iterable[Column], down: bool) -> Lineage:
        """What these columns come from, or reach where it goes `down`, and nothing else. What reads
        a table of theirs and is not traced may use them, so it is reached, too."""
        left = list(start)
        columns: dict[Column, None] = {}
        edges: dict[Edge, None] = {}
        while left:
            column = left.pop()
            if column in columns:
                continue
            columns[column] = None
            following = list((self.out_of if down else self.into).get(column, ()))
            if down:
                of_table = self.out_of.get(Column(column.dataset, ROWS), ())
                following += [edge for edge in of_table if edge.hows == ("unknown",)]
            for edge in following:
                edges[edge] = None
                left.append(edge.target if down else edge.source)
        for edge in edges:
            columns[edge.source] = columns[edge.target] = None
        # By table: asking for each column of a large pipeline would take most of the time.
        names: dict[Dataset, set[str]] = {}
        for column in columns:
            names.setdefault(column.dataset, set()).add(column.name)
        datasets: dict[Dataset, dict[str, str]] = {}
        for dataset, types in self.datasets.items():
            if wanted := names.get(dataset):
                datasets[dataset] = {name: types[name] for name in types if name in wanted}
        return Lineage(
            pipeline=self.pipeline,
            datasets=datasets,
            edges=sorted(edges),
            expressions=_of(self.expressions, columns),
            files=_of(self.files, datasets),
            unknown=_of(self.unknown, columns),
            not_traced=_of(self.not_traced, datasets),
            notes=_of(self.notes, columns),
        )


def _of(known: Mapping[_Key, _Value], wanted: Iterable[_Key]) -> dict[_Key, _Value]:
    return {key: known[key] for key in wanted if key in known}
