"""One test file: its tests, and what it says of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from loadsheet.errors import SpecError
from loadsheet.spec.document import Document
from loadsheet.spec.finding import Path
from loadsheet.spec.models import Pipeline
from loadsheet.spec.problem import Problem
from loadsheet.spec.words import found
from loadsheet.testing import tables
from loadsheet.testing.csv_rows import csv_rows
from loadsheet.testing.fields import Fields
from loadsheet.testing.models import Case, Declared, Row, Step

_STEP_KEYS = ("given", "expect", "full_refresh", "interval")
_TEST_KEYS = (*_STEP_KEYS, "steps", "as_of")
_ROWS = "write a list of rows, `[{id: 1}]`, an empty one, `[]`, or {csv: a_file.csv}"


class Reader:
    """Reads the file; `problems` tells what was wrong, once both are asked for."""

    def __init__(self, pipeline: Pipeline, document: Document, folder: FilePath):
        self._pipeline, self._document, self._folder = pipeline, document, folder
        self._fields = Fields(document)
        self._of_csv_files: list[Problem] = []
        self._data = self._fields.mapping(document.data, (), ("tests", "tables"))

    @property
    def problems(self) -> list[Problem]:
        """What was wrong so far, in the file and in the csv files it names."""
        return [*map(self._document.problem, self._fields.findings), *self._of_csv_files]

    def cases(self) -> Iterator[Case]:
        """The tests of the file."""
        for name, test in self._fields.mapping(self._data.get("tests"), ("tests",)).items():
            path: Path = ("tests", name)
            test = self._fields.mapping(test, path, _TEST_KEYS)
            if "steps" in test and test.keys() & set(_STEP_KEYS):
                self._fields.wrong((*path, "steps"), "a test has steps, or is one itself", "move the rest into a step")
            steps = tuple(self._steps(test, path))
            self._refuse_both(steps, path, is_one="steps" not in test)
            if not any(step.expect for step in steps):
                self._fields.wrong(path, "this test expects nothing", "add `expect:` with a mart and its rows")
            as_of = self._fields.moment(test.get("as_of"), (*path, "as_of"))
            yield Case(name=name, where=self._fields.where(path), steps=steps, as_of=as_of)

    def declared(self, before: Mapping[str, Declared]) -> dict[str, Declared]:
        """What the file says of tables; `before` is what other files have said."""
        declared = {}
        for name, said in self._fields.mapping(self._data.get("tables"), ("tables",)).items():
            path = ("tables", name)
            self._check_table(name, path)
            said = self._fields.mapping(said, path, ("columns", "key"))
            if name in before:
                message = f"{name} is described in another file of this folder, too"
                self._fields.wrong(path, message, "keep one of the two")
            columns = self._fields.mapping(said.get("columns"), (*path, "columns"))
            types = {c: self._fields.type_name(kind, (*path, "columns", c)) for c, kind in columns.items()}
            declared[name] = Declared(types, self._fields.column_names(said.get("key", []), (*path, "key")))
        return declared

    def _steps(self, test: dict[str, Any], path: Path) -> Iterator[Step]:
        if "steps" not in test:
            yield self._step({key: value for key, value in test.items() if key in _STEP_KEYS}, path)
            return
        steps = test["steps"]
        if not isinstance(steps, list) or not steps:
            self._fields.wrong((*path, "steps"), f"expected a list of steps, found {found(steps)}")
            return
        for number, step in enumerate(steps):
            at = (*path, "steps", number)
            yield self._step(self._fields.mapping(step, at, _STEP_KEYS), at)

    def _refuse_both(self, steps: tuple[Step, ...], path: Path, is_one: bool) -> None:
        """A mart that is expected and given would be compared with itself."""
        given = {name for step in steps for name in step.given}.intersection(tables.marts(self._pipeline))
        for number, step in enumerate(steps):
            at = path if is_one else (*path, "steps", number)
            for name in step.expect.keys() & given:
                message = f"{name} is given in this test, so it is not built and nothing can be expected of it"
                self._fields.wrong((*at, "expect", name), message, "leave out one of the two", key=True)

    def _step(self, step: dict[str, Any], path: Path) -> Step:
        return Step(
            where=self._fields.where(path), given=self._tables(step.get("given"), (*path, "given")),
            expect=self._tables(step.get("expect"), (*path, "expect"), expected=True),
            full_refresh=self._fields.flag(step.get("full_refresh", False), (*path, "full_refresh")),
            interval=self._fields.interval(step.get("interval"), (*path, "interval")),
        )  # fmt: skip

    def _tables(self, value: Any, path: Path, expected: bool = False) -> dict[str, tuple[Row, ...]]:
        rows = {}
        for name, given in self._fields.mapping(value, path).items():
            self._check_table(name, (*path, name), expected)
            rows[name] = tuple(self._rows(given, (*path, name)))
        return rows

    def _check_table(self, name: str, path: Path, expected: bool = False) -> None:
        may_be = tables.may_be_expected if expected else tables.may_be_given
        if not may_be(self._pipeline, name):
            what = "a mart of" if expected else "a table, a mart or an `external` table of"
            hint = tables.hint(self._pipeline, name, expected)
            self._fields.wrong(path, f"{name} is not {what} {self._pipeline.name}", hint, key=True)

    def _rows(self, value: Any, path: Path) -> Iterator[Row]:
        if isinstance(value, dict):
            file = self._fields.text(self._fields.mapping(value, path, ("csv",)).get("csv"), (*path, "csv"))
            yield from self._csv_rows(file, (*path, "csv")) if file else ()
        elif isinstance(value, list):
            for number, row in enumerate(value):
                at = (*path, number)
                yield Row(self._fields.mapping(row, at), self._fields.where(at))
        else:
            self._fields.wrong(path, f"expected rows, found {found(value)}", _ROWS)

    def _csv_rows(self, name: str, path: Path) -> list[Row]:
        file = self._folder / name
        if not file.resolve().is_relative_to(self._folder.resolve()):
            self._fields.wrong(path, f"{name} is outside of the folder of the tests", "copy the file into it")
            return []
        try:
            return csv_rows(file)
        except SpecError as error:
            self._of_csv_files += error.problems
        except ValueError as error:
            self._fields.wrong(path, f"{name}: {error}")
        return []
