"""Runs one test: inserts the given rows, builds the marts with the code of every run, compares."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import psycopg

from loadsheet.engine.transform import transform
from loadsheet.errors import LoadsheetError, Refused
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.redact import message
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.substitute import at
from loadsheet.sqltest.compare import Difference, compare
from loadsheet.sqltest.given import give
from loadsheet.sqltest.models import (
    Case,
    Declared,
    Step,
    missing_table,
    needed_transforms,
    staging_tables_of,
    with_columns,
)
from loadsheet.warehouse import ledger

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of a test: the differences of the first step that has some, or the error that
    stopped it. `step` is the number of that step, from 1."""

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
    """Run the steps of `case` in the empty database of `session`. Errors of the test are in the
    verdict. Raises psycopg errors if the server is lost."""
    error_text = missing_table(pipeline, case, declared)
    if error_text:
        return Verdict(case=case, error=error_text)
    # The transforms ask the ledger which of their inputs are new.
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
        self.session = session
        self.pipeline = pipeline
        self.case = case
        self.declared = declared
        self.transforms: list[Transform] = []
        for spec in needed_transforms(pipeline, case):
            if case.as_of:
                spec = replace(spec, sql=at(spec.sql, case.as_of))
            self.transforms.append(spec)

    def step(self, step: Step, number: int) -> list[Difference]:
        """Insert the given rows, build the marts and compare them."""
        for name in self._tables_to_fill(step, number):
            declared = self.declared.get(name, Declared())
            rows = step.given.get(name, ())
            give(self.session, self.pipeline, name, rows, declared, step.full_refresh)
        start, end = step.interval or (None, None)
        request = RunRequest(
            run_id=f"test__{number}",
            full_refresh="all" if step.full_refresh else frozenset(),
            interval_start=start,
            interval_end=end,
        )
        for spec in self.transforms:
            _log.debug("test %s, step %d: transform %s", self.case.name, number, spec.name)
            self._build(spec, request)
        schema = self.pipeline.warehouse.mart_schema
        # By these a difference pairs an expected row with the one that was built.
        keys = {f"{schema}.{spec.name}": spec.unique_key for spec in self.pipeline.transforms}
        differences: list[Difference] = []
        for name, expected in step.expect.items():
            differences += compare(self.session, name, expected, keys.get(name, ()))
        return differences

    def _build(self, spec: Transform, request: RunRequest) -> None:
        """Run the transform. An error of its SQL ends this test and not the others: raises Refused,
        and psycopg's errors only where the server is lost."""
        try:
            transform(self.pipeline, spec, request, self.session)
        except psycopg.Error as error:
            if self.session.closed:
                raise
            raise Refused(f"{spec.file}: {message(error)}") from error

    def _tables_to_fill(self, step: Step, number: int) -> list[str]:
        """The tables that the step gives. In the first step also those that are declared and stay
        empty, because a transform reads them or a later step gives them."""
        if number > 1:
            return list(step.given)
        used = set(self.case.given)
        for spec in self.transforms:
            used.update(staging_tables_of(self.pipeline, spec))
        empty = with_columns(self.declared) & used - step.given.keys()
        return [*step.given, *sorted(empty)]
