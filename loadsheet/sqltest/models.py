"""A test as frozen values, and which transforms it needs built."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    """What a test file says of a table: types by column, and the columns of its key."""

    columns: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run: rows that arrive, then what the marts must be. Tables are named `schema.table`."""

    where: str
    given: Mapping[str, tuple[Row, ...]]
    expect: Mapping[str, tuple[Row, ...]]
    full_refresh: bool = False
    interval: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test. `as_of` is the moment that its SQL takes for now."""

    name: str
    where: str
    steps: tuple[Step, ...]
    as_of: str | None = None

    @property
    def given(self) -> set[str]:
        """The tables of which any step gives rows."""
        return {name for step in self.steps for name in step.given}


def needed(pipeline: Pipeline, case: Case) -> list[Transform]:
    """The transforms whose marts are expected, and those they read, in order; not what is given
    instead."""
    mart, inputs = pipeline.warehouse.mart_schema, transform_inputs(pipeline)
    wanted = {name for step in case.steps for name in step.expect}
    scripts = {t.name for t in pipeline.transforms if t.materialized == "script"}
    built = {f"{mart}.{name}" for name in inputs} - {f"{mart}.{name}" for name in scripts}
    # There is no way to tell which script creates a table, so all of them run.
    names = scripts if wanted - built else set()
    for name in reversed(inputs):
        if f"{mart}.{name}" in wanted or any(name in inputs[reader].transforms for reader in names):
            names |= {name} if f"{mart}.{name}" not in case.given else set()
    return [pipeline.transform(name) for name in inputs if name in names]


def read_by(pipeline: Pipeline, spec: Transform) -> list[str]:
    """The staging tables that the transform reads, as `schema.table`."""
    return [
        f"{pipeline.warehouse.schema}.{name}"
        for name in transform_inputs(pipeline)[spec.name].tables
    ]


def described(declared: Mapping[str, Declared]) -> set[str]:
    """The tables whose columns are known without a row, and which may be empty therefore."""
    return {name for name, said in declared.items() if said.columns}


def unsaid(pipeline: Pipeline, case: Case, declared: Mapping[str, Declared]) -> str:
    """Why the test cannot be run: a table is read of which it says nothing. Empty where it can."""
    known: Collection[str] = case.given | described(declared)
    for spec in needed(pipeline, case):
        for name in read_by(pipeline, spec):
            if name not in known:
                return (
                    f"{spec.name} reads {name}, of which the test says nothing: give its rows, or "
                    "its columns under `tables` when it is to be empty"
                )
    return ""
