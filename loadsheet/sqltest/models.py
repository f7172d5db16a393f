"""A test as frozen values, and the transforms that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Transform


@dataclass(frozen=True)
class Row:
    """Values by column as written, and `file:line:column` of the row."""

    values: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Declared:
    """A table under `tables` of a test file: types by column, and the columns of its key."""

    columns: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run: the rows that are given, then the rows that the marts must have. Tables are named
    `schema.table`."""

    where: str
    given: Mapping[str, tuple[Row, ...]]
    expect: Mapping[str, tuple[Row, ...]]
    full_refresh: bool = False
    interval: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test. `as_of` is the current time for its SQL."""

    name: str
    where: str
    steps: tuple[Step, ...]
    as_of: str | None = None

    @property
    def given(self) -> set[str]:
        """The tables of which any step gives rows."""
        return {name for step in self.steps for name in step.given}


def needed_transforms(pipeline: Pipeline, case: Case) -> list[Transform]:
    """The transforms that build the expected marts, and those that these read, in order; not those
    whose marts are given."""
    schema = pipeline.warehouse.mart_schema
    inputs = transform_inputs(pipeline)
    expected = {name for step in case.steps for name in step.expect}
    scripts = set()
    for transform in pipeline.transforms:
        if transform.materialized == "script":
            scripts.add(transform.name)
    needed: set[str] = set()
    # Which script creates a table is unknown, so all of them run.
    if expected - {f"{schema}.{name}" for name in inputs.keys() - scripts}:
        needed = set(scripts)
    # From the last transform to the first: a transform comes after those that it reads.
    for name in reversed(inputs):
        is_expected = f"{schema}.{name}" in expected
        is_read = any(name in inputs[reader].transforms for reader in needed)
        is_given = f"{schema}.{name}" in case.given
        if (is_expected or is_read) and not is_given:
            needed.add(name)
    return [pipeline.transform(name) for name in inputs if name in needed]


def staging_tables_of(pipeline: Pipeline, transform: Transform) -> list[str]:
    """The staging tables that the transform reads, as `schema.table`."""
    schema = pipeline.warehouse.schema
    return [f"{schema}.{name}" for name in transform_inputs(pipeline)[transform.name].tables]


def with_columns(declared: Mapping[str, Declared]) -> set[str]:
    """The tables whose columns are declared, and which may therefore be empty."""
    return {name for name, table in declared.items() if table.columns}


def missing_table(pipeline: Pipeline, case: Case, declared: Mapping[str, Declared]) -> str:
    """The problem of a test in which a transform reads a table that is neither given nor declared;
    empty if there is none."""
    available = case.given | with_columns(declared)
    for transform in needed_transforms(pipeline, case):
        for name in staging_tables_of(pipeline, transform):
            if name not in available:
                return (
                    f"{transform.name} reads {name}, which this test does not have: give its rows,"
                    " or declare its columns under `tables` if it is to be empty"
                )
    return ""
