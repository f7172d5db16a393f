"""Run one test: give the rows, build the marts by the same code as every run, compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from loadsheet.errors import InputError, LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.plan.inputs import transform_inputs
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.clock import at
from loadsheet.steps.transform import transform
from loadsheet.testing.compare import Difference, compare
from loadsheet.testing.given import give
from loadsheet.testing.models import Case, Declared, Step
from loadsheet.warehouse import ledger


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a test ended: differences of its first step that has some, or the error that kept it from being run."""

    case: Case
    differences: list[Difference] = field(default_factory=list)
    step: int = 0
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether every mart was as expected."""
        return not self.differences and not self.error


def run_case(session: Session, pipeline: Pipeline, case: Case, declared: Mapping[str, Declared]) -> Verdict:
    """Run the steps of `case` in the empty database of `session`. What is wrong is in the verdict; psycopg errors of
    a lost server are raised."""
    ledger.ensure(session)
    run = _Run(session, pipeline, case, declared)
    for number, step in enumerate(case.steps, 1):
        try:
            differences = run.step(step, number)
        except LoadsheetError as error:
            return Verdict(case=case, step=number, error=str(error))
        if differences:
            return Verdict(case=case, step=number, differences=differences)
    return Verdict(case=case)


class _Run:
    """The steps of one test, one after the other in the same database."""

    def __init__(self, session: Session, pipeline: Pipeline, case: Case, declared: Mapping[str, Declared]):
        self.session, self.pipeline, self.case, self.declared = session, pipeline, case, declared
        self.described = {name for name, said in declared.items() if said.columns}
        self.given = {name for step in case.steps for name in step.given}
        self.transforms = self._needed()

    def step(self, step: Step, number: int) -> list[Difference]:
        """What arrives, what is built from it, and how that differs from what is expected."""
        for name in self._arriving(step, number):
            declared = self.declared.get(name, Declared())
            give(self.session, self.pipeline, name, step.given.get(name, ()), declared, step.full_refresh)
        start, end = step.interval or (None, None)
        request = RunRequest(
            run_id=f"test__{number}", full_refresh="all" if step.full_refresh else frozenset(),
            interval_start=start, interval_end=end,
        )  # fmt: skip
        for spec in self.transforms:
            transform(self.pipeline, spec, request, self.session)
        keys = {f"{self.pipeline.warehouse.mart_schema}.{t.name}": t.unique_key for t in self.pipeline.transforms}
        found = (compare(self.session, name, rows, keys.get(name, ())) for name, rows in step.expect.items())
        return [difference for differences in found for difference in differences]

    def _arriving(self, step: Step, number: int) -> list[str]:
        """The tables of the step; with the first one also those that are only described, and empty."""
        needed = {name for spec in self.transforms for name in self._read_by(spec)}
        empty = sorted(needed & self.described - self.given) if number == 1 else []
        later = sorted(self.given - step.given.keys()) if number == 1 else []
        return [*step.given, *empty, *(name for name in later if name in self.described)]

    def _needed(self) -> list[Transform]:
        """The transforms whose marts are expected, and those they read, in order; not what is given instead."""
        mart, inputs = self.pipeline.warehouse.mart_schema, transform_inputs(self.pipeline)
        wanted = {name for step in self.case.steps for name in step.expect}
        scripts = {t.name for t in self.pipeline.transforms if t.materialized == "script"}
        built = {f"{mart}.{name}" for name in inputs} - {f"{mart}.{name}" for name in scripts}
        # Which script makes a table nobody can tell, so all of them run.
        names = scripts if wanted - built else set()
        for name in reversed(inputs):
            if f"{mart}.{name}" in wanted or any(name in inputs[reader].transforms for reader in names):
                names |= {name} if f"{mart}.{name}" not in self.given else set()
        specs = [self.pipeline.transform(name) for name in inputs if name in names]
        return [self._timed(self._refuse_missing(spec)) for spec in specs]

    def _timed(self, spec: Transform) -> Transform:
        return replace(spec, sql=at(spec.sql, self.case.as_of)) if self.case.as_of else spec

    def _refuse_missing(self, spec: Transform) -> Transform:
        missing = [name for name in self._read_by(spec) if name not in self.given | self.described]
        if missing:
            raise InputError(
                f"{spec.name} reads {missing[0]}, of which the test says nothing: give its rows, or "
                "its columns under `tables` when it is to be empty"
            )
        return spec

    def _read_by(self, spec: Transform) -> list[str]:
        tables = transform_inputs(self.pipeline)[spec.name].tables
        return [f"{self.pipeline.warehouse.schema}.{name}" for name in tables]
