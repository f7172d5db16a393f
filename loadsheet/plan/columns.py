"""Columns that transforms read but that, as far as the spec tells, are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches

from sqlglot import exp

from loadsheet.plan.tables_read import Meaning
from loadsheet.spec.models import Pipeline
from loadsheet.sql.columns import ColumnRead, columns_read
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.reads import Read

Wrong = tuple[int, str, str]
"""Offset in the SQL, message, hint."""


class Columns:
    """What is known of the columns of a pipeline's tables and transforms (`outputs`; None: the server names them)."""

    def __init__(self, pipeline: Pipeline, outputs: Mapping[str, list[str] | None]):
        self.table = pipeline.table
        self.outputs = outputs
        self.some_known = any(table.include or table.exclude for table in pipeline.entries) or any(outputs.values())

    def wrong(self, statements: Iterable[exp.Expr], meaning: Callable[[Read], Meaning | None]) -> Iterator[Wrong]:
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
        close = next(iter(get_close_matches(column.name, known, n=1, cutoff=0.7)), None)
        if not column.qualified and not close:
            return None  # a keyword such as `user`, perhaps
        have = f"it has {', '.join(known)}" if len(known) <= 12 else ""
        hint = f"did you mean {close!r}?" if close else have
        if kind == "table":
            hint = f"did you mean {close!r}? else add it" if close else "add it"
            hint += f" to tables.{name}.columns.include"
        return f"reads {name}.{column.name}, which is not among the columns of {name}", hint
