"""What transforms read and in which order they can run, inferred from their SQL. Ask `inputs.py`: it remembers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from sqlglot import exp

from loadsheet.errors import SpecError
from loadsheet.plan.columns import Columns, Wrong
from loadsheet.plan.inputs import Inputs
from loadsheet.plan.tables_read import Meaning, is_made_elsewhere, meaning, what_is_wrong
from loadsheet.spec.finding import dotted
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.spec.problem import Problem
from loadsheet.sql.columns import doubled_columns, output_columns
from loadsheet.sql.params import PARAMS
from loadsheet.sql.parsing import parse
from loadsheet.sql.placeholders import placeholders
from loadsheet.sql.reads import Read, reads
from loadsheet.sql.statements import why_not_in_our_transaction, why_not_one_select
from loadsheet.sql.tokens import Unparsable, line_and_column

_PARAMS_HINT = "the parameters are " + ", ".join(f":{name}" for name in PARAMS)
_SELECT_HINT = "several statements, or statements that write, need `materialized: script`"
_SCRIPT_HINT = "take it out: Loadsheet begins and commits, so that script and ledger agree"

_OWN = "leave it out, or make it a script, which can create its table before it reads it"


def infer_inputs(pipeline: Pipeline) -> dict[str, Inputs]:
    """Every transform's inputs, in an order in which they can run; the spec's order where it is free.

    Raises SpecError with all problems of all SQL files: text that cannot be read, more than one SELECT, unknown
    parameters, tables and columns that are not there, transforms that read each other in a circle.
    """
    found = {transform.name: _Reading(pipeline, transform) for transform in pipeline.transforms}
    problems = [problem for reading in found.values() for problem in reading.problems()]
    columns = Columns(pipeline, {name: reading.outputs for name, reading in found.items()})
    problems += [problem for reading in found.values() for problem in reading.wrong_columns(columns)]
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
        self.statements: list[exp.Expr] = []
        self.outputs: list[str] | None = None
        try:
            self.statements = statements = parse(transform.sql)
        except Unparsable as error:
            self.broken = self.problem("sql-syntax", error.offset, str(error), error.hint)
            return
        # At once: the text's tokens are still at hand.
        self.unknown_params = [(name, at) for name, at in placeholders(transform.sql) if name not in PARAMS]
        self.reads = reads(statements)
        self.is_script = transform.materialized == "script"
        self.refused = (why_not_in_our_transaction if self.is_script else why_not_one_select)(statements)
        if not self.is_script and not self.refused:
            self.outputs = output_columns(statements[0])

    def problem(self, code: str, offset: int, message: str, hint: str = "") -> Problem:
        line, column = line_and_column(self.transform.sql, offset)
        file, path = str(self.transform.file), dotted(("transforms", self.transform.name))
        return Problem(file=file, line=line, column=column, path=path, message=message, hint=hint, code=code)

    def problems(self) -> Iterable[Problem]:
        if self.broken:
            return [self.broken]
        code, hint = ("sql-script", _SCRIPT_HINT) if self.is_script else ("sql-not-select", _SELECT_HINT)
        refused = [self.problem(code, 0, self.refused, hint)] if self.refused else []
        return [*refused, *self._unknown_params(), *self._unknown_tables(), *self._itself(), *self._doubled()]

    def inputs(self) -> Inputs:
        kinds = {self.meaning(read) for read in self.reads}
        return Inputs(
            tables=tuple(t.name for t in self.pipeline.tables if ("table", t.name) in kinds) + self._matched(kinds),
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
        return [self.problem("unknown-table", read.offset, *what_is_wrong(self.pipeline, read)) for read in unknown]

    def _itself(self) -> Iterator[Problem]:
        for read in self.reads if not self.is_script else ():
            if self.meaning(read) == ("transform", self.transform.name):
                yield self.problem("sql-cycle", read.offset, "reads itself, which is not there on its first run", _OWN)

    def _doubled(self) -> Iterator[Problem]:
        for name, offset in doubled_columns(self.statements[0]) if not self.is_script and not self.refused else ():
            message, hint = f"its SELECT has two columns {name!r}", "name one of them otherwise: AS another_name"
            yield self.problem("duplicate-column", offset, message, hint)

    def wrong_columns(self, columns: Columns) -> list[Problem]:
        """Columns it reads that are not there, and key columns that it does not make itself."""
        wrong = [*columns.wrong(self.statements, self.meaning), *self._missing_keys()]
        return [self.problem("unknown-column", offset, message, hint) for offset, message, hint in wrong]

    def _missing_keys(self) -> Iterator[Wrong]:
        for key in self.transform.unique_key if self.outputs else ():
            if self.outputs and key not in self.outputs:
                close = get_close_matches(key, self.outputs, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(self.outputs)}"
                yield 0, f"its SELECT has no column {key!r}, which unique_key names", hint


def _sorted(inputs: dict[str, Inputs], found: dict[str, _Reading]) -> list[str]:
    sorter = TopologicalSorter({name: found_inputs.transforms for name, found_inputs in inputs.items()})
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
    offset = next(read.offset for read in first.reads if first.meaning(read) == ("transform", names[1]))
    message = f"transforms read each other in a circle: {' -> '.join(names)}"
    return first.problem("sql-cycle", offset, message, "one of them must not read the next")
