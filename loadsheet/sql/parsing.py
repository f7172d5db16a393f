"""SQL text to parsed statements, or the position of what PostgreSQL would refuse."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loadsheet.sql.libpg import SyntaxRefused, tree
from loadsheet.sql.params import placeholders
from loadsheet.sql.strict import Slip, always_wrong, explained
from loadsheet.sql.tokens import TOO_DEEP_HINT, Token, Unparsable, tokenize

Node = dict[str, Any]
_Part = tuple[str, Any, frozenset[str], "Query | None", bool]
"""Of a tree: its type, itself, the CTEs in its reach, the query it belongs to, whether a query in
it is inside one."""

_HINT = (
    "the check knows the syntax of PostgreSQL 18; "
    "write newer syntax as text in a script: DO $$ BEGIN EXECUTE '...'; END $$"
)


class Text:
    """SQL with its tokens, to find the parser's locations in it again: they count bytes, and that
    of a qualified name is where its first part begins."""

    def __init__(self, sql: str, tokens: list[Token]):
        self.tokens = tokens
        self.bytes = _encoded(sql)
        self._is_ascii = sql.isascii()
        self._starts = [token.start for token in tokens]

    def offset(self, location: int) -> int:
        """The character at the byte `location`."""
        return location if self._is_ascii else len(self.bytes[:location].decode())

    def name(self, location: int, parts: int = 1) -> int:
        """The offset of the last of the `parts` of the name at `location`."""
        return self._starts[self._index(location) + 2 * (parts - 1)]

    def word(self, location: int) -> str:
        """The first word of the statement at `location`, in capitals."""
        at = self._index(location)
        while self.tokens[at].text in (";", "("):
            at += 1
        return self.tokens[at].text.upper()

    def _index(self, location: int) -> int:
        """The token at `location`, or the last one before it."""
        return max(bisect_right(self._starts, self.offset(location)) - 1, 0)


@dataclass(frozen=True)
class Query:
    """A SELECT anywhere in a statement."""

    node: Node
    ctes: frozenset[str]
    """The names of the CTEs in its reach."""
    is_inside: bool
    """Whether it may name columns of a query around it: a subquery in an expression, or LATERAL."""
    columns: list[Node]
    """The columns that it names itself, not in a query within it."""


@dataclass(frozen=True)
class Statement:
    """One statement, its kind (`SelectStmt`) and body as the parser names them."""

    kind: str
    body: Node
    text: Text
    word: str
    """Its first word, in capitals."""

    @cached_property
    def nodes(self) -> list[tuple[str, Node, frozenset[str]]]:
        """Every node in its order: its type, or `` where its place has only one; itself; the CTEs
        in its reach."""
        return self._walked[0]

    @cached_property
    def queries(self) -> list[Query]:
        """Every SELECT in it."""
        return self._walked[1]

    @cached_property
    def _walked(self) -> tuple[list[tuple[str, Node, frozenset[str]]], list[Query]]:
        """Not by recursion, which deep SQL would exhaust."""
        nodes: list[tuple[str, Node, frozenset[str]]] = []
        queries: list[Query] = []
        stack: list[_Part] = [(self.kind, self.body, frozenset(), None, False)]
        while stack:
            kind, node, ctes, query, is_inside = stack.pop()
            if isinstance(node, list):
                stack += [("", item, ctes, query, is_inside) for item in reversed(node)]
                continue
            within: list[_Part] = []
            if "withClause" in node:
                tables, ctes = _with_tables(node["withClause"], ctes)
                within = [("", table, seen, query, is_inside) for table, seen in tables]
            if kind == "ColumnRef" and query:
                query.columns.append(node)
            elif "limitOption" in node:
                query = Query(node, ctes, is_inside, [])
                queries.append(query)
            elif kind == "SubLink" or "lateral" in node:
                is_inside = True
            nodes.append((kind, node, ctes))
            for key in reversed(node):
                if isinstance(node[key], (dict, list)) and key != "withClause":
                    stack.append((key, node[key], ctes, query, is_inside))
            stack += reversed(within)
        return nodes, queries


def parse(sql: str) -> list[Statement]:
    """The statements of `sql`, empty ones left out. Raises Unparsable at the place that could not
    be read."""
    tokens = tokenize(sql)
    for offset, message, hint in always_wrong(tokens):
        raise Unparsable(message, offset, hint)
    text = Text(_with_values(sql), tokens)
    try:
        found = tree(text.bytes)
    except SyntaxRefused as error:
        slip = explained(tokens, error.offset) or _unknown(sql, tokens, error)
        offset, message, hint = slip
        raise Unparsable(message, offset, hint) from None
    except RecursionError:
        raise Unparsable("nested too deeply to be read", 0, TOO_DEEP_HINT) from None
    return [_statement(text, raw) for raw in found]


def _with_values(sql: str) -> str:
    """`sql` with a text of the same length in place of each named parameter."""
    for name, at in placeholders(sql):
        sql = sql[:at] + "'" + " " * (len(name) - 1) + "'" + sql[at + 1 + len(name) :]
    return sql


def _statement(text: Text, raw: Node) -> Statement:
    ((kind, body),) = raw["stmt"].items()
    return Statement(kind, body, text, text.word(raw.get("stmt_location", 0)))


def _unknown(sql: str, tokens: list[Token], error: SyntaxRefused) -> Slip:
    """What no slip explains: the token at which the parser gave up, or the last one at the end."""
    before = [token for token in tokens if token.start < error.offset]
    culprit = tokens[len(before)] if len(before) < len(tokens) else before.pop()
    message = f"cannot be read as PostgreSQL at {sql[culprit.start : culprit.end]!r}"
    if before:
        after = sql[before[-3:][0].start : before[-1].end]
        message += f" after {' '.join(after.split())!r}"
    if not error.message.startswith("syntax error"):
        message += f": {error.message}"
    return culprit.start, message, _HINT


def _encoded(sql: str) -> bytes:
    return sql.encode(errors="replace")


def _with_tables(
    clause: Node, ctes: frozenset[str]
) -> tuple[list[tuple[Node, frozenset[str]]], frozenset[str]]:
    """Each query of a WITH and the CTEs it sees; and all those that the statement under the WITH
    sees.

    `WITH a AS (SELECT * FROM a)` reads a real `a`: without RECURSIVE, a CTE sees only those before it.
    """
    tables = [table["CommonTableExpr"] for table in clause["ctes"]]
    every = ctes | {table["ctename"] for table in tables}
    if clause.get("recursive"):
        return [(table, every) for table in tables], every
    seen = []
    for table in tables:
        seen.append((table, ctes))
        ctes = ctes | {table["ctename"]}
    return seen, every


_WRITES = {
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
}
_SAVEPOINTS = frozenset(("TRANS_STMT_SAVEPOINT", "TRANS_STMT_RELEASE", "TRANS_STMT_ROLLBACK_TO"))


def why_not_one_select(statements: list[Statement]) -> str | None:
    """What keeps `statements` from being exactly one SELECT (WITH, UNION and VALUES allowed); None
    when nothing."""
    if len(statements) != 1:
        return (
            f"expected one SELECT, found {len(statements)} statements"
            if statements
            else "there is no SELECT"
        )
    statement = statements[0]
    if statement.kind != "SelectStmt":
        return f"expected one SELECT, found {_WRITES.get(statement.kind, statement.word)}"
    for kind, node, _ in statement.nodes:
        if "intoClause" in node:
            return "expected one SELECT, found SELECT INTO"
        if kind in _WRITES:
            return f"expected one SELECT, found {_WRITES[kind]} inside it"
    return None


def why_not_in_our_transaction(statements: list[Statement]) -> str | None:
    """Which of a script's `statements` would end the transaction it runs in, and its locks with it;
    None when none."""
    found = next(filter(None, map(_ending, statements)), None)
    return f"a script runs in one transaction, found {found}" if found else None


def _ending(statement: Statement) -> str:
    """The statement in a word or two if it begins or ends a transaction or cannot run in one, else
    nothing."""
    body = statement.body
    if statement.kind == "TransactionStmt":
        return "" if body["kind"] in _SAVEPOINTS else statement.word
    if statement.kind == "VacuumStmt":
        return "VACUUM" if body.get("is_vacuumcmd") else ""
    return f"{statement.word} INDEX CONCURRENTLY" if body.get("concurrent") else ""
