"""Run one test: give the rows, build the marts by the same code as every run, compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from loadsheet.engine.transform import transform
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.substitute import at
from loadsheet.sqltest.compare import Difference, compare
from loadsheet.sqltest.given import give
from loadsheet.sqltest.models import Case, Declared, Step, described, needed, read_by, unsaid
from loadsheet.warehouse import ledger


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a test ended: differences of its first step that has some, or the error that kept it from
    being run."""

    case: Case
    differences: list[Difference] = field(default_factory=list)
    step: int = 0
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether every mart was as expected."""
        return not self.differences and not self.error


def run_case(
    session: Session, pipeline: Pipeline, case: Case, declared: Mapping[str, Declared]
) -> Verdict:
    """Run the steps of `case` in the empty database of `session`. What is wrong is in the verdict;
    psycopg errors of a lost server are raised."""
    if message := unsaid(pipeline, case, declared):
        return Verdict(case=case, error=message)
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

    def __init__(
        self, session: Session, pipeline: Pipeline, case: Case, declared: Mapping[str, Declared]
    ):
        self.session, self.pipeline, self.case, self.declared = session, pipeline, case, declared
        self.transforms = [self._timed(spec) for spec in needed(pipeline, case)]

    def step(self, step: Step, number: int) -> list[Difference]:
        """What arrives, what is built from it, and how that differs from what is expected."""
        for name in self._arriving(step, number):
            declared = self.declared.get(name, Declared())
            give(
                self.session,
                self.pipeline,
                name,
                step.given.get(name, ()),
                declared,
                step.full_refresh,
            )
        start, end = step.interval or (None, None)
        request = RunRequest(
            run_id=f"test__{number}",
            full_refresh="all" if step.full_refresh else frozenset(),
            interval_start=start,
            interval_end=end,
        )
        for spec in self.transforms:
            transform(self.pipeline, spec, request, self.session)
        keys = {
            f"{self.pipeline.warehouse.mart_schema}.{t.name}": t.unique_key
            for t in self.pipeline.transforms
        }
        found = (
            compare(self.session, name, rows, keys.get(name, ()))
            for name, rows in step.expect.items()
        )
        return [difference for differences in found for difference in differences]

    def _arriving(self, step: Step, number: int) -> list[str]:
        """The tables of the step; with the first one also those that are only described, and empty."""
        if number > 1:
            return list(step.given)
        read = {name for spec in self.transforms for name in read_by(self.pipeline, spec)}
        empty = described(self.declared) & (read | self.case.given) - step.given.keys()
        return [*step.given, *sorted(empty)]

    def _timed(self, spec: Transform) -> Transform:
        return replace(spec, sql=at(spec.sql, self.case.as_of)) if self.case.as_of else spec
