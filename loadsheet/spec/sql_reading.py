"""Which tables and columns each transform reads, and the order that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import Problem, dotted
from loadsheet.spec.models import Inputs, Pipeline, Transform
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.params import PARAMS, placeholders
from loadsheet.sql.parsing import Statement, parse, why_not_in_our_transaction, why_not_one_select
from loadsheet.sql.reads import (
    ColumnRead,
    Read,
    columns_read,
    duplicate_columns,
    output_columns,
    tables_read,
)
from loadsheet.sql.text import ident
from loadsheet.sql.tokens import Unparsable, line_and_column

_PARAMS_HINT = "the parameters are " + ", ".join(f":{name}" for name in PARAMS)
_SELECT_HINT = "several statements, or statements that write, need `materialized: script`"
_SCRIPT_HINT = "take it out: Loadsheet begins and commits, so that script and ledger agree"

_OWN = "leave it out, or make it a script, which can create its table before it reads it"


def infer_inputs(pipeline: Pipeline) -> dict[str, Inputs]:
    """Every transform's inputs, in an order in which they can run; the spec's order where it is
    free.

    Raises SpecError with all problems of all SQL files: text that cannot be read, more than one
    SELECT, unknown parameters, tables and columns that are not there, transforms that read each
    other in a circle.
    """
    found = {transform.name: _Reading(pipeline, transform) for transform in pipeline.transforms}
    problems = [problem for reading in found.values() for problem in reading.problems()]
    columns = Columns(pipeline, {name: reading.outputs for name, reading in found.items()})
    problems += [
        problem for reading in found.values() for problem in reading.wrong_columns(columns)
    ]
    if problems:
        raise SpecError(problems)
    inputs = {name: reading.inputs() for name, reading in found.items()}
    return {name: inputs[name] for name in _sorted(inputs, found)}


class _Reading:
    """One transform's SQL, read once: its problems, else its inputs."""

    def __init__(self, pipeline: Pipeline, transform: Transform):
        self.pipeline, self.transform = pipeline, transform
        self.broken: Problem | None = None
        self.refused: str | None = None
        self.unknown_params: list[tuple[str, int]] = []
        self.reads: list[Read] = []
        self.statements: list[Statement] = []
        self.outputs: list[str] | None = None
        try:
            self.statements = statements = parse(transform.sql)
        except Unparsable as error:
            self.broken = self.problem("sql-syntax", error.offset, str(error), error.hint)
            return
        # At once: the text's tokens are still at hand.
        self.unknown_params = [
            (name, at) for name, at in placeholders(transform.sql) if name not in PARAMS
        ]
        self.reads = tables_read(statements)
        self.is_script = transform.materialized == "script"
        self.refused = (why_not_in_our_transaction if self.is_script else why_not_one_select)(
            statements
        )
        if not self.is_script and not self.refused:
            self.outputs = output_columns(statements[0])

    def problem(self, code: str, offset: int, message: str, hint: str = "") -> Problem:
        line, column = line_and_column(self.transform.sql, offset)
        file, path = str(self.transform.file), dotted(("transforms", self.transform.name))
        return Problem(
            file=file, line=line, column=column, path=path, message=message, hint=hint, code=code
        )

    def problems(self) -> Iterable[Problem]:
        if self.broken:
            return [self.broken]
        code, hint = (
            ("sql-script", _SCRIPT_HINT) if self.is_script else ("sql-not-select", _SELECT_HINT)
        )
        refused = [self.problem(code, 0, self.refused, hint)] if self.refused else []
        return [
            *refused,
            *self._unknown_params(),
            *self._unknown_tables(),
            *self._itself(),
            *self._doubled(),
        ]

    def inputs(self) -> Inputs:
        kinds = {self.meaning(read) for read in self.reads}
        return Inputs(
            tables=tuple(t.name for t in self.pipeline.tables if ("table", t.name) in kinds)
            + self._matched(kinds),
            transforms=tuple(
                t.name
                for t in self.pipeline.transforms
                if ("transform", t.name) in kinds and t.name != self.transform.name
            ),
        )

    def _matched(self, kinds: set[Meaning | None]) -> tuple[str, ...]:
        names = {found[1] for found in kinds if found and found[0] == "table"}
        return tuple(sorted(name for name in names if self.pipeline.pattern_of(name)))

    def meaning(self, read: Read) -> Meaning | None:
        return meaning(self.pipeline, read)

    def _unknown_params(self) -> list[Problem]:
        return [
            self.problem("unknown-parameter", offset, f"unknown parameter :{name}", _PARAMS_HINT)
            for name, offset in self.unknown_params
        ]

    def _unknown_tables(self) -> list[Problem]:
        reads = [read for read in self.reads if read.certain and not self.meaning(read)]
        unknown = [read for read in reads if not is_made_elsewhere(self.pipeline, read)]
        return [
            self.problem("unknown-table", read.offset, *what_is_wrong(self.pipeline, read))
            for read in unknown
        ]

    def _itself(self) -> Iterator[Problem]:
        for read in self.reads if not self.is_script else ():
            if self.meaning(read) == ("transform", self.transform.name):
                yield self.problem(
                    "sql-cycle",
                    read.offset,
                    "reads itself, which is not there on its first run",
                    _OWN,
                )

    def _doubled(self) -> Iterator[Problem]:
        for name, offset in (
            duplicate_columns(self.statements[0]) if not self.is_script and not self.refused else ()
        ):
            message, hint = (
                f"its SELECT has two columns {name!r}",
                "name one of them otherwise: AS another_name",
            )
            yield self.problem("duplicate-column", offset, message, hint)

    def wrong_columns(self, columns: Columns) -> list[Problem]:
        """Columns it reads that are not there, and key columns that it does not make itself."""
        wrong = [*columns.wrong(self.statements, self.meaning), *self._missing_keys()]
        return [
            self.problem("unknown-column", offset, message, hint) for offset, message, hint in wrong
        ]

    def _missing_keys(self) -> Iterator[Wrong]:
        for key in self.transform.unique_key if self.outputs else ():
            if self.outputs and key not in self.outputs:
                close = closest(key, self.outputs)
                hint = f"did you mean {close!r}?" if close else f"it has {', '.join(self.outputs)}"
                yield 0, f"its SELECT has no column {key!r}, which unique_key names", hint


def _sorted(inputs: dict[str, Inputs], found: dict[str, _Reading]) -> list[str]:
    sorter = TopologicalSorter(
        {name: found_inputs.transforms for name, found_inputs in inputs.items()}
    )
    try:
        sorter.prepare()
    except CycleError as error:
        raise SpecError([_cycle(error.args[1][::-1], found)]) from None
    order, position = [], {name: index for index, name in enumerate(inputs)}
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=position.__getitem__)
        order += ready
        sorter.done(*ready)
    return order


def _cycle(names: list[str], found: dict[str, _Reading]) -> Problem:
    """`names` as read: each reads the next. The place is where the first reads the second."""
    first = found[names[0]]
    offset = next(
        read.offset for read in first.reads if first.meaning(read) == ("transform", names[1])
    )
    message = f"transforms read each other in a circle: {' -> '.join(names)}"
    return first.problem("sql-cycle", offset, message, "one of them must not read the next")


Meaning = tuple[str, str]
"""`("table" | "transform", name)`."""

_ALWAYS_THERE = frozenset({"information_schema", "loadsheet"})
_SEARCHED_LAST = "public"


def meaning(pipeline: Pipeline, read: Read) -> Meaning | None:
    """The table or transform of `pipeline` that is read; None for what the pipeline does not make."""
    schemas = pipeline.warehouse
    if read.schema in (schemas.schema, None) and any(t.name == read.name for t in pipeline.tables):
        return "table", read.name
    # Only by its schema: "*" matches the name of any transform and of anything that a script makes
    # for itself.
    if read.schema == schemas.schema and pipeline.pattern_of(read.name):
        return "table", read.name
    is_transform = any(t.name == read.name for t in pipeline.transforms)
    return (
        ("transform", read.name)
        if is_transform and read.schema in (schemas.mart_schema, None)
        else None
    )


def is_made_elsewhere(pipeline: Pipeline, read: Read) -> bool:
    """Whether the table is PostgreSQL's, the ledger's, or declared under `external`."""
    if (read.schema or read.name).startswith("pg_") or read.schema in _ALWAYS_THERE:
        return True
    schemas = pipeline.warehouse
    searched = (
        (read.schema,) if read.schema else (schemas.schema, schemas.mart_schema, _SEARCHED_LAST)
    )
    names = {name for schema in searched for name in (f"{schema}.{read.name}", f"{schema}.*")}
    return not names.isdisjoint(pipeline.external)


def what_is_wrong(pipeline: Pipeline, read: Read) -> tuple[str, str]:
    """The message and the hint for a table that is not loaded, built or declared."""
    schemas = pipeline.warehouse
    name = f"{read.schema}.{read.name}" if read.schema else read.name
    if read.schema == schemas.schema:
        return f"reads {name}, which is not a table of this pipeline", _hint(pipeline, read, name)
    if read.schema == schemas.mart_schema:
        return f"reads {name}, which is not a transform of this pipeline", _hint(
            pipeline, read, name
        )
    return f"reads {name}, which this pipeline neither loads nor builds", _hint(
        pipeline, read, name
    )


def _hint(pipeline: Pipeline, read: Read, name: str) -> str:
    schemas = pipeline.warehouse
    pattern = pipeline.pattern_of(read.name)
    if read.schema is None and pattern:
        table = f"{schemas.schema}.{read.name}"
        return f"write {table} if it is a table of the pattern {pattern.name!r}"
    ours = [(schemas.schema, table.name) for table in pipeline.tables]
    ours += [(schemas.mart_schema, transform.name) for transform in pipeline.transforms]
    in_schema = [own for schema, own in ours if read.schema == schema]
    meant = _close(read.name, in_schema)
    if meant:
        return f"did you mean {meant!r}?{_in_quotes(meant)}"
    alike = [own for _, own in ours]
    if read.schema is not None:
        alike = [own for own in alike if own == read.name]
    meant = _close(read.name, alike)
    if meant:
        schema = next(schema for schema, own in ours if own == meant)
        return f"did you mean {schema}.{meant}?{_in_quotes(meant)}"
    external = [text.replace("*", read.name) for text in pipeline.external]
    meant = _close(name, external)
    if meant:
        return f"did you mean {meant}?"
    add = "list"
    if read.schema in (schemas.schema, None):
        add = f"add {read.name!r} to `tables`, or list"
    full_name = name if read.schema else f"{_SEARCHED_LAST}.{name}"
    return f"{add} `{full_name}` under `external` if it is made elsewhere"


def _in_quotes(name: str) -> str:
    """SQL folds what stands without quotes, so that capitals alone would find nothing."""
    return "" if name == name.lower() else f" Its capitals need quotes: {ident(name)}"


def _close(name: str, known: list[str]) -> str | None:
    return next((k for k in known if k.lower() == name.lower()), None) or closest(name, known)


Wrong = tuple[int, str, str]
"""Offset in the SQL, message, hint."""


class Columns:
    """What is known of the columns of a pipeline's tables and transforms (`outputs`; None: the
    server names them)."""

    def __init__(self, pipeline: Pipeline, outputs: Mapping[str, list[str] | None]):
        self.table = pipeline.table
        self.outputs = outputs
        self.some_known = any(table.include or table.exclude for table in pipeline.entries) or any(
            outputs.values()
        )

    def wrong(
        self, statements: Iterable[Statement], meaning: Callable[[Read], Meaning | None]
    ) -> Iterator[Wrong]:
        """The columns that cannot be there."""
        for column in columns_read(statements) if self.some_known else ():
            if (found := meaning(column.table)) and (text := self._wrong(column, found)):
                yield column.offset, *text

    def _wrong(self, column: ColumnRead, meaning: Meaning) -> tuple[str, str] | None:
        kind, name = meaning
        if kind == "table" and column.name in self.table(name).exclude:
            hint = f"take it off tables.{name}.columns.exclude"
            return f"reads {name}.{column.name}, a column that is not carried", hint
        known = [*self.table(name).include, LOAD_ID] if kind == "table" else self.outputs.get(name)
        if known is None or known == [LOAD_ID] or column.name in known:
            return None
        close = closest(column.name, known)
        if not column.qualified and not close:
            return None  # a keyword such as `user`, perhaps
        have = f"it has {', '.join(known)}" if len(known) <= 12 else ""
        hint = f"did you mean {close!r}?" if close else have
        if kind == "table":
            hint = f"did you mean {close!r}? else add it" if close else "add it"
            hint += f" to tables.{name}.columns.include"
        return f"reads {name}.{column.name}, which is not among the columns of {name}", hint
