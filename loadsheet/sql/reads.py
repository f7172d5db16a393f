"""Which tables and columns statements read. Names are folded as PostgreSQL folds them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.tokens import Unparsable, tokenize

_TARGET_OWNERS = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Into)
_NOT_READING = (
    exp.Drop,
    exp.Alter,
    exp.TruncateTable,
    exp.Comment,
    exp.Analyze,
    exp.Grant,
    exp.Copy,
    exp.Set,
)
_READING_COMMANDS = frozenset(
    {"CALL", "COPY", "CREATE", "DECLARE", "DO", "EXECUTE", "EXPLAIN", "PREPARE"}
)
# A foreign key's table and the `t` of FOR UPDATE OF t are named, not read.
_ONLY_NAMED = (exp.Reference, exp.Lock)
_NAMES = frozenset({TokenType.VAR, TokenType.IDENTIFIER})


@dataclass(frozen=True, kw_only=True)
class Read:
    """A table named where rows are read from. `schema` is None when the SQL leaves it out."""

    schema: str | None
    name: str
    offset: int = 0
    certain: bool = True
    """False for a name found in text that is not parsed: a DO block, a function's body."""


def reads(statements: Sequence[exp.Expr]) -> list[Read]:
    """Every table read, in order of appearance; not CTEs, write targets, or what an earlier
    statement created."""
    created: set[tuple[str | None, str]] = set()
    found: list[Read] = []
    for place, statement in enumerate(statements, start=1):
        found += [read for read in _reads_of(statement) if (read.schema, read.name) not in created]
        # Only where a reader may need it: it is one more walk of the tree.
        if place < len(statements):
            created |= {(target.schema, target.name) for target in _created_by(statement)}
    return found


def fold(identifier: exp.Expr) -> str:
    """The name PostgreSQL sees: as written in quotes, else in lower case."""
    return identifier.name if identifier.args.get("quoted") else identifier.name.lower()


def begins(node: exp.Expr) -> int:
    """The offset at which `node` begins, by the first name in it; 0 where it names nothing."""
    return min((found.meta["start"] for found in node.walk() if "start" in found.meta), default=0)


def _reads_of(statement: exp.Expr) -> Iterator[Read]:
    if isinstance(statement, exp.Command):
        if statement.this.upper() in _READING_COMMANDS:
            yield from _names_in(statement.text("expression"))
    elif isinstance(statement, exp.Create) and statement.kind not in ("TABLE", "VIEW"):
        for body in statement.find_all(exp.Heredoc):
            yield from _names_in(body.name)
    elif not isinstance(statement, _NOT_READING):
        targets = {id(target) for target in _targets(statement)}
        tables = [table for table in _tables(statement) if id(table) not in targets]
        yield from sorted(
            (_read(t) for t in tables if not _is_cte(t)), key=lambda read: read.offset
        )


def _tables(statement: exp.Expr) -> Iterator[exp.Table]:
    for table in statement.find_all(exp.Table):
        is_function = not isinstance(table.this, exp.Identifier)
        if not is_function and not table.find_ancestor(*_ONLY_NAMED):
            yield table


def _targets(statement: exp.Expr) -> Iterator[exp.Table]:
    for owner in statement.find_all(*_TARGET_OWNERS):
        target = owner.this.this if isinstance(owner.this, exp.Schema) else owner.this
        if isinstance(target, exp.Table) and isinstance(target.this, exp.Identifier):
            yield target


def _created_by(statement: exp.Expr) -> Iterator[Read]:
    yield from (
        _read(t) for t in _targets(statement) if isinstance(t.find_ancestor(*_TARGET_OWNERS), _NEW)
    )
    if isinstance(statement, exp.Alter) and isinstance(statement.this, exp.Table):
        renamed = (
            action.this
            for action in statement.args["actions"]
            if isinstance(action, exp.AlterRename)
        )
        yield from (replace(_read(statement.this), name=fold(new.this)) for new in renamed)


_NEW = (exp.Create, exp.Into)


def _read(table: exp.Table) -> Read:
    schema = table.args.get("db")
    return Read(
        schema=fold(schema) if schema else None,
        name=fold(table.this),
        offset=table.this.meta.get("start", 0),
    )


def _is_cte(table: exp.Table) -> bool:
    """Whether a WITH in whose reach `table` stands gives its name. `WITH a AS (SELECT * FROM a)`
    reads a real `a`: without RECURSIVE, a CTE sees only those before it."""
    name, inside, node = fold(table.this), None, table.parent
    while node and not table.args.get("db"):
        inside = node if isinstance(node, exp.CTE) else inside
        if (with_ := node.args.get("with_")) and name in _visible(with_, inside):
            return True
        node = node.parent
    return False


def _visible(with_: exp.With, inside: exp.CTE | None) -> set[str]:
    names = [(cte, fold(cte.args["alias"].this)) for cte in with_.expressions]
    index = next((i for i, (cte, _) in enumerate(names) if cte is inside), len(names))
    return {name for _, name in (names if with_.args.get("recursive") else names[:index])}


def _names_in(text: str) -> Iterator[Read]:
    """Every `schema.name` in text that no parser reads, dollar-quoted bodies included."""
    try:
        tokens = tokenize(text)
    except Unparsable:
        return
    for token in tokens:
        if token.token_type is TokenType.HEREDOC_STRING:
            yield from _names_in(token.text)
    for schema, dot, name in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot.token_type is TokenType.DOT and {schema.token_type, name.token_type} <= _NAMES:
            yield Read(schema=_fold_token(schema), name=_fold_token(name), certain=False)


def _fold_token(token: Token) -> str:
    return token.text if token.token_type is TokenType.IDENTIFIER else token.text.lower()


# What cannot be told apart is left to the server, without a word.
logging.getLogger("sqlglot").addFilter(
    lambda record: "Cannot traverse scope" not in record.getMessage()
)

_SYSTEM = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


@dataclass(frozen=True, kw_only=True)
class ColumnRead:
    """A column named in SQL, the table it can only come from, and whether the SQL says so itself
    (`t.column`)."""

    name: str
    table: Read
    qualified: bool
    offset: int


def columns_read(statements: Iterable[exp.Expr]) -> Iterator[ColumnRead]:
    """Every column that can only come from one table; none for statements whose scopes cannot be
    told apart."""
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
    """Each name that a SELECT gives to a second column, and where: no table or view can be made of
    it."""
    seen: set[str] = set()
    for item in statement.selects if isinstance(statement, exp.Query) else ():
        name = _output(item)
        if name and name in seen:
            yield name, begins(item)
        seen.add(name or "")


def _output(item: exp.Expr) -> str | None:
    if isinstance(item, exp.Alias):
        return fold(item.args["alias"])
    return (
        fold(item.this)
        if isinstance(item, exp.Column) and isinstance(item.this, exp.Identifier)
        else None
    )


def _columns_of(scope: Scope) -> Iterator[ColumnRead]:
    tables = {
        name.lower(): _table(source) for name, source in scope.sources.items() if _is_plain(source)
    }
    only = (
        next(iter(tables.values()))
        if len(tables) == len(scope.sources) == 1 and _is_alone(scope)
        else None
    )
    # A bare name can also be the row of a table, or a column that the SELECT itself has named.
    selects = scope.expression.selects if isinstance(scope.expression, exp.Query) else ()
    own = {*tables, *(item.alias.lower() for item in selects if isinstance(item, exp.Alias))}
    for column in scope.columns:
        if column.parent_select is not scope.expression or not isinstance(
            column.this, exp.Identifier
        ):
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
    """Whether a bare column can come from nowhere else: not from an outer query, nor from a
    function beside it."""
    select = scope.expression
    beside = select.args.get("joins") or select.args.get("laterals")
    return (
        isinstance(select, exp.Select)
        and not beside
        and not scope.is_subquery
        and not scope.is_udtf
    )


def _table(source: exp.Table) -> Read:
    schema = source.args.get("db")
    return Read(schema=fold(schema) if schema else None, name=fold(source.this))
