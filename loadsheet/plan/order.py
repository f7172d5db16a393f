"""What transforms read and in which order they can run, inferred from their SQL. Ask `inputs.py`: it remembers."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from loadsheet.errors import SpecError
from loadsheet.plan.inputs import Inputs
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.spec.problem import Problem
from loadsheet.sql.params import PARAMS, placeholders
from loadsheet.sql.reads import Read, reads
from loadsheet.sql.statements import parse, why_not_in_our_transaction, why_not_one_select
from loadsheet.sql.tokens import Unparsable, line_and_column

_PARAMS_HINT = "the parameters are " + ", ".join(f":{name}" for name in PARAMS)
_SELECT_HINT = "several statements, or statements that write, need `materialized: script`"
_SCRIPT_HINT = "take it out: Loadsheet begins and commits, so that script and ledger agree"


def infer_inputs(pipeline: Pipeline) -> dict[str, Inputs]:
    """Every transform's inputs, in an order in which they can run; the spec's order where it is free.

    Raises SpecError with all problems of all SQL files: text that cannot be read, more than one SELECT, unknown
    parameters, staging tables the spec does not have, transforms that read each other in a circle.
    """
    found = {transform.name: _Reading(pipeline, transform) for transform in pipeline.transforms}
    problems = [problem for reading in found.values() for problem in reading.problems()]
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
        self.reads: list[Read] = []
        try:
            statements = parse(transform.sql)
        except Unparsable as error:
            self.broken = self.problem(error.offset, str(error), error.hint)
            return
        self.reads = reads(statements)
        self.is_script = transform.materialized == "script"
        self.refused = (why_not_in_our_transaction if self.is_script else why_not_one_select)(statements)

    def problem(self, offset: int, message: str, hint: str = "") -> Problem:
        line, column = line_and_column(self.transform.sql, offset)
        path = f"transforms.{self.transform.name}"
        return Problem(file=str(self.transform.file), line=line, column=column, path=path, message=message, hint=hint)

    def problems(self) -> Iterable[Problem]:
        if self.broken:
            return [self.broken]
        hint = _SCRIPT_HINT if self.is_script else _SELECT_HINT
        refused = [self.problem(0, self.refused, hint)] if self.refused else []
        return [*refused, *self._unknown_params(), *self._unknown_tables()]

    def inputs(self) -> Inputs:
        kinds = {self.meaning(read) for read in self.reads}
        return Inputs(
            tables=tuple(t.name for t in self.pipeline.tables if ("table", t.name) in kinds),
            transforms=tuple(
                t.name
                for t in self.pipeline.transforms
                if ("transform", t.name) in kinds and t.name != self.transform.name
            ),
        )

    def meaning(self, read: Read) -> tuple[str, str] | None:
        """`("table" | "transform", name)`; None for what the pipeline does not make."""
        schemas = self.pipeline.warehouse
        is_table = any(t.name == read.name for t in self.pipeline.tables)
        is_transform = any(t.name == read.name for t in self.pipeline.transforms)
        if is_table and read.schema in (schemas.schema, None):
            return "table", read.name
        return ("transform", read.name) if is_transform and read.schema in (schemas.mart_schema, None) else None

    def _unknown_params(self) -> list[Problem]:
        unknown = [(name, offset) for name, offset in placeholders(self.transform.sql) if name not in PARAMS]
        return [self.problem(offset, f"unknown parameter :{name}", _PARAMS_HINT) for name, offset in unknown]

    def _unknown_tables(self) -> list[Problem]:
        staging, known = self.pipeline.warehouse.schema, [t.name for t in self.pipeline.tables]
        unknown = [read for read in self.reads if read.certain and read.schema == staging and read.name not in known]
        return [
            self.problem(
                read.offset,
                f"reads {staging}.{read.name}, which is not a table of this pipeline",
                _table_hint(read.name, known),
            )
            for read in unknown
        ]


def _table_hint(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1) or [t for t in known if t.lower() == name.lower()]
    return f"did you mean {close[0]!r}?" if close else f"add {name!r} to `tables`"


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
    return first.problem(offset, message, "one of them must not read the next")
