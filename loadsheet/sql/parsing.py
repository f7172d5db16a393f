"""SQL text to parsed statements, or the position of what PostgreSQL would refuse."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from loadsheet.sql.libpg import ParserEnded, SyntaxRefused, syntax_trees
from loadsheet.sql.params import placeholders
from loadsheet.sql.syntax_hints import Mistake, explain, find_never_valid
from loadsheet.sql.tokens import Token, Unparsable, nested_too_deeply, tokenize

Node = dict[str, Any]
"""A node of the parser's tree: its fields by name. Fields with their default value are left out."""

_HINT = (
    "correct the SQL; the check knows the syntax of PostgreSQL 18: "
    "write newer syntax as text in a script: DO $$ BEGIN EXECUTE '...'; END $$"
)
_TO_BLOCK_COMMENT = re.compile(r"(?:\s|--[^\n\r]*+)*+/\*")
_WITHIN_A_LINE = re.compile(r"[^\n\r]")
_WRITES = {
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
}
_SAVEPOINTS = frozenset(("TRANS_STMT_SAVEPOINT", "TRANS_STMT_RELEASE", "TRANS_STMT_ROLLBACK_TO"))


def parse(sql: str) -> list[Statement]:
    """The statements of `sql`, empty ones left out. Raises Unparsable at the place that could not
    be read, and WorkError where the parser is not installed."""
    tokens = tokenize(sql)
    if not tokens:
        return []
    for mistake in find_never_valid(tokens):
        raise Unparsable(mistake.message, mistake.offset, mistake.hint)
    # Both replacements keep the length, so that the parser's locations hold for `sql`.
    text = Text(_without_comments(_with_values(sql), tokens), tokens)
    try:
        trees = syntax_trees(text.bytes)
    except SyntaxRefused as error:
        mistake = explain(tokens, error.offset) or _unexplained(sql, tokens, error)
        raise Unparsable(mistake.message, mistake.offset, mistake.hint) from None
    except RecursionError:
        raise nested_too_deeply(0) from None
    except ParserEnded:
        message = "PostgreSQL's parser does not come to an end with this file"
        raise Unparsable(message, 0, "split it into several transforms") from None
    statements = []
    for tree in trees:
        ((kind, body),) = tree["stmt"].items()
        word = text.first_word(tree.get("stmt_location", 0))
        statements.append(Statement(kind, body, text, word))
    return statements


def why_not_one_select(statements: list[Statement]) -> str | None:
    """What keeps `statements` from being exactly one SELECT (WITH, UNION and VALUES allowed); None
    when nothing."""
    if not statements:
        return "there is no SELECT"
    if len(statements) > 1:
        return f"expected one SELECT, found {len(statements)} statements"
    (statement,) = statements
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
    for statement in statements:
        body = statement.body
        command = ""
        if statement.kind == "TransactionStmt" and body["kind"] not in _SAVEPOINTS:
            command = statement.word
        elif statement.kind == "VacuumStmt" and body.get("is_vacuumcmd"):  # else it is an ANALYZE
            command = "VACUUM"
        elif body.get("concurrent"):
            command = f"{statement.word} INDEX CONCURRENTLY"
        if command:
            return f"a script runs in one transaction, found {command}"
    return None


class Text:
    """SQL with its tokens, to find the parser's locations in it again. A location counts bytes, and
    that of a qualified name is where its first part begins."""

    def __init__(self, sql: str, tokens: list[Token]):
        self.tokens = tokens
        # A lone surrogate has no encoding; none comes from a file.
        self.bytes = sql.encode(errors="replace")
        self._starts = [token.start for token in tokens]
        if not sql.isascii():
            self._starts = _byte_offsets(sql, self._starts)

    def offset(self, location: int) -> int:
        """The offset, in characters, of the token at `location`."""
        return self.tokens[self._index(location)].start

    def name_offset(self, location: int, parts: int = 1) -> int:
        """The offset of the last of the `parts` of the name at `location`."""
        dots = parts - 1
        return self.tokens[self._index(location) + 2 * dots].start

    def first_word(self, location: int) -> str:
        """The first word of the statement at `location`, in capitals."""
        at = self._index(location)
        while self.tokens[at].text in (";", "("):
            at += 1
        return self.tokens[at].text.upper()

    def _index(self, location: int) -> int:
        """The token at `location`, or the last one before it."""
        return max(bisect_right(self._starts, location) - 1, 0)


class CTEs:
    """The CTEs that a place in a statement can read: those of the WITH around it, of the WITH
    around that, and so on.

    Not a set for each place: 16,000 CTEs, of which each sees those before it, would take 6 GB.
    """

    def __init__(self, names: Mapping[str, int], count: int, outer: CTEs | None):
        self._names = names
        self._count = count
        self._outer = outer

    def __contains__(self, name: str) -> bool:
        scope: CTEs | None = self
        while scope:
            if scope._names.get(name, scope._count) < scope._count:
                return True
            scope = scope._outer
        return False


_NO_CTES = CTEs({}, 0, None)


@dataclass(frozen=True)
class Query:
    """A SELECT anywhere in a statement."""

    node: Node
    ctes: CTEs
    may_be_correlated: bool
    """Whether it may name columns of a query around it: a subquery in an expression, or LATERAL."""
    columns: list[Node]
    """The columns that it names itself, not in a query within it."""


class _Place(NamedTuple):
    """A part of the tree that is still to be visited."""

    kind: str
    node: Any
    ctes: CTEs
    query: Query | None
    """The query it belongs to."""
    may_be_correlated: bool
    """As in a Query that begins here."""


@dataclass(frozen=True)
class Statement:
    """One statement, its kind (`SelectStmt`) and body as the parser names them."""

    kind: str
    body: Node
    text: Text
    word: str
    """Its first word, in capitals."""

    @cached_property
    def nodes(self) -> list[tuple[str, Node, CTEs]]:
        """Every node in its order: its kind, or `` where its place allows only one; itself; the
        CTEs it can read."""
        return self._visited[0]

    @cached_property
    def queries(self) -> list[Query]:
        """Every SELECT in it."""
        return self._visited[1]

    @cached_property
    def _visited(self) -> tuple[list[tuple[str, Node, CTEs]], list[Query]]:
        """Not by recursion, which deep SQL would exhaust."""
        nodes: list[tuple[str, Node, CTEs]] = []
        queries: list[Query] = []
        stack = [_Place(self.kind, self.body, _NO_CTES, None, False)]
        while stack:
            kind, node, ctes, query, may_be_correlated = stack.pop()
            if isinstance(node, list):
                for item in reversed(node):
                    stack.append(_Place("", item, ctes, query, may_be_correlated))
                continue
            with_queries: list[_Place] = []
            if "withClause" in node:
                tables, ctes = _with_clause(node["withClause"], ctes)
                for table, visible in tables:
                    with_queries.append(_Place("", table, visible, query, may_be_correlated))
            if kind == "ColumnRef" and query:
                query.columns.append(node)
            elif "limitOption" in node:  # of a SELECT, and set in each
                query = Query(node, ctes, may_be_correlated, [])
                queries.append(query)
            elif kind == "SubLink" or "lateral" in node:
                may_be_correlated = True
            nodes.append((kind, node, ctes))
            # The last on the stack is visited first: the WITH, then the fields in their order.
            for key in reversed(node):
                if isinstance(node[key], (dict, list)) and key != "withClause":
                    stack.append(_Place(key, node[key], ctes, query, may_be_correlated))
            stack += reversed(with_queries)
        return nodes, queries


def _with_clause(clause: Node, outer: CTEs) -> tuple[list[tuple[Node, CTEs]], CTEs]:
    """Each query of a WITH and the CTEs it can read; and those that the statement under the WITH
    can read.

    `WITH a AS (SELECT * FROM a)` reads a real `a`: without RECURSIVE, a CTE sees only those before
    it.
    """
    tables = [table["CommonTableExpr"] for table in clause["ctes"]]
    names: dict[str, int] = {}
    for index, table in enumerate(tables):
        names.setdefault(table["ctename"], index)
    everything = CTEs(names, len(tables), outer)
    if clause.get("recursive"):
        return [(table, everything) for table in tables], everything
    return [(table, CTEs(names, index, outer)) for index, table in enumerate(tables)], everything


def _with_values(sql: str) -> str:
    """`sql` with a text of the same length in place of each named parameter."""
    pieces = []
    end = 0
    for name, offset in placeholders(sql):
        blanks = " " * (len(name) - 1)
        pieces += [sql[end:offset], f"'{blanks}'"]
        end = offset + 1 + len(name)
    return "".join([*pieces, sql[end:]])


def _without_comments(sql: str, tokens: list[Token]) -> str:
    """`sql` with blanks in place of comments, which disturb libpg_query in two ways.

    Unlike PostgreSQL it takes a comment for a token, and refuses `NOT /* */ IN` or `NULLS -- x`
    with FIRST on the next line. And in a row of comments without blanks, or of comments in
    comments, it looks for the end of an operator at each, up to the end of the row: 20,000 `/**/`
    took 5 s, and 1 MiB of them would take 15 minutes.
    """
    if "--" not in sql and "/*" not in sql:
        return sql
    pieces = []
    end = 0
    for token in tokens:
        gap = sql[end : token.start]
        # Strings on two lines are one string, also with a `-- comment` between them, but not with
        # one in `/* */`: in its place must be no end of line.
        if _TO_BLOCK_COMMENT.match(gap):
            gap = " " * len(gap)
        elif "--" in gap:
            gap = _WITHIN_A_LINE.sub(" ", gap)
        pieces += [gap, sql[token.start : token.end]]
        end = token.end
    return "".join(pieces)


def _byte_offsets(sql: str, offsets: Iterable[int]) -> list[int]:
    """How many bytes of `sql` come before each of the `offsets`, which are in ascending order."""
    found = []
    end = count = 0
    for offset in offsets:
        count += len(sql[end:offset].encode(errors="replace"))
        found.append(count)
        end = offset
    return found


def _unexplained(sql: str, tokens: list[Token], error: SyntaxRefused) -> Mistake:
    """A mistake of unknown cause: the token at which the parser gave up, or the last one at the
    end."""
    before = [token for token in tokens if token.start < error.offset]
    culprit = tokens[len(before)] if len(before) < len(tokens) else before.pop()
    message = f"cannot be read as PostgreSQL at {sql[culprit.start : culprit.end]!r}"
    if before:
        first = before[-3:][0]
        after = sql[first.start : before[-1].end]
        message += f" after {' '.join(after.split())!r}"
    if not error.message.startswith("syntax error"):
        message += f": {error.message}"
    return Mistake(culprit.start, message, _HINT)
