"""The test files of a pipeline, `tests/*.yml`: read and checked, with all problems at once."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from pathlib import Path as FilePath
from typing import Any

from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import KeyPath, Problem, dotted
from loadsheet.spec.files import read_text
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import refuse_link_outwards
from loadsheet.spec.sql_reading import is_made_elsewhere
from loadsheet.spec.strict_yaml import Document, read_document
from loadsheet.spec.suggest import describe_value
from loadsheet.sql.reads import Read
from loadsheet.sqltest.fields import CODE, Fields
from loadsheet.sqltest.models import Case, Declared, Row, Step, unsaid

Tests = tuple[list[Case], dict[str, Declared]]
"""The tests of all files, and what the files say of tables, by `schema.table`."""


def test_files(pipeline: Pipeline) -> list[Path]:
    """The pipeline's test files, sorted."""
    folder = pipeline.file.parent / "tests"
    return sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")])


def read_tests(pipeline: Pipeline) -> Tests:
    """The tests of all files. Raises SpecError with every problem of every file."""
    tests, problems = _read(pipeline)
    if problems:
        raise SpecError(problems)
    return tests


def test_problems(pipeline: Pipeline) -> list[Problem]:
    """All that is wrong with the test files, as far as nothing has to be run to know."""
    (cases, declared), problems = _read(pipeline)
    for case in cases if not problems else ():
        if message := unsaid(pipeline, case, declared):
            file, line, column = case.where.rsplit(":", 2)
            path = dotted(("tests", case.name))
            problems.append(
                Problem(
                    file=file,
                    line=int(line),
                    column=int(column),
                    path=path,
                    message=message,
                    code=CODE,
                )
            )
    return problems


def _read(pipeline: Pipeline) -> tuple[Tests, list[Problem]]:
    cases: list[Case] = []
    declared: dict[str, Declared] = {}
    problems: list[Problem] = []
    for file in test_files(pipeline):
        try:
            refuse_link_outwards(file)
            document = read_document(file)
        except SpecError as error:
            problems += map(_of_a_test_file, error.problems)
            continue
        reader = Reader(pipeline, document, file.parent)
        cases += reader.cases()
        declared |= reader.declared(declared)
        problems += reader.problems
    return (cases, declared), problems


def _of_a_test_file(problem: Problem) -> Problem:
    is_empty = problem.code == "missing-key" and not problem.path
    return (
        replace(problem, hint="a test file has the keys tests and tables") if is_empty else problem
    )


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
            path: KeyPath = ("tests", name)
            test = self._fields.mapping(test, path, _TEST_KEYS)
            if "steps" in test and test.keys() & set(_STEP_KEYS):
                self._fields.wrong(
                    (*path, "steps"),
                    "a test has steps, or is one itself",
                    "move the rest into a step",
                )
            steps = tuple(self._steps(test, path))
            self._refuse_both(steps, path, is_one="steps" not in test)
            if not any(step.expect for step in steps):
                self._fields.wrong(
                    path, "this test expects nothing", "add `expect:` with a mart and its rows"
                )
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
            types = {
                c: self._fields.type_name(kind, (*path, "columns", c))
                for c, kind in columns.items()
            }
            declared[name] = Declared(
                types, self._fields.column_names(said.get("key", []), (*path, "key"))
            )
        return declared

    def _steps(self, test: dict[str, Any], path: KeyPath) -> Iterator[Step]:
        if "steps" not in test:
            yield self._step({key: value for key, value in test.items() if key in _STEP_KEYS}, path)
            return
        steps = test["steps"]
        if not isinstance(steps, list) or not steps:
            self._fields.wrong(
                (*path, "steps"), f"expected a list of steps, found {describe_value(steps)}"
            )
            return
        for number, step in enumerate(steps):
            at = (*path, "steps", number)
            yield self._step(self._fields.mapping(step, at, _STEP_KEYS), at)

    def _refuse_both(self, steps: tuple[Step, ...], path: KeyPath, is_one: bool) -> None:
        """A mart that is expected and given would be compared with itself."""
        given = {name for step in steps for name in step.given}.intersection(marts(self._pipeline))
        for number, step in enumerate(steps):
            at = path if is_one else (*path, "steps", number)
            for name in step.expect.keys() & given:
                message = (
                    f"{name} is given in this test, so it is not built and nothing can be expected"
                    " of it"
                )
                self._fields.wrong(
                    (*at, "expect", name), message, "leave out one of the two", key=True
                )

    def _step(self, step: dict[str, Any], path: KeyPath) -> Step:
        return Step(
            where=self._fields.where(path),
            given=self._tables(step.get("given"), (*path, "given")),
            expect=self._tables(step.get("expect"), (*path, "expect"), expected=True),
            full_refresh=self._fields.flag(
                step.get("full_refresh", False), (*path, "full_refresh")
            ),
            interval=self._fields.interval(step.get("interval"), (*path, "interval")),
        )

    def _tables(
        self, value: Any, path: KeyPath, expected: bool = False
    ) -> dict[str, tuple[Row, ...]]:
        rows = {}
        for name, given in self._fields.mapping(value, path).items():
            self._check_table(name, (*path, name), expected)
            rows[name] = tuple(self._rows(given, (*path, name)))
        return rows

    def _check_table(self, name: str, path: KeyPath, expected: bool = False) -> None:
        may_be = may_be_expected if expected else may_be_given
        if not may_be(self._pipeline, name):
            what = "a mart of" if expected else "a table, a mart or an `external` table of"
            hint = table_hint(self._pipeline, name, expected)
            self._fields.wrong(path, f"{name} is not {what} {self._pipeline.name}", hint, key=True)

    def _rows(self, value: Any, path: KeyPath) -> Iterator[Row]:
        if isinstance(value, dict):
            file = self._fields.text(
                self._fields.mapping(value, path, ("csv",)).get("csv"), (*path, "csv")
            )
            yield from self._csv_rows(file, (*path, "csv")) if file else ()
        elif isinstance(value, list):
            for number, row in enumerate(value):
                at = (*path, number)
                yield Row(self._fields.mapping(row, at), self._fields.where(at))
        else:
            self._fields.wrong(path, f"expected rows, found {describe_value(value)}", _ROWS)

    def _csv_rows(self, name: str, path: KeyPath) -> list[Row]:
        file = self._folder / name
        if not file.resolve().is_relative_to(self._folder.resolve()):
            self._fields.wrong(
                path, f"{name} is outside of the folder of the tests", "copy the file into it"
            )
            return []
        try:
            return csv_rows(file)
        except SpecError as error:
            self._of_csv_files += error.problems
        except ValueError as error:
            self._fields.wrong(path, f"{name}: {error}")
        return []


# With a leading zero it is a code, such as a postcode, and stays text.
_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"0|-?[1-9][0-9]*"), int),
    (re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"), Decimal),
    (re.compile(r"true|false"), lambda text: text == "true"),
)


def csv_rows(file: Path) -> list[Row]:
    """The rows of the file, whose first line names the columns. An empty field is NULL; a column
    with nothing but numbers, or true and false, holds such values, as they would be in YAML.

    Raises SpecError when it cannot be read, ValueError that says which line is wrong.
    """
    reader = csv.reader(io.StringIO(read_text(file)), strict=True)
    try:
        heads = next(reader, [])
        if not heads or not all(heads) or len(set(heads)) < len(heads):
            raise ValueError("line 1 must name each column once")
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not csv: {error}") from None
    for number, fields in lines:
        if len(fields) != len(heads):
            raise ValueError(f"line {number} has other columns than the first")
    columns = [_values([fields[place] for _, fields in lines]) for place in range(len(heads))]
    return [
        Row(dict(zip(heads, values, strict=True)), f"{file}:{number}:1")
        for (number, _), values in zip(lines, zip(*columns, strict=True), strict=True)
    ]


def _values(texts: list[str]) -> list[Any]:
    read = _reader(texts)
    return [read(text) if text else None for text in texts]


def _reader(texts: list[str]) -> Callable[[str], Any]:
    """How to read a column's fields: the first kind that fits all that are not empty, else text."""
    fields = [text for text in texts if text]
    for kind, read in _KINDS:
        if fields and all(map(kind.fullmatch, fields)):
            return read
    return str


def marts(pipeline: Pipeline) -> list[str]:
    """What transforms build, as `schema.table`; unknown for a script."""
    schema = pipeline.warehouse.mart_schema
    return [
        f"{schema}.{transform.name}"
        for transform in pipeline.transforms
        if transform.materialized != "script"
    ]


def may_be_given(pipeline: Pipeline, name: str) -> bool:
    """Whether rows of it can matter: a table, also of a pattern, a mart, or one that others or
    scripts make."""
    schemas = pipeline.warehouse
    schema, dot, table = name.partition(".")
    if not dot:
        return False
    if name in marts(pipeline) or (schema == schemas.schema and _is_loaded(pipeline, table)):
        return True
    is_ours = schema in (schemas.schema, schemas.mart_schema)
    return is_made_elsewhere(pipeline, Read(schema=schema, name=table)) or (
        _has_scripts(pipeline) and not is_ours
    )


def may_be_expected(pipeline: Pipeline, name: str) -> bool:
    """Whether a transform can have built it."""
    schema = name.partition(".")[0]
    return name in marts(pipeline) or (
        schema == pipeline.warehouse.mart_schema and _has_scripts(pipeline)
    )


def table_hint(pipeline: Pipeline, name: str, expected: bool) -> str:
    """What was meant by `name`, which may be neither given nor `expected`."""
    staging = [f"{pipeline.warehouse.schema}.{table.name}" for table in pipeline.tables]
    known = [*([] if expected else staging), *marts(pipeline)]
    meant = closest(name, known) or next((k for k in known if k.partition(".")[2] == name), None)
    return f"did you mean {meant!r}?" if meant else f"it has {', '.join(known) or 'none'}"


def _is_loaded(pipeline: Pipeline, table: str) -> bool:
    return (
        any(known.name == table for known in pipeline.tables)
        or pipeline.pattern_of(table) is not None
    )


def _has_scripts(pipeline: Pipeline) -> bool:
    return any(transform.materialized == "script" for transform in pipeline.transforms)
