"""The test files of a pipeline, `tests/*.yml` beside it: read, checked, all problems at once with their positions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path as FilePath
from typing import Any

from loadsheet.errors import SpecError
from loadsheet.spec.document import Document, read_document
from loadsheet.spec.finding import Finding, Path
from loadsheet.spec.models import Pipeline
from loadsheet.spec.text import read_text
from loadsheet.spec.words import close, found
from loadsheet.testing.models import Case, Declared, Row, Step

# Names, a modifier, brackets: nothing that could end a statement or begin another.
_TYPE = re.compile(r"[A-Za-z_][\w .]*(\(\d+( *, *\d+)?\))?[A-Za-z ]*(\[\d*\])*")
_STEP_KEYS = ("given", "expect", "full_refresh", "interval")
_TEST_KEYS = (*_STEP_KEYS, "steps", "as_of")


def test_files(pipeline: Pipeline) -> list[FilePath]:
    """The pipeline's test files, sorted."""
    folder = pipeline.file.parent / "tests"
    return sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")])


def read_tests(pipeline: Pipeline) -> tuple[list[Case], dict[str, Declared]]:
    """The tests of all files, and what the files say of tables, by `schema.table`.

    Raises SpecError with every problem of every file.
    """
    cases: list[Case] = []
    declared: dict[str, Declared] = {}
    problems = []
    for file in test_files(pipeline):
        try:
            document = read_document(file)
        except SpecError as error:
            problems += list(error.problems)
            continue
        reader = _Reader(pipeline, document, file.parent)
        cases += reader.cases()
        declared |= reader.declared(declared)
        problems += [document.problem(finding) for finding in reader.findings]
        problems += reader.csv_problems
    if problems:
        raise SpecError(problems)
    return cases, declared


class _Reader:
    """One file. What is wrong goes to `findings`, and reading goes on."""

    def __init__(self, pipeline: Pipeline, document: Document, folder: FilePath):
        self.pipeline, self.document, self.folder = pipeline, document, folder
        self.findings = list(document.findings)
        self.csv_problems: list[Any] = []
        self.data = self._mapping(document.data, (), ("tests", "tables"))

    def cases(self) -> Iterator[Case]:
        """The tests of the file."""
        for name, test in self._mapping(self.data.get("tests"), ("tests",)).items():
            path: Path = ("tests", name)
            test = self._mapping(test, path, _TEST_KEYS)
            if "steps" in test and test.keys() & set(_STEP_KEYS):
                self._wrong((*path, "steps"), "a test has steps, or is one itself", "move the rest into a step")
            steps = tuple(self._steps(test, path))
            if not any(step.expect for step in steps):
                self._wrong(path, "this test expects nothing", "add `expect:` with a mart and its rows")
            as_of = self._moment(test.get("as_of"), (*path, "as_of"))
            yield Case(name=name, where=self._where(path), steps=steps, as_of=as_of)

    def declared(self, before: Mapping[str, Declared]) -> dict[str, Declared]:
        """What the file says of tables."""
        tables = {}
        for name, said in self._mapping(self.data.get("tables"), ("tables",)).items():
            path = ("tables", name)
            self._check_table(name, path)
            said = self._mapping(said, path, ("columns", "key"))
            if name in before:
                self._wrong(path, f"{name} is described in another file of this folder, too", "keep one of the two")
            columns = self._mapping(said.get("columns"), (*path, "columns"))
            types = {column: self._type(kind, (*path, "columns", column)) for column, kind in columns.items()}
            key = said.get("key", [])
            key = [key] if isinstance(key, str) else key
            if not isinstance(key, list) or not all(isinstance(column, str) for column in key):
                self._wrong((*path, "key"), f"expected a column, or a list of columns, found {found(key)}")
                key = []
            tables[name] = Declared(types, tuple(key))
        return tables

    def _steps(self, test: dict[str, Any], path: Path) -> Iterator[Step]:
        if "steps" not in test:
            yield self._step({key: value for key, value in test.items() if key in _STEP_KEYS}, path)
            return
        steps = test["steps"]
        if not isinstance(steps, list) or not steps:
            self._wrong((*path, "steps"), f"expected a list of steps, found {found(steps)}")
            return
        for number, step in enumerate(steps):
            at = (*path, "steps", number)
            yield self._step(self._mapping(step, at, _STEP_KEYS), at)

    def _step(self, step: dict[str, Any], path: Path) -> Step:
        full = step.get("full_refresh", False)
        if not isinstance(full, bool):
            self._wrong((*path, "full_refresh"), f"expected true or false, found {found(full)}")
        return Step(
            where=self._where(path), given=self._tables(step.get("given"), (*path, "given")),
            expect=self._tables(step.get("expect"), (*path, "expect"), marts=True), full_refresh=full is True,
            interval=self._interval(step.get("interval"), (*path, "interval")),
        )  # fmt: skip

    def _interval(self, value: Any, path: Path) -> tuple[str, str] | None:
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            self._wrong(path, f"expected a list of two times, found {found(value)}", 'for example ["2026-01-01", "…"]')
            return None
        return str(value[0]), str(value[1])

    def _tables(self, tables: Any, path: Path, marts: bool = False) -> dict[str, tuple[Row, ...]]:
        rows = {}
        for name, value in self._mapping(tables, path).items():
            self._check_table(name, (*path, name), marts)
            rows[name] = tuple(self._rows(value, (*path, name)))
        return rows

    def _check_table(self, name: str, path: Path, marts: bool = False) -> None:
        """`name` is one of the pipeline's tables or marts, or (where rows are given) of another schema."""
        schemas = self.pipeline.warehouse
        staging = [f"{schemas.schema}.{table.name}" for table in self.pipeline.tables]
        built = [f"{schemas.mart_schema}.{t.name}" for t in self.pipeline.transforms if t.materialized != "script"]
        known = built if marts else [*staging, *built]
        schema, dot, _ = name.partition(".")
        scripted = marts and schema == schemas.mart_schema and self._has_scripts
        if name in known or scripted or (dot and not marts and schema not in (schemas.schema, schemas.mart_schema)):
            return
        meant = close(name, known) or next((k for k in known if k.partition(".")[2] == name), None)
        what = "a mart" if marts else "a table or a mart"
        hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(known) or 'none'}"
        self._wrong(path, f"{name} is not {what} of {self.pipeline.name}", hint, key=True)

    @property
    def _has_scripts(self) -> bool:
        return any(transform.materialized == "script" for transform in self.pipeline.transforms)

    def _rows(self, value: Any, path: Path) -> Iterator[Row]:
        if isinstance(value, dict):
            file = self._text(self._mapping(value, path, ("csv",)).get("csv"), (*path, "csv"))
            yield from self._csv_rows(file, (*path, "csv")) if file else ()
            return
        if not isinstance(value, list):
            hint = "write a list of rows, `[{id: 1}]`, an empty one, `[]`, or {csv: a_file.csv}"
            self._wrong(path, f"expected rows, found {found(value)}", hint)
            return
        for number, row in enumerate(value):
            at = (*path, number)
            yield Row(self._mapping(row, at), self._where(at))

    def _csv_rows(self, name: str, path: Path) -> Iterator[Row]:
        file = self.folder / name
        if not file.resolve().is_relative_to(self.folder.resolve()):
            self._wrong(path, f"{name} is outside of the folder of the tests", "copy the file into it")
            return
        try:
            reader = csv.reader(io.StringIO(read_text(file)), strict=True)
            heads = next(reader, [])
            for fields in reader:
                if fields:
                    # As COPY reads csv: an empty field is NULL.
                    values = {head: field or None for head, field in zip(heads, fields, strict=True)}
                    yield Row(values, f"{file}:{reader.line_num}:1")
        except SpecError as error:
            self.csv_problems += error.problems
        except (csv.Error, ValueError) as error:
            self._wrong(path, f"{name}: line {reader.line_num} has other columns than the first ({error})")

    def _mapping(self, value: Any, path: Path, allowed: Collection[str] = ()) -> dict[str, Any]:
        """`value` where it is a mapping (nothing is an empty one) without keys but those `allowed` (none: any)."""
        if not isinstance(value, dict):
            if value is not None:
                self._wrong(path, f"expected a mapping, found {found(value)}")
            return {}
        for key in value.keys() - set(allowed) if allowed else ():
            meant = close(key, allowed)
            choice = f"allowed here: {', '.join(allowed)}"
            self._wrong(
                (*path, key), f"unknown key {key!r}", f"did you mean {meant!r}? {choice}" if meant else choice, key=True
            )
        return {key: item for key, item in value.items() if not allowed or key in allowed}

    def _moment(self, value: Any, path: Path) -> str | None:
        text = self._text(value, path)
        try:
            return text and str(datetime.fromisoformat(text))
        except ValueError:
            self._wrong(path, f"expected a time, found {found(text)}", 'for example "2026-01-31 12:00:00+00:00"')
            return None

    def _type(self, value: Any, path: Path) -> str:
        kind = self._text(value, path)
        if kind is not None and not _TYPE.fullmatch(kind):
            self._wrong(path, f"expected a type of PostgreSQL, found {found(kind)}", "for example integer or char(3)")
        return kind or "text"

    def _text(self, value: Any, path: Path) -> str | None:
        if value is None or isinstance(value, str):
            return value
        self._wrong(path, f"expected text, found {found(value)}")
        return None

    def _wrong(self, path: Path, message: str, hint: str = "", key: bool = False) -> None:
        at: Any = "key" if key else "value"
        self.findings.append(Finding("", path=path, message=message, hint=hint, at=at))

    def _where(self, path: Path) -> str:
        line, column = self.document.keys.get(path) or self.document.values.get(path) or (1, 1)
        return f"{self.document.file}:{line}:{column}"
