"""The test files of a pipeline, `tests/*.yml`: read and checked, with all problems at once."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import KeyPath, Problem, dotted
from loadsheet.spec.files import leads_into, read_text
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import refuse_link_outwards
from loadsheet.spec.sql_reading import is_made_elsewhere
from loadsheet.spec.strict_yaml import Document, read_document
from loadsheet.sql.reads import Read
from loadsheet.sqltest.fields import CODE, Fields
from loadsheet.sqltest.models import Case, Declared, Row, Step, missing_table

Tests = tuple[list[Case], dict[str, Declared]]
"""The tests of all files, and what the files declare of tables, by `schema.table`."""


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
    """The problems of the test files that can be found without running the tests."""
    (cases, declared), problems = _read(pipeline)
    if problems:
        return problems
    for case in cases:
        message = missing_table(pipeline, case, declared)
        if not message:
            continue
        file, line, column = case.where.rsplit(":", 2)
        problem = Problem(
            file=file,
            line=int(line),
            column=int(column),
            path=dotted(("tests", case.name)),
            message=message,
            code=CODE,
        )
        problems.append(problem)
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
            for problem in error.problems:
                is_empty = problem.code == "missing-key" and not problem.path
                if is_empty:
                    # The hint names the keys of a pipeline file.
                    hint = "a test file has the keys tests and tables"
                    problem = replace(problem, hint=hint)
                problems.append(problem)
            continue
        reader = Reader(pipeline, document, file.parent)
        cases += reader.cases()
        declared |= reader.declared(declared)
        problems += reader.problems
    return (cases, declared), problems


_STEP_KEYS = ("given", "expect", "full_refresh", "interval")
_TEST_KEYS = (*_STEP_KEYS, "steps", "as_of")
_ROWS = "write a list of rows, `[{id: 1}]`, an empty one, `[]`, or {csv: a_file.csv}"


class Reader:
    """Reads one file. `problems` is complete after `cases` and `declared`."""

    def __init__(self, pipeline: Pipeline, document: Document, folder: Path):
        self._pipeline = pipeline
        self._document = document
        self._folder = folder
        self._fields = Fields(document)
        self._of_csv_files: list[Problem] = []
        self._data = self._fields.mapping(document.data, (), ("tests", "tables"))

    @property
    def problems(self) -> list[Problem]:
        """The problems so far, in the file and in the csv files it names."""
        return [*map(self._document.problem, self._fields.findings), *self._of_csv_files]

    def cases(self) -> Iterator[Case]:
        """The tests of the file."""
        for name, test in self._fields.mapping(self._data.get("tests"), ("tests",)).items():
            path: KeyPath = ("tests", name)
            test = self._fields.mapping(test, path, _TEST_KEYS)
            if "steps" in test and test.keys() & set(_STEP_KEYS):
                self._fields.wrong(
                    (*path, "steps"),
                    "a test has either steps or the keys of a step",
                    "move the other keys into a step",
                )
            steps = tuple(self._steps(test, path))
            self._refuse_given_and_expected(steps, path, is_one="steps" not in test)
            if not any(step.expect for step in steps):
                self._fields.wrong(
                    path, "this test expects nothing", "add `expect:` with a mart and its rows"
                )
            as_of = self._fields.moment(test.get("as_of"), (*path, "as_of"))
            yield Case(name=name, where=self._fields.where(path), steps=steps, as_of=as_of)

    def declared(self, before: Mapping[str, Declared]) -> dict[str, Declared]:
        """What the file declares of tables; `before` is what other files have declared."""
        declared = {}
        tables = self._fields.mapping(self._data.get("tables"), ("tables",))
        for name, value in tables.items():
            path = ("tables", name)
            self._check_table(name, path)
            table = self._fields.mapping(value, path, ("columns", "key"))
            if name in before:
                message = f"another file of this folder declares {name}, too"
                self._fields.wrong(path, message, "keep one of the two")
            columns = self._fields.mapping(table.get("columns"), (*path, "columns"))
            types = {}
            for column, kind in columns.items():
                types[column] = self._fields.type_name(kind, (*path, "columns", column))
            key = self._fields.column_names(table.get("key", []), (*path, "key"))
            declared[name] = Declared(types, key)
        return declared

    def _steps(self, test: dict[str, Any], path: KeyPath) -> Iterator[Step]:
        if "steps" not in test:
            yield self._step({key: value for key, value in test.items() if key in _STEP_KEYS}, path)
            return
        steps = test["steps"]
        if not isinstance(steps, list) or not steps:
            self._fields.unexpected((*path, "steps"), steps, "a list of steps")
            return
        for number, step in enumerate(steps):
            at = (*path, "steps", number)
            yield self._step(self._fields.mapping(step, at, _STEP_KEYS), at)

    def _refuse_given_and_expected(
        self, steps: tuple[Step, ...], path: KeyPath, is_one: bool
    ) -> None:
        """A mart that is given and expected would be compared with itself."""
        given: set[str] = set()
        for step in steps:
            given.update(step.given)
        # Staging tables are given to be read; only a given mart replaces what a transform builds.
        given.intersection_update(marts(self._pipeline))
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
        full_refresh = self._fields.flag(step.get("full_refresh", False), (*path, "full_refresh"))
        return Step(
            where=self._fields.where(path),
            given=self._tables(step.get("given"), (*path, "given")),
            expect=self._tables(step.get("expect"), (*path, "expect"), expected=True),
            full_refresh=full_refresh,
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
        if expected:
            is_allowed = may_be_expected(self._pipeline, name)
            allowed = "a mart"
        else:
            is_allowed = may_be_given(self._pipeline, name)
            allowed = "a table, a mart or an `external` table"
        if not is_allowed:
            message = f"{name} is not {allowed} of {self._pipeline.name}"
            hint = table_hint(self._pipeline, name, expected)
            self._fields.wrong(path, message, hint, key=True)

    def _rows(self, value: Any, path: KeyPath) -> Iterator[Row]:
        if isinstance(value, dict):
            mapping = self._fields.mapping(value, path, ("csv",))
            file = self._fields.text(mapping.get("csv"), (*path, "csv"))
            if file:
                yield from self._csv_rows(file, (*path, "csv"))
        elif isinstance(value, list):
            for number, row in enumerate(value):
                at = (*path, number)
                yield Row(self._fields.mapping(row, at), self._fields.where(at))
        else:
            self._fields.unexpected(path, value, "rows", _ROWS)

    def _csv_rows(self, name: str, path: KeyPath) -> list[Row]:
        file = self._folder / name
        # Also through a link: differences quote rows, so a test could show the lines of any file.
        if not leads_into(file, self._folder):
            message = f"{name} is outside of the folder of the tests"
            self._fields.wrong(path, message, "copy the file into it")
            return []
        try:
            return csv_rows(file)
        except SpecError as error:
            self._of_csv_files += error.problems
        except ValueError as error:
            self._fields.wrong(path, f"{name}: {error}")
        return []


# Digits with a leading zero are a code, such as a postcode, and stay text.
_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"0|-?[1-9][0-9]*"), int),
    (re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"), Decimal),
    (re.compile(r"true|false"), lambda text: text == "true"),
)


def csv_rows(file: Path) -> list[Row]:
    """The rows of the file, whose first line names the columns.

    An empty field is NULL. A column with only numbers, or only true and false, has such values, as
    in YAML. Raises SpecError if the file cannot be read, ValueError that names the invalid line.
    """
    # Strict: otherwise a quote in the wrong place would silently become part of a value.
    reader = csv.reader(io.StringIO(read_text(file)), strict=True)
    try:
        heads = next(reader, [])
        if not heads or not all(heads) or len(set(heads)) < len(heads):
            raise ValueError("line 1 must name each column once")
        # `line_num` counts lines, not rows: a quoted field may span several.
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not csv: {error}") from None
    for number, fields in lines:
        if len(fields) != len(heads):
            raise ValueError(f"line {number} has other columns than the first")
    rows: list[dict[str, Any]] = [{} for _ in lines]
    for place, head in enumerate(heads):
        texts = [fields[place] for _, fields in lines]
        convert = _converter(texts)
        for row, text in zip(rows, texts, strict=True):
            row[head] = convert(text) if text else None
    return [Row(row, f"{file}:{number}:1") for row, (number, _) in zip(rows, lines, strict=True)]


def _converter(texts: list[str]) -> Callable[[str], Any]:
    """From a column's fields to values: the first kind that fits all non-empty ones, or text."""
    fields = [text for text in texts if text]
    for kind, convert in _KINDS:
        if fields and all(map(kind.fullmatch, fields)):
            return convert
    return str


def marts(pipeline: Pipeline) -> list[str]:
    """The tables and views that transforms build, as `schema.table`; not those of scripts, which
    are unknown."""
    schema = pipeline.warehouse.mart_schema
    names = []
    for transform in pipeline.transforms:
        if transform.materialized != "script":
            names.append(f"{schema}.{transform.name}")
    return names


def may_be_given(pipeline: Pipeline, name: str) -> bool:
    """Whether rows of the table can matter: it is loaded, also by a pattern, or a mart, or created
    by a script or outside of the pipeline."""
    warehouse = pipeline.warehouse
    schema, dot, table = name.partition(".")
    if not dot:
        return False
    if name in marts(pipeline):
        return True
    is_loaded = any(loaded.name == table for loaded in pipeline.tables)
    # In a test there is no source to ask which tables exist, so the name alone decides.
    is_loaded = is_loaded or pipeline.pattern_of(table) is not None
    if schema == warehouse.schema and is_loaded:
        return True
    if is_made_elsewhere(pipeline, Read(schema=schema, name=table)):
        return True
    is_ours = schema in (warehouse.schema, warehouse.mart_schema)
    return _has_scripts(pipeline) and not is_ours


def may_be_expected(pipeline: Pipeline, name: str) -> bool:
    """Whether a transform can have built the table."""
    if name in marts(pipeline):
        return True
    schema = name.partition(".")[0]
    return schema == pipeline.warehouse.mart_schema and _has_scripts(pipeline)


def table_hint(pipeline: Pipeline, name: str, expected: bool) -> str:
    """The likely meaning of `name`, which cannot be given or, if `expected`, cannot be expected."""
    names = marts(pipeline)
    if not expected:
        staging = pipeline.warehouse.schema
        names = [f"{staging}.{table.name}" for table in pipeline.tables] + names
    meant = closest(name, names)
    # The schema may be what is missing.
    for known in names:
        if meant is None and known.partition(".")[2] == name:
            meant = known
    if meant:
        return f"did you mean {meant!r}?"
    return f"it has {', '.join(names) or 'none'}"


def _has_scripts(pipeline: Pipeline) -> bool:
    return any(transform.materialized == "script" for transform in pipeline.transforms)
