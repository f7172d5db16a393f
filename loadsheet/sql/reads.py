"""Which tables and columns statements read. Names are folded as PostgreSQL folds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from loadsheet.sql.parsing import Node, Query, Statement, Text
from loadsheet.sql.tokens import Unparsable, tokenize

_T = TypeVar("_T")

# They name tables as a query does. Others name them elsewhere: the target of an INSERT is no
# RangeVar in the tree.
_NOT_READING = frozenset(
    ("TruncateStmt", "LockStmt", "GrantStmt", "CreateStmt", "CreateStatsStmt", "AlterTableStmt")
)
_ROUTINES = frozenset(("DoStmt", "CreateFunctionStmt"))
_RENAMES_TABLE = frozenset(("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW"))
_NAMES = frozenset(("word", "name"))
_SYSTEM_COLUMNS = frozenset(("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"))
# Bodies within bodies that are searched for names. Each level is read once more: without a limit,
# 1 MiB of nested quotes would take hours. A DO block that creates a function which runs EXECUTE
# has three.
_MAX_BODIES = 10


@dataclass(frozen=True, kw_only=True)
class Read:
    """A table named where rows are read from. `schema` is None when the SQL leaves it out."""

    schema: str | None
    name: str
    offset: int = 0
    certain: bool = True
    """False for a name found in text that is not parsed: a DO block, a function's body."""


@dataclass(frozen=True, kw_only=True)
class ColumnRead:
    """A column named in SQL, the table it can only come from, and whether the SQL says so itself
    (`t.column`)."""

    name: str
    table: Read
    qualified: bool
    offset: int


def tables_read(statements: Sequence[Statement]) -> list[Read]:
    """Every table read, in order of appearance; not CTEs, write targets, or what an earlier
    statement created."""
    created: set[tuple[str | None, str]] = set()
    found: list[Read] = []
    for statement in statements:
        for table in _tables_in(statement):
            if (table.schema, table.name) not in created:
                found.append(table)
        # After its own reads: `CREATE TABLE t AS SELECT * FROM t` reads an earlier `t`.
        created.update(_created_by(statement))
    return _without_repeats(found)


def columns_read(statements: Iterable[Statement]) -> Iterator[ColumnRead]:
    """Every column that can only come from one table."""
    for statement in statements:
        found: list[ColumnRead] = []
        for query in statement.queries:
            found += _columns_of(query, statement.text)
        yield from _without_repeats(found)


def output_columns(statement: Statement) -> list[str] | None:
    """The columns that a SELECT returns; None where the server has to name one of them."""
    columns = []
    for item in _select_list(statement):
        name = _output_name(item)
        if not name:
            return None
        columns.append(name)
    return columns or None


def duplicate_columns(statement: Statement) -> Iterator[tuple[str, int]]:
    """Each name that a SELECT gives to a second column, and where: no table or view can be made of
    it."""
    seen: set[str] = set()
    for item in _select_list(statement):
        name = _output_name(item)
        if name and name in seen:
            yield name, statement.text.offset(item["location"])
        seen.add(name or "")


def _without_repeats(found: list[_T]) -> list[_T]:
    """The parser repeats the query of `SET (a, b) = (SELECT ...)` for every column."""
    return list(dict.fromkeys(found))


def _read(table: Node, text: Text) -> Read:
    """What the parser's RangeVar reads."""
    schema = table.get("schemaname")
    parts = 1 + (schema is not None) + ("catalogname" in table)
    offset = text.name_offset(table.get("location", 0), parts)
    return Read(schema=schema, name=table["relname"], offset=offset)


def _tables_in(statement: Statement) -> list[Read]:
    if statement.kind in _NOT_READING:
        return []
    is_routine = statement.kind in _ROUTINES
    only_named: set[int] = set()
    found: list[Read] = []
    for kind, node, ctes in statement.nodes:
        if kind == "LockingClause":  # FOR UPDATE OF t
            only_named |= {id(table["RangeVar"]) for table in node.get("lockedRels", ())}
        elif kind == "RangeVar" and id(node) not in only_named:
            if "schemaname" in node or node["relname"] not in ctes:
                found.append(_read(node, statement.text))
        elif kind == "String" and is_routine:
            found += _names_in(node.get("sval", ""))
    if is_routine:
        return [replace(name, certain=False) for name in found]
    # The tree has its parts in another order than the text.
    return sorted(found, key=lambda table: table.offset)


def _created_by(statement: Statement) -> Iterator[tuple[str | None, str]]:
    """The tables and views that exist after the statement."""
    body = statement.body
    if statement.kind == "RenameStmt" and body["renameType"] in _RENAMES_TABLE:
        yield body["relation"].get("schemaname"), body["newname"]
    new = {
        "CreateStmt": body.get("relation"),
        "ViewStmt": body.get("view"),
        "CreateTableAsStmt": body.get("into", {}).get("rel"),
        "SelectStmt": body.get("intoClause", {}).get("rel"),
    }.get(statement.kind)
    if new:
        yield new.get("schemaname"), new["relname"]


def _names_in(text: str, level: int = 0) -> Iterator[Read]:
    """Every `schema.name` in text that no parser reads, dollar-quoted bodies included."""
    try:
        tokens = tokenize(text)
    except Unparsable:
        return
    for token in tokens:
        if token.kind == "body" and level < _MAX_BODIES:
            yield from _names_in(token.text, level + 1)
    for schema, dot, name in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot.text == "." and {schema.kind, name.kind} <= _NAMES:
            yield Read(schema=schema.text, name=name.text, certain=False)


def _select_list(statement: Statement) -> list[Node]:
    """What a SELECT returns, of a UNION its first one."""
    if statement.kind != "SelectStmt":
        return []
    select = statement.body
    while "larg" in select:
        select = select["larg"]
    return [item["ResTarget"] for item in select.get("targetList", ())]


def _output_name(item: Node) -> str | None:
    if "name" in item:
        return str(item["name"])
    return _column_name(item.get("val", {}).get("ColumnRef", {}))


def _column_name(column: Node) -> str | None:
    """The column's own name, without a table's; None where it is a `*`."""
    fields = column.get("fields")
    if not fields:
        return None
    name: str | None = fields[-1].get("String", {}).get("sval")
    return name


def _columns_of(query: Query, text: Text) -> Iterator[ColumnRead]:
    sources = list(_sources(query))
    tables = {alias: _read(table, text) for alias, table in sources if alias and table}
    only_table = None
    if len(tables) == len(sources) == 1 and not query.may_be_correlated:
        (only_table,) = tables.values()
    # A bare name can also be the row of a table, or a column that the SELECT itself has named.
    not_columns = {alias for alias, _ in sources}
    for item in query.node.get("targetList", ()):
        not_columns.add(item["ResTarget"].get("name"))
    maybe_outputs = _maybe_outputs(query.node)
    for column in query.columns:
        fields = column["fields"]
        name = _column_name(column)
        if name is None or name in _SYSTEM_COLUMNS or len(fields) > 2:
            continue
        if id(column) in maybe_outputs:
            continue
        is_qualified = len(fields) == 2
        if is_qualified:
            table = tables.get(fields[0]["String"]["sval"])
        elif name in not_columns:
            table = None
        else:
            table = only_table
        if table:
            offset = text.name_offset(column["location"], len(fields))
            yield ColumnRead(name=name, table=table, qualified=is_qualified, offset=offset)


def _maybe_outputs(select: Node) -> set[int]:
    """The names in its ORDER BY, if the server names one of its columns, as in `SELECT count(*) ...
    ORDER BY count`."""
    targets = [item["ResTarget"] for item in select.get("targetList", ())]
    if all("name" in item or "ColumnRef" in item.get("val", {}) for item in targets):
        return set()
    keys = [key["SortBy"]["node"] for key in select.get("sortClause", ())]
    return {id(key["ColumnRef"]) for key in keys if "ColumnRef" in key}


def _sources(query: Query) -> Iterator[tuple[str | None, Node | None]]:
    """What its FROM names: alias, and the table where it is one under its own column names."""
    stack = list(query.node.get("fromClause", ()))
    while stack:
        ((kind, node),) = stack.pop().items()
        alias = node.get("alias", {})
        # With an alias, a join hides the names of its tables.
        if kind == "JoinExpr" and not alias:
            stack += [node["larg"], node["rarg"]]
        elif kind == "RangeTableSample":
            stack.append(node["relation"])
        elif kind == "RangeVar":
            is_table = "schemaname" in node or node["relname"] not in query.ctes
            is_plain = is_table and "colnames" not in alias
            yield alias.get("aliasname", node["relname"]), node if is_plain else None
        else:
            yield alias.get("aliasname"), None
