"""Which tables and columns statements read. Names are folded as PostgreSQL folds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from loadsheet.sql.parsing import Node, Query, Statement, Text
from loadsheet.sql.tokens import Unparsable, tokenize

_NOT_READING = frozenset(
    ("TruncateStmt", "LockStmt", "GrantStmt", "CreateStmt", "CreateStatsStmt", "AlterTableStmt")
)
"""They name tables as a query does. Others name them elsewhere: the target of an INSERT is no
RangeVar in the tree."""
_ROUTINES = frozenset(("DoStmt", "CreateFunctionStmt"))
_NAMES = frozenset(("word", "name"))


@dataclass(frozen=True, kw_only=True)
class Read:
    """A table named where rows are read from. `schema` is None when the SQL leaves it out."""

    schema: str | None
    name: str
    offset: int = 0
    certain: bool = True
    """False for a name found in text that is not parsed: a DO block, a function's body."""


def reads(statements: Sequence[Statement]) -> list[Read]:
    """Every table read, in order of appearance; not CTEs, write targets, or what an earlier
    statement created."""
    created: set[tuple[str | None, str]] = set()
    found: list[Read] = []
    for statement in statements:
        found += [read for read in _reads_of(statement) if (read.schema, read.name) not in created]
        created |= set(_created_by(statement))
    # The parser repeats the query of `SET (a, b) = (SELECT ...)` for every column.
    return list(dict.fromkeys(found))


def read(table: Node, text: Text) -> Read:
    """What the parser's RangeVar reads."""
    schema = table.get("schemaname")
    parts = 1 + (schema is not None) + ("catalogname" in table)
    return Read(
        schema=schema, name=table["relname"], offset=text.name(table.get("location", 0), parts)
    )


def _reads_of(statement: Statement) -> list[Read]:
    if statement.kind in _NOT_READING:
        return []
    only_named: set[int] = set()
    found: list[Read] = []
    for kind, node, ctes in statement.nodes:
        if kind == "LockingClause":  # FOR UPDATE OF t
            only_named |= {id(table["RangeVar"]) for table in node.get("lockedRels", ())}
        elif kind == "RangeVar" and id(node) not in only_named:
            if "schemaname" in node or node["relname"] not in ctes:
                found.append(read(node, statement.text))
        elif kind == "String" and statement.kind in _ROUTINES:
            found += _names_in(node.get("sval", ""))
    if statement.kind in _ROUTINES:
        return [replace(name, certain=False) for name in found]
    return sorted(found, key=lambda table: table.offset)


def _created_by(statement: Statement) -> Iterator[tuple[str | None, str]]:
    body = statement.body
    if statement.kind == "RenameStmt" and body["renameType"] in (
        "OBJECT_TABLE",
        "OBJECT_VIEW",
        "OBJECT_MATVIEW",
    ):
        yield body["relation"].get("schemaname"), body["newname"]
    new = {
        "CreateStmt": body.get("relation"),
        "ViewStmt": body.get("view"),
        "CreateTableAsStmt": body.get("into", {}).get("rel"),
        "SelectStmt": body.get("intoClause", {}).get("rel"),
    }.get(statement.kind)
    if new:
        yield new.get("schemaname"), new["relname"]


def _names_in(text: str) -> Iterator[Read]:
    """Every `schema.name` in text that no parser reads, dollar-quoted bodies included."""
    try:
        tokens = tokenize(text)
    except Unparsable:
        return
    for token in tokens:
        if token.kind == "body":
            yield from _names_in(token.text)
    for schema, dot, name in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot.text == "." and {schema.kind, name.kind} <= _NAMES:
            yield Read(schema=schema.text, name=name.text, certain=False)


_SYSTEM = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


@dataclass(frozen=True, kw_only=True)
class ColumnRead:
    """A column named in SQL, the table it can only come from, and whether the SQL says so itself
    (`t.column`)."""

    name: str
    table: Read
    qualified: bool
    offset: int


def columns_read(statements: Iterable[Statement]) -> Iterator[ColumnRead]:
    """Every column that can only come from one table."""
    for statement in statements:
        found = [
            column for query in statement.queries for column in _columns_of(query, statement.text)
        ]
        yield from dict.fromkeys(
            found
        )  # the parser repeats the query of `SET (a, b) = (SELECT ...)`


def output_columns(statement: Statement) -> list[str] | None:
    """The columns that a SELECT returns; None where the server has to name one of them."""
    columns = [_output(item) for item in _targets(statement)]
    return [column for column in columns if column] if columns and all(columns) else None


def doubled_columns(statement: Statement) -> Iterator[tuple[str, int]]:
    """Each name that a SELECT gives to a second column, and where: no table or view can be made of
    it."""
    seen: set[str] = set()
    for item in _targets(statement):
        name = _output(item)
        if name and name in seen:
            yield name, statement.text.offset(item["location"])
        seen.add(name or "")


def _targets(statement: Statement) -> list[Node]:
    """What a SELECT returns, of a UNION its first one."""
    select = statement.body if statement.kind == "SelectStmt" else {}
    while "larg" in select:
        select = select["larg"]
    return [item["ResTarget"] for item in select.get("targetList", ())]


def _output(item: Node) -> str | None:
    if "name" in item:
        return str(item["name"])
    return _last(item.get("val", {}).get("ColumnRef", {}))


def _last(column: Node) -> str | None:
    """The column's own name; None where it is a `*`."""
    fields = column.get("fields")
    return fields[-1].get("String", {}).get("sval") if fields else None


def _columns_of(query: Query, text: Text) -> Iterator[ColumnRead]:
    sources = list(_sources(query))
    tables = {alias: read(table, text) for alias, table in sources if alias and table}
    is_alone = len(tables) == len(sources) == 1 and not query.is_inside
    only = next(iter(tables.values())) if is_alone else None
    # A bare name can also be the row of a table, or a column that the SELECT itself has named.
    own = {alias for alias, _ in sources}
    own |= {item["ResTarget"].get("name") for item in query.node.get("targetList", ())}
    maybe_outputs = _maybe_outputs(query.node)
    for column in query.columns:
        fields, name = column["fields"], _last(column)
        if name is None or name in _SYSTEM or len(fields) > 2 or id(column) in maybe_outputs:
            continue
        qualifier = fields[0]["String"]["sval"] if len(fields) == 2 else None
        table = tables.get(qualifier) if qualifier else only if name not in own else None
        if table:
            offset = text.name(column["location"], len(fields))
            yield ColumnRead(name=name, table=table, qualified=qualifier is not None, offset=offset)


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
