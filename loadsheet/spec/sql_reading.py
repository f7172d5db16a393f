"""Which tables and columns each transform reads, and the order that follows from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice

from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import Problem, dotted
from loadsheet.spec.budget import MOST_SECONDS, is_spent
from loadsheet.spec.models import Inputs, Pipeline, Table, Transform
from loadsheet.sql.merging import DELETED_AT, LOAD_ID, TOMBSTONES
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
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

Input = tuple[str, str]
"""What a transform reads of its pipeline: `("table", name)` or `("transform", name)`."""

_PARAMS_HINT = "the parameters are " + ", ".join(f":{name}" for name in PARAMS)
_SELECT_HINT = "several statements, or statements that write, need `materialized: script`"
_SCRIPT_HINT = (
    "remove it: Loadsheet begins and commits the transaction, so that the script and the ledger"
    " agree"
)
_OWN_TABLE_HINT = "leave it out, or use `materialized: script`, which can create the table first"

# Of one SQL file. Each takes a look at all names of the pipeline, for the one that was meant.
_MOST_PROBLEMS = 200
_ALWAYS_THERE = frozenset({"information_schema", "loadsheet"})
# The end of the search path on which a transform runs, after staging and mart.
_SEARCHED_LAST = "public"


def infer_inputs(pipeline: Pipeline) -> dict[str, Inputs]:
    """Every transform's inputs, in an order in which they can run; the spec's order where it is
    free.

    Raises SpecError with all problems of all SQL files: text that cannot be read, more than one
    SELECT, unknown parameters, tables and columns, transforms that read each other in a circle.
    """
    files: dict[str, _SqlFile] = {}
    for transform in pipeline.transforms:
        files[transform.name] = _SqlFile(pipeline, transform)
        files[transform.name].refuse_if_late(0)
    problems: list[Problem] = []
    for file in files.values():
        problems += file.first_of(file.problems())
    # Only now: a transform's columns are known from the SQL of those it reads.
    columns = _KnownColumns(pipeline, {name: file.outputs for name, file in files.items()})
    for file in files.values():
        problems += file.first_of(file.column_problems(columns))
    if problems:
        raise SpecError(problems)
    inputs = {name: file.inputs() for name, file in files.items()}
    order = _in_order(inputs, files)
    _log.debug("%s: transforms run in the order %s", pipeline.name, ", ".join(order))
    return {name: inputs[name] for name in order}


class _SqlFile:
    """One transform's SQL, parsed once: its problems, else its inputs."""

    def __init__(self, pipeline: Pipeline, transform: Transform):
        self.pipeline = pipeline
        self.transform = transform
        self.is_script = transform.materialized == "script"
        self.syntax_error: Unparsable | None = None
        self.statements: list[Statement] = []
        self.refusal: str | None = None
        self.unknown_params: list[tuple[str, int]] = []
        self.reads: list[Read] = []
        self.outputs: list[str] | None = None
        """The columns of a SELECT; None where they are not known."""
        try:
            self.statements = parse(transform.sql)
        except Unparsable as error:
            self.syntax_error = error
            return
        # At once: only the tokens of the last text are remembered.
        for name, offset in placeholders(transform.sql):
            if name not in PARAMS:
                self.unknown_params.append((name, offset))
        self.reads = tables_read(self.statements)
        if self.is_script:
            self.refusal = why_not_in_our_transaction(self.statements)
            return
        self.refusal = why_not_one_select(self.statements)
        if not self.refusal:
            self.outputs = output_columns(self.statements[0])

    def problem(self, code: str, offset: int, message: str, hint: str) -> Problem:
        """The problem at `offset` of the SQL."""
        line, column = line_and_column(self.transform.sql, offset)
        return Problem(
            file=str(self.transform.file),
            line=line,
            column=column,
            path=dotted(("transforms", self.transform.name)),
            message=message,
            hint=hint,
            code=code,
        )

    def refuse_if_late(self, offset: int) -> None:
        """Raises SpecError, at `offset` of the SQL, when the check of the pipeline has had its
        time."""
        if not is_spent():
            return
        limit = counted(MOST_SECONDS, "second")
        message = f"the check stops here: the pipeline takes more than {limit}"
        hint = "split the pipeline, or its largest SQL files"
        raise SpecError([self.problem("too-much", offset, message, hint)])

    def first_of(self, problems: Iterator[Problem]) -> list[Problem]:
        """The first `_MOST_PROBLEMS` of them, and one that says so where there are more."""
        first = list(islice(problems, _MOST_PROBLEMS))
        if next(problems, None):
            message = f"more than {_MOST_PROBLEMS} problems; the others are not shown"
            first.append(self.problem("too-much", 0, message, "correct the first ones"))
        return first

    def problems(self) -> Iterator[Problem]:
        """All problems but those of columns."""
        if self.syntax_error:
            error = self.syntax_error
            yield self.problem("sql-syntax", error.offset, str(error), error.hint)
            return
        if self.refusal and self.is_script:
            yield self.problem("sql-script", 0, self.refusal, _SCRIPT_HINT)
        elif self.refusal:
            yield self.problem("sql-not-select", 0, self.refusal, _SELECT_HINT)
        for name, offset in self.unknown_params:
            message = f"unknown parameter :{name}"
            yield self.problem("unknown-parameter", offset, message, _PARAMS_HINT)
        for read in self.reads:
            self.refuse_if_late(read.offset)
            # A word in the body of a function may be a table's name or anything else.
            if not read.certain or self.input(read) or is_made_elsewhere(self.pipeline, read):
                continue
            message, hint = _explain_unknown(self.pipeline, read)
            yield self.problem("unknown-table", read.offset, message, hint)
        # A script may create its table before it reads it, and has no columns of its own.
        if self.is_script:
            return
        for read in self.reads:
            if self.input(read) == ("transform", self.transform.name):
                message = "reads itself, but its table does not exist on the first run"
                yield self.problem("sql-cycle", read.offset, message, _OWN_TABLE_HINT)
        if self.refusal:
            return
        for name, offset in duplicate_columns(self.statements[0]):
            message = f"its SELECT has two columns {name!r}"
            hint = "rename one of them: AS another_name"
            yield self.problem("duplicate-column", offset, message, hint)

    def column_problems(self, columns: _KnownColumns) -> Iterator[Problem]:
        """Columns it reads that do not exist, and key columns that its SELECT does not have."""
        # Where no columns are known, the SQL need not be searched a second time.
        if columns.any_known:
            for column in columns_read(self.statements):
                self.refuse_if_late(column.offset)
                origin = self.input(column.table)
                explanation = columns.explain_missing(column, origin) if origin else None
                if explanation:
                    yield self.problem("unknown-column", column.offset, *explanation)
        if not self.outputs:
            return
        for key in self.transform.unique_key:
            if key not in self.outputs:
                meant = closest(key, self.outputs)
                hint = f"it has {', '.join(self.outputs)}"
                if meant:
                    hint = f"did you mean {meant!r}?"
                message = f"its SELECT has no column {key!r}, which unique_key names"
                yield self.problem("unknown-column", 0, message, hint)

    def inputs(self) -> Inputs:
        """The inputs of SQL without problems. A script may read its own table, which is no
        input."""
        tables: set[str] = set()
        transforms: set[str] = set()
        external: set[str] = set()
        for read in self.reads:
            origin = self.input(read)
            if origin:
                kind, name = origin
                (tables if kind == "table" else transforms).add(name)
            elif read.certain:
                external.update(_declared(self.pipeline, read))
        transforms.discard(self.transform.name)
        return Inputs(
            tables=self.pipeline.tables_in_order(tables),
            transforms=self.pipeline.transforms_in_order(transforms),
            external=tuple(sorted(external)),
        )

    def input(self, read: Read) -> Input | None:
        return resolve_read(self.pipeline, read)


def _in_order(inputs: Mapping[str, Inputs], files: Mapping[str, _SqlFile]) -> list[str]:
    sorter = TopologicalSorter({name: read.transforms for name, read in inputs.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        # graphlib lists each name before the one that reads it: reversed, each reads the next. The
        # problem is shown where the first reads the second.
        names: list[str] = error.args[1][::-1]
        first = files[names[0]]
        next_one = ("transform", names[1])
        offset = next(read.offset for read in first.reads if first.input(read) == next_one)
        message = f"transforms read each other in a circle: {' -> '.join(names)}"
        problem = first.problem("sql-cycle", offset, message, "remove one of these reads")
        raise SpecError([problem]) from None
    order: list[str] = []
    position = {name: index for index, name in enumerate(inputs)}
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=position.__getitem__)
        order += ready
        sorter.done(*ready)
    return order


def resolve_read(pipeline: Pipeline, read: Read) -> Input | None:
    """The table or transform of `pipeline` that is read; None where it is neither."""
    schemas = pipeline.warehouse
    if read.schema in (schemas.schema, None) and pipeline.has_table(read.name):
        return "table", read.name
    staged = _with_tombstones(pipeline, read)
    if staged and _deletes_rows(staged):
        return "table", staged.name
    # A pattern only with its schema: "*" would match the name of any transform, and of anything
    # that a script creates for itself.
    if read.schema == schemas.schema and pipeline.pattern_of(read.name):
        return "table", read.name
    if read.schema not in (schemas.mart_schema, None):
        return None
    if pipeline.has_transform(read.name):
        return "transform", read.name
    return None


def _with_tombstones(pipeline: Pipeline, read: Read) -> Table | None:
    """The table whose tombstones have the name that is read, if it has any; one of a pattern only
    where the schema is written."""
    schema = pipeline.warehouse.schema
    name = read.name.removesuffix(TOMBSTONES)
    if name == read.name or read.schema not in (schema, None):
        return None
    if pipeline.has_table(name) or (read.schema == schema and pipeline.pattern_of(name)):
        return pipeline.table(name)
    return None


def _deletes_rows(table: Table) -> bool:
    """Whether the table has tombstones, if the source has a key for it."""
    is_hard = table.deletes is not None and table.deletes.action == "hard"
    return is_hard and table.mode_with_key(True) == "merge"


def is_made_elsewhere(pipeline: Pipeline, read: Read) -> bool:
    """Whether the table is PostgreSQL's, the ledger's, or declared under `external`."""
    if (read.schema or read.name).startswith("pg_") or read.schema in _ALWAYS_THERE:
        return True
    names: set[str] = set()
    for schema in _searched(pipeline, read):
        names.update((f"{schema}.{read.name}", f"{schema}.*"))
    return not names.isdisjoint(pipeline.external_names)


def _declared(pipeline: Pipeline, read: Read) -> Iterator[str]:
    """The table under `external` that is read, as `schema.table`. Of a read without a schema,
    `schema.*` does not tell whether it is in that one: only the server knows."""
    for schema in _searched(pipeline, read):
        name = f"{schema}.{read.name}"
        is_of_schema = read.schema is not None and f"{schema}.*" in pipeline.external_names
        if name in pipeline.external_names or is_of_schema:
            yield name
            return


def _searched(pipeline: Pipeline, read: Read) -> list[str]:
    """The schemas in which the table may be."""
    if read.schema is not None:
        return [read.schema]
    # The search path of a transform.
    return [pipeline.warehouse.schema, pipeline.warehouse.mart_schema, _SEARCHED_LAST]


def _explain_unknown(pipeline: Pipeline, read: Read) -> tuple[str, str]:
    """The message and the hint for a table that is not loaded, built or declared."""
    schemas = pipeline.warehouse
    name = f"{read.schema}.{read.name}" if read.schema else read.name
    hint = _hint(pipeline, read, name)
    if read.schema == schemas.schema:
        return f"reads {name}, which is not a table of this pipeline", hint
    if read.schema == schemas.mart_schema:
        return f"reads {name}, which is not a transform of this pipeline", hint
    return f"reads {name}, which this pipeline neither loads nor builds", hint


def _hint(pipeline: Pipeline, read: Read, name: str) -> str:
    schemas = pipeline.warehouse
    staged = _with_tombstones(pipeline, read)
    if staged:
        return f"only a merged table with `deletes: hard` has it, and {staged.name} is none"
    pattern = pipeline.pattern_of(read.name)
    if read.schema is None and pattern:
        table = f"{schemas.schema}.{read.name}"
        return f"write {table} if it is a table of the pattern {pattern.name!r}"
    # Most likely first: a typo in the name, then the wrong or no schema, then a typo in `external`.
    ours = [(schemas.schema, table.name) for table in pipeline.tables]
    ours += [(schemas.mart_schema, transform.name) for transform in pipeline.transforms]
    in_schema = [own for schema, own in ours if read.schema == schema]
    meant = closest(read.name, in_schema)
    if meant:
        return f"did you mean {meant!r}?{_in_quotes(meant)}"
    alike = [own for _, own in ours]
    if read.schema is not None:
        alike = [own for own in alike if own == read.name]
    meant = closest(read.name, alike)
    if meant:
        schema = next(schema for schema, own in ours if own == meant)
        return f"did you mean {schema}.{meant}?{_in_quotes(meant)}"
    external = [text.replace("*", read.name) for text in pipeline.external]
    meant = closest(name, external)
    if meant:
        return f"did you mean {meant}?"
    add = "list"
    if read.schema in (schemas.schema, None):
        add = f"add {read.name!r} to `tables`, or list"
    full_name = name if read.schema else f"{_SEARCHED_LAST}.{name}"
    return f"{add} `{full_name}` under `external` if it is created elsewhere"


def _in_quotes(name: str) -> str:
    """SQL folds unquoted names to lower case, so writing the capitals alone would not help."""
    return "" if name == name.lower() else f" Its capitals need quotes: {ident(name)}"


class _KnownColumns:
    """What is known of the columns of a pipeline's tables and transforms.

    `outputs` are those of each transform; None where only the server can tell.
    """

    def __init__(self, pipeline: Pipeline, outputs: Mapping[str, list[str] | None]):
        self.table = pipeline.table
        self.outputs = outputs
        self.any_known = any(outputs.values())
        for table in pipeline.entries:
            if table.include or table.exclude:
                self.any_known = True

    def explain_missing(self, column: ColumnRead, origin: Input) -> tuple[str, str] | None:
        """The message and the hint for a column that `origin` does not have; None where it has the
        column or may have it."""
        kind, name = origin
        if kind == "table" and column.name in self.table(name).exclude:
            message = f"reads {name}.{column.name}, a column that is excluded"
            return message, f"remove it from tables.{name}.columns.exclude"
        known = self.outputs.get(name)
        if kind == "table":
            # Without `include`, the source decides which columns there are.
            include = self.table(name).include
            known = [*include, LOAD_ID, DELETED_AT] if include else None
        if known is None or column.name in known:
            return None
        meant = closest(column.name, known)
        if not column.qualified and not meant:
            return None  # a keyword such as `user`, perhaps
        message = f"reads {name}.{column.name}, which is not among the columns of {name}"
        if kind == "table":
            add = f"add it to tables.{name}.columns.include"
            return message, f"did you mean {meant!r}? Otherwise {add}" if meant else add
        if meant:
            return message, f"did you mean {meant!r}?"
        # A longer list would hide the message.
        return message, f"it has {', '.join(known)}" if len(known) <= 12 else ""
