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
from loadsheet.spec.words import close, found
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
            if not any(step.expect for step in steps):
                self._fields.wrong(path, "this test expects nothing", "add `expect:` with a mart and its rows")
            as_of = self._fields.moment(test.get("as_of"), (*path, "as_of"))
            yield Case(name=name, where=self._fields.where(path), steps=steps, as_of=as_of)

    def declared(self, before: Mapping[str, Declared]) -> dict[str, Declared]:
        """What the file says of tables; `before` is what other files have said."""
        tables = {}
        for name, said in self._fields.mapping(self._data.get("tables"), ("tables",)).items():
            path = ("tables", name)
            self._check_table(name, path)
            said = self._fields.mapping(said, path, ("columns", "key"))
            if name in before:
                message = f"{name} is described in another file of this folder, too"
                self._fields.wrong(path, message, "keep one of the two")
            columns = self._fields.mapping(said.get("columns"), (*path, "columns"))
            types = {c: self._fields.type_name(kind, (*path, "columns", c)) for c, kind in columns.items()}
            tables[name] = Declared(types, self._fields.column_names(said.get("key", []), (*path, "key")))
        return tables

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

    def _step(self, step: dict[str, Any], path: Path) -> Step:
        return Step(
            where=self._fields.where(path), given=self._tables(step.get("given"), (*path, "given")),
            expect=self._tables(step.get("expect"), (*path, "expect"), marts=True),
            full_refresh=self._fields.flag(step.get("full_refresh", False), (*path, "full_refresh")),
            interval=self._fields.interval(step.get("interval"), (*path, "interval")),
        )  # fmt: skip

    def _tables(self, tables: Any, path: Path, marts: bool = False) -> dict[str, tuple[Row, ...]]:
        rows = {}
        for name, value in self._fields.mapping(tables, path).items():
            self._check_table(name, (*path, name), marts)
            rows[name] = tuple(self._rows(value, (*path, name)))
        return rows

    def _check_table(self, name: str, path: Path, marts: bool = False) -> None:
        """`name` is one of the pipeline's tables or marts, or (where rows are given) of another schema."""
        schemas = self._pipeline.warehouse
        staging = [f"{schemas.schema}.{table.name}" for table in self._pipeline.tables]
        built = [f"{schemas.mart_schema}.{t.name}" for t in self._pipeline.transforms if t.materialized != "script"]
        known = built if marts else [*staging, *built]
        schema, dot, table = name.partition(".")
        if name in known or self._may_be_there(schema, table, marts):
            return
        if dot and not marts and schema not in (schemas.schema, schemas.mart_schema):
            return
        meant = close(name, known) or next((k for k in known if k.partition(".")[2] == name), None)
        what = "a mart" if marts else "a table or a mart"
        hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(known) or 'none'}"
        self._fields.wrong(path, f"{name} is not {what} of {self._pipeline.name}", hint, key=True)

    def _may_be_there(self, schema: str, table: str, marts: bool) -> bool:
        """A table that a pattern matches, or what only a script knows that it makes."""
        if marts:
            has_scripts = any(transform.materialized == "script" for transform in self._pipeline.transforms)
            return schema == self._pipeline.warehouse.mart_schema and has_scripts
        return schema == self._pipeline.warehouse.schema and self._pipeline.pattern_of(table) is not None

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
