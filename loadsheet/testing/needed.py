"""Which transforms a test builds, and whether it says what they read. Nothing is run to know that."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from loadsheet.plan.inputs import transform_inputs
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.testing.models import Case, Declared


def needed(pipeline: Pipeline, case: Case) -> list[Transform]:
    """The transforms whose marts are expected, and those they read, in order; not what is given instead."""
    mart, inputs = pipeline.warehouse.mart_schema, transform_inputs(pipeline)
    wanted = {name for step in case.steps for name in step.expect}
    scripts = {t.name for t in pipeline.transforms if t.materialized == "script"}
    built = {f"{mart}.{name}" for name in inputs} - {f"{mart}.{name}" for name in scripts}
    # Which script makes a table nobody can tell, so all of them run.
    names = scripts if wanted - built else set()
    for name in reversed(inputs):
        if f"{mart}.{name}" in wanted or any(name in inputs[reader].transforms for reader in names):
            names |= {name} if f"{mart}.{name}" not in case.given else set()
    return [pipeline.transform(name) for name in inputs if name in names]


def read_by(pipeline: Pipeline, spec: Transform) -> list[str]:
    """The staging tables that the transform reads, as `schema.table`."""
    return [f"{pipeline.warehouse.schema}.{name}" for name in transform_inputs(pipeline)[spec.name].tables]


def described(declared: Mapping[str, Declared]) -> set[str]:
    """The tables whose columns are known without a row, and which may be empty therefore."""
    return {name for name, said in declared.items() if said.columns}


def unsaid(pipeline: Pipeline, case: Case, declared: Mapping[str, Declared]) -> str:
    """Why the test cannot be run: a table is read of which it says nothing. Empty where it can."""
    known: Collection[str] = case.given | described(declared)
    for spec in needed(pipeline, case):
        if missing := next((name for name in read_by(pipeline, spec) if name not in known), None):
            return (
                f"{spec.name} reads {missing}, of which the test says nothing: give its rows, or its columns under "
                "`tables` when it is to be empty"
            )
    return ""
