"""The text of a column's expression, as the SQL file has it: the server's tree no longer tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from loadsheet.lineage.trace import Place
from loadsheet.redact import masked
from loadsheet.sql.parsing import Node, Statement, parse
from loadsheet.sql.tokens import Token, line_and_column

# What may follow the last expression of a SELECT.
_ENDS = frozenset(
    ("from", "into", "where", "group", "having", "window", "union", "except", "intersect")
    + ("order", "limit", "offset", "fetch", "for")
)
# After these, one of them belongs to the expression: `IS DISTINCT FROM`, `WITHIN GROUP`, `t.limit`.
_WITHIN = frozenset(("distinct", "within", ".", "as"))


@dataclass(frozen=True)
class Expression:
    """An expression in a SQL file. `within` names the CTE or subquery that it stands in; empty in
    the outermost SELECT."""

    text: str
    line: int
    within: str = ""
    is_name: bool = False
    """Whether it is only the name of a column."""


class Expressions:
    """The expressions of one SELECT."""

    def __init__(self, sql: str):
        self._sql = sql
        [self._statement] = parse(sql)

    def of(self, passed: Iterable[tuple[Place, int]]) -> list[Expression]:
        """The expressions of these columns of queries, each once; those that a `*` stands for are
        left out."""
        found: dict[Expression, None] = {}
        for place, number in passed:
            select = _select_at(self._statement.body, place)
            targets = [item["ResTarget"] for item in (select or {}).get("targetList", ())]
            if number > len(targets) or any(_is_star(target) for target in targets):
                continue
            within = next((name for _, name in reversed(place) if not name.isdecimal()), "")
            found[self._expression(targets[number - 1], within)] = None
        return list(found)

    def _expression(self, target: Node, within: str) -> Expression:
        tokens = list(_tokens_of(self._statement, target))
        text = ""
        end = tokens[0].start
        for token in tokens:
            # Comments and ends of lines become blanks.
            text += (" " if token.start > end else "") + self._sql[token.start : token.end]
            end = token.end
        line, _ = line_and_column(self._sql, tokens[0].start)
        return Expression(masked(text), line, within, "ColumnRef" in target.get("val", {}))


def _tokens_of(statement: Statement, target: Node) -> Iterator[Token]:
    """The tokens of an expression in a SELECT list, without its `AS name`."""
    start = statement.text.offset(target["location"])
    found: list[Token] = []
    depth = 0
    for token in statement.text.tokens:
        if token.start < start:
            continue
        if token.kind == "sign" and token.text in "([":
            depth += 1
        elif token.kind == "sign" and token.text in ")]":
            depth -= 1
        before = found[-1].text if found else "."
        is_end = token.kind == "word" and token.text in _ENDS and before not in _WITHIN
        if depth < 0 or (depth == 0 and (is_end or token.text in (",", ";"))):
            break
        found.append(token)
    if "name" in target and len(found) > 1:
        del found[-2 if found[-2].text == "as" else -1 :]
    return iter(found)


def _is_star(target: Node) -> bool:
    fields = target.get("val", {}).get("ColumnRef", {}).get("fields", ())
    return any("A_Star" in item for item in fields)


def _select_at(select: Node, place: Place) -> Node | None:
    """The query at a place of the parser's tree; None where it is not found."""
    found: Any = select
    for kind, name in place:
        if kind == "cte":
            ctes = [one["CommonTableExpr"] for one in found.get("withClause", {}).get("ctes", ())]
            found = next((one["ctequery"] for one in ctes if one["ctename"] == name), {})
        elif kind == "from":
            found = next((query for alias, query in _subqueries(found) if alias == name), {})
        elif kind == "branch":
            branches = list(_branches(found, is_outermost=True))
            found = {"SelectStmt": branches[int(name)]} if int(name) < len(branches) else {}
        else:
            return None
        found = found.get("SelectStmt")
        if found is None:
            return None
    return found  # type: ignore[no-any-return]


def _subqueries(select: Node) -> Iterator[tuple[str, Node]]:
    """The subqueries in its FROM, and their aliases."""
    left = list(select.get("fromClause", ()))
    while left:
        ((kind, node),) = left.pop().items()
        if kind == "JoinExpr":
            left += [node["larg"], node["rarg"]]
        elif kind == "RangeSubselect":
            yield node.get("alias", {}).get("aliasname", ""), node["subquery"]


def _branches(select: Node, is_outermost: bool = False) -> Iterator[Node]:
    """The queries of a UNION and the like in their order, as PostgreSQL divides it: one in
    parentheses with an ORDER BY of its own is one query."""
    left = [(select, is_outermost)]
    while left:
        one, is_outer = left.pop()
        own = any(name in one for name in ("sortClause", "limitCount", "withClause"))
        if "larg" not in one or (own and not is_outer):
            yield one
        else:
            left += [(one["rarg"], False), (one["larg"], False)]
