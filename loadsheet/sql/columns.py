"""Which columns statements take from tables whose columns are known. Says nothing where it could be wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from loadsheet.sql.reads import Read, begins, fold

# What cannot be told apart is left to the server, without a word.
logging.getLogger("sqlglot").addFilter(lambda record: "Cannot traverse scope" not in record.getMessage())

_SYSTEM = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


@dataclass(frozen=True, kw_only=True)
class ColumnRead:
    """A column named in SQL, the table it can only come from, and whether the SQL says so itself (`t.column`)."""

    name: str
    table: Read
    qualified: bool
    offset: int


def columns_read(statements: Iterable[exp.Expr]) -> Iterator[ColumnRead]:
    """Every column that can only come from one table; none for statements whose scopes cannot be told apart."""
    for statement in statements:
        try:
            for scope in traverse_scope(statement):
                yield from _columns_of(scope)
        except Exception:  # two tables under one name, for one: the server will say so
            return


def output_columns(statement: exp.Expr) -> list[str] | None:
    """The columns that a SELECT returns; None where the server has to name one of them."""
    if not isinstance(statement, exp.Query):
        return None
    columns = [_output(item) for item in statement.selects]
    return [column for column in columns if column] if columns and all(columns) else None


def doubled_columns(statement: exp.Expr) -> Iterator[tuple[str, int]]:
    """Each name that a SELECT gives to a second column, and where: no table or view can be made of it."""
    seen: set[str] = set()
    for item in statement.selects if isinstance(statement, exp.Query) else ():
        name = _output(item)
        if name and name in seen:
            yield name, begins(item)
        seen.add(name or "")


def _output(item: exp.Expr) -> str | None:
    if isinstance(item, exp.Alias):
        return fold(item.args["alias"])
    return fold(item.this) if isinstance(item, exp.Column) and isinstance(item.this, exp.Identifier) else None


def _columns_of(scope: Scope) -> Iterator[ColumnRead]:
    tables = {name.lower(): _table(source) for name, source in scope.sources.items() if _is_plain(source)}
    only = next(iter(tables.values())) if len(tables) == len(scope.sources) == 1 and _is_alone(scope) else None
    # A bare name can also be the row of a table, or a column that the SELECT itself has named.
    selects = scope.expression.selects if isinstance(scope.expression, exp.Query) else ()
    own = {*tables, *(item.alias.lower() for item in selects if isinstance(item, exp.Alias))}
    for column in scope.columns:
        if column.parent_select is not scope.expression or not isinstance(column.this, exp.Identifier):
            continue
        name, qualifier = fold(column.this), column.table.lower()
        table = tables.get(qualifier) if qualifier else only if name.lower() not in own else None
        if table and name not in _SYSTEM and not column.args.get("db"):
            offset = column.this.meta.get("start", 0)
            yield ColumnRead(name=name, table=table, qualified=bool(qualifier), offset=offset)


def _is_plain(source: exp.Table | Scope) -> TypeGuard[exp.Table]:
    """A table under its own column names, not a function, nor `t AS a (x, y)`."""
    if not isinstance(source, exp.Table) or not isinstance(source.this, exp.Identifier):
        return False
    alias = source.args.get("alias")
    return not (alias and alias.args.get("columns"))


def _is_alone(scope: Scope) -> bool:
    """Whether a bare column can come from nowhere else: not from an outer query, nor from a function beside it."""
    select = scope.expression
    beside = select.args.get("joins") or select.args.get("laterals")
    return isinstance(select, exp.Select) and not beside and not scope.is_subquery and not scope.is_udtf


def _table(source: exp.Table) -> Read:
    schema = source.args.get("db")
    return Read(schema=fold(schema) if schema else None, name=fold(source.this))
