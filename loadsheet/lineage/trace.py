"""Which columns of tables a query's columns are made of, by PostgreSQL's own analysis of the query.

The server has resolved every name in the tree: `*`, USING, names without a table, the search path.
What is left is to follow each column (VAR) to where it comes from: through subqueries, CTEs, joins,
set operations and functions in FROM. What cannot be followed is reported and never left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from loadsheet.source.nodes import Node

How = Literal[
    "identity",
    "transformation",
    "aggregation",
    "filter",
    "join",
    "group_by",
    "sort",
    "window",
    "conditional",
]
"""How a column reaches another, as OpenLineage names it. The first three are direct: its values
arrive. The others are indirect: it decides which values or rows arrive."""
DIRECT = ("identity", "transformation", "aggregation")

_RELATION, _SUBQUERY, _JOIN, _FUNCTION, _TABLE_FUNCTION, _VALUES, _CTE = range(7)
_RESULT, _GROUP = 8, 9
"""What an entry of a query's FROM can be."""
_UNION = 1
_EXISTS = 0
# An expression of these kinds has the value of what is in it.
_SAME_VALUE = {"VAR", "TARGETENTRY", "RELABELTYPE", "COLLATEEXPR"}
_CALLS = ("funcid", "opfuncid", "aggfnoid", "winfnoid", "elemfuncid")

Step = tuple[str, str]
"""One step into a query: `("cte", name)`, `("from", alias)` or `("branch", "0")` of a UNION."""
Place = tuple[Step, ...]
"""Where a query stands within another one; empty for the outermost."""


class Origin(NamedTuple):
    """A column of a table, by oid and number, and how it reaches what is traced. Column 0 is the
    whole row, None the fact that there is a row (`count(*)`)."""

    relation: int
    column: int | None
    how: How


@dataclass
class Trace:
    """What a column of a query, or its rows, depend on."""

    origins: set[Origin] = field(default_factory=set)
    relations: set[int] = field(default_factory=set)
    """The tables whose rows are read, by oid."""
    functions: set[int] = field(default_factory=set)
    """The functions that are called, by oid."""
    passed: list[tuple[Place, int]] = field(default_factory=list)
    """The columns of queries on the way, by place and number; the outermost first."""
    unknown: set[str] = field(default_factory=set)
    """What could not be followed."""


def trace_column(query: Node, number: int) -> Trace:
    """What the query's column `number` (from 1) depends on, its rows aside."""
    walk = _Walk()
    walk.column(_Scope(query, None, ()), number, "identity")
    return walk.run()


def trace_rows(query: Node) -> Trace:
    """What decides which rows the query returns: conditions, joins, groups, limits."""
    walk = _Walk()
    walk.rows(_Scope(query, None, ()))
    return walk.run()


@dataclass(frozen=True)
class _Scope:
    """A query and the one around it, which a subquery in it may name columns of."""

    query: Node
    outer: _Scope | None
    place: Place

    def up(self, levels: int) -> _Scope:
        scope = self
        for _ in range(levels):
            assert scope.outer
            scope = scope.outer
        return scope

    def within(self, query: Node, *step: Step) -> _Scope:
        return _Scope(query, self, self.place + step)

    def entry(self, number: int) -> Node:
        return self.query.nodes("rtable")[number - 1]

    def cte(self, entry: Node) -> _Scope | None:
        """The CTE that an entry reads."""
        holder = self.up(entry.number("ctelevelsup"))
        for common in holder.query.nodes("cteList"):
            query = common.node("ctequery")
            if common["ctename"] == entry["ctename"] and query:
                return holder.within(query, ("cte", _plain(entry["ctename"])))
        return None

    def read_by(self, entry: Node) -> _Scope | None:
        """The subquery or the CTE that an entry of FROM reads; None for any other entry."""
        query = entry.node("subquery")
        if query:
            return self.within(query, ("from", _alias(entry)))
        return self.cte(entry) if entry.number("rtekind") == _CTE else None

    def branches(self) -> Iterator[tuple[_Scope, bool]]:
        """The queries of a UNION and the like, and whether their rows are returned: those behind
        EXCEPT and INTERSECT only decide."""
        left: list[tuple[Node | None, bool]] = [(self.query.node("setOperations"), True)]
        number = 0
        while left:
            one, is_returned = left.pop()
            if one is None:
                continue
            if one.kind == "RANGETBLREF":
                query = self.entry(one.number("rtindex")).node("subquery")
                assert query
                yield self.within(query, ("branch", str(number))), is_returned
                number += 1
                continue
            right_is = is_returned and one.number("op") == _UNION
            left += [(one.node("rarg"), right_is), (one.node("larg"), is_returned)]


class _Column(NamedTuple):
    number: int


class _Rows(NamedTuple):
    pass


class _Walk:
    """Collects a Trace. Without recursion, because trees are deep."""

    def __init__(self) -> None:
        self.found = Trace()
        self._left: list[tuple[Any, _Scope, How]] = []
        self._seen: set[tuple[int, int, How]] = set()

    def column(self, scope: _Scope, number: int, how: How) -> None:
        """Follow a column of a query; number 0 is all of them."""
        self._left.append((_Column(number), scope, how))

    def rows(self, scope: _Scope) -> None:
        """Follow what decides about the rows of a query."""
        self._left.append((_Rows(), scope, "filter"))

    def run(self) -> Trace:
        while self._left:
            one, scope, how = self._left.pop()
            if isinstance(one, _Column):
                self._column(scope, one.number, how)
            elif isinstance(one, _Rows):
                self._rows(scope)
            elif isinstance(one, list):
                for item in one:
                    self._left.append((item, scope, how))
            elif isinstance(one, Node):
                self._expression(one, scope, how)
        return self.found

    def _is_new(self, scope: _Scope, number: int, how: How) -> bool:
        key = (id(scope.query), number, how)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _column(self, scope: _Scope, number: int, how: How) -> None:
        if not self._is_new(scope, number, how):
            return
        if scope.query.node("setOperations"):
            for branch, is_returned in scope.branches():
                if is_returned:
                    self.column(branch, number, how)
            return
        targets = [one for one in scope.query.nodes("targetList") if one["resjunk"] != "true"]
        if number:
            targets = [one for one in targets if one.number("resno") == number]
        if not targets:
            self.found.unknown.add("it has a column that cannot be followed (SEARCH or CYCLE)")
        for target in targets:
            if how in DIRECT:
                self.found.passed.append((scope.place, target.number("resno")))
            self._left.append((target, scope, how))

    def _expression(self, node: Node, scope: _Scope, how: How) -> None:
        kind = node.kind
        for call in _CALLS:
            if node.number(call) > 0:
                self.found.functions.add(node.number(call))
        if kind == "VAR":
            self._variable(node, scope, how)
            return
        if how == "identity" and kind not in _SAME_VALUE:
            how = "transformation"
        if kind == "SUBLINK":
            self._sublink(node, scope, how)
        elif kind == "AGGREF":
            self._aggregate(node, scope, how)
        elif kind == "WINDOWFUNC":
            self._window(node, scope, how)
        elif kind in ("CASEEXPR", "CASE"):
            self._left.append((node.fields.get("arg"), scope, _decides(how)))
            self._left.append((node["defresult"], scope, how))
            for when in node.nodes("args"):
                self._left.append((when["expr"], scope, _decides(how)))
                self._left.append((when["result"], scope, how))
        else:
            self._left += [(values, scope, how) for values in node.fields.values()]

    def _variable(self, node: Node, scope: _Scope, how: How) -> None:
        scope = scope.up(max(node.number("varlevelsup"), 0))
        entry = scope.entry(node.number("varno"))
        number = node.number("varattno")
        kind = entry.number("rtekind")
        if number < 0:
            self.found.unknown.add("it uses a system column")
        elif kind == _RELATION:
            self.found.origins.add(Origin(entry.number("relid"), number, how))
        elif query := scope.read_by(entry):
            self.column(query, number, how)
        elif kind in (_JOIN, _GROUP):
            values = entry["joinaliasvars" if kind == _JOIN else "groupexprs"]
            self._left.append((values[number - 1] if number else values, scope, how))
        elif kind == _VALUES:
            for row in entry["values_lists"]:
                self._left.append((row[number - 1] if number else row, scope, how))
        elif kind == _FUNCTION:
            self._left.append((_functions(entry, number), scope, how))
        elif kind == _TABLE_FUNCTION:
            self._left.append((entry["tablefunc"], scope, how))
        else:
            self.found.unknown.add("it reads something in FROM that is not known")

    def _sublink(self, node: Node, scope: _Scope, how: How) -> None:
        self._left.append((node.fields.get("testexpr"), scope, how))
        query = node.node("subselect")
        assert query
        inner = scope.within(query, ("subquery", ""))
        self.rows(inner)
        if node.number("subLinkType") != _EXISTS:
            self.column(inner, 0, how)
        elif how in DIRECT or how == "conditional":
            self._count(inner, how)

    def _aggregate(self, node: Node, scope: _Scope, how: How) -> None:
        if how in DIRECT:
            how = "aggregation"
        self._left.append((node.fields.get("aggdirectargs"), scope, how))
        for argument in node.nodes("args"):
            # What it is only ordered by comes after its arguments.
            is_order = argument["resjunk"] == "true"
            self._left.append((argument, scope, _decides(how, "sort") if is_order else how))
        self._left.append((node.fields.get("aggfilter"), scope, _decides(how)))
        if node["aggstar"] == "true":
            self._count(scope.up(max(node.number("agglevelsup"), 0)), how)

    def _window(self, node: Node, scope: _Scope, how: How) -> None:
        if how in DIRECT:
            how = "aggregation"
        self._left.append((node.fields.get("args"), scope, how))
        self._left.append((node.fields.get("aggfilter"), scope, _decides(how)))
        if not node.nodes("args"):
            self._count(scope, how)
        for clause in scope.query.nodes("windowClause"):
            if clause["winref"] == node["winref"]:
                for name in ("partitionClause", "orderClause"):
                    self._sorted_by(clause.nodes(name), scope, _decides(how, "window"))
                for name in ("startOffset", "endOffset"):
                    self._left.append((clause.fields.get(name), scope, _decides(how, "window")))

    def _count(self, scope: _Scope, how: How) -> None:
        """The value is a number of rows."""
        for relation in _tables_of(scope):
            self.found.origins.add(Origin(relation, None, how))

    def _rows(self, scope: _Scope) -> None:
        if not self._is_new(scope, -1, "filter"):
            return
        query = scope.query
        for entry, conditions, how in _from(scope):
            if entry:
                self._entry_rows(entry, scope)
            self._left.append((conditions, scope, how))
        self._sorted_by(query.nodes("groupClause"), scope, "group_by")
        self._sorted_by(query.nodes("distinctClause"), scope, "group_by")
        for name in ("havingQual", "limitCount", "limitOffset"):
            self._left.append((query.fields.get(name), scope, "filter"))
        # The order of an inner query decides what a LIMIT around it takes, and what an aggregate or
        # a window function makes of its rows.
        is_inner = scope.outer is not None
        is_cut = query["hasDistinctOn"] == "true" or query["limitCount"] or query["limitOffset"]
        if is_inner or is_cut:
            self._sorted_by(query.nodes("sortClause"), scope, "sort")
        if query["hasTargetSRFs"] == "true":
            self._left.append((query["targetList"], scope, "filter"))
        compares = _compares_rows(query)
        for branch, is_returned in scope.branches():
            self.rows(branch)
            if compares or not is_returned:
                self.column(branch, 0, "group_by" if is_returned else "filter")

    def _entry_rows(self, entry: Node, scope: _Scope) -> None:
        """An entry of FROM: its rows become those of the query."""
        kind = entry.number("rtekind")
        if kind == _RELATION:
            self.found.relations.add(entry.number("relid"))
            self._left.append((entry.fields.get("tablesample"), scope, "filter"))
        elif query := scope.read_by(entry):
            self.rows(query)
        elif kind in (_FUNCTION, _VALUES, _TABLE_FUNCTION):
            for name in ("functions", "values_lists", "tablefunc"):
                self._left.append((entry.fields.get(name), scope, "filter"))
        elif kind != _RESULT:
            self.found.unknown.add("it reads something in FROM that is not known")

    def _sorted_by(self, clauses: list[Node], scope: _Scope, how: How) -> None:
        """The expressions that clauses of GROUP BY, ORDER BY and the like name."""
        numbers = {clause["tleSortGroupRef"] for clause in clauses}
        for target in scope.query.nodes("targetList"):
            if target["ressortgroupref"] not in numbers or target["ressortgroupref"] == "0":
                continue
            if scope.query.node("setOperations"):  # its columns are those of all branches
                self.column(scope, target.number("resno"), how)
            else:
                self._left.append((target, scope, how))


def _decides(how: How, indirect: How = "conditional") -> How:
    """How a part reaches a value of `how` that decides about it and is no part of it."""
    return indirect if how in DIRECT else how


def _from(scope: _Scope) -> Iterator[tuple[Node | None, Node | None, How]]:
    """The entries of a query's FROM, and its conditions with what they are: of a join or of
    WHERE."""
    left = [scope.query.node("jointree")]
    while left:
        one = left.pop()
        if one is None:
            continue
        if one.kind == "RANGETBLREF":
            yield scope.entry(one.number("rtindex")), None, "filter"
            continue
        yield None, one.node("quals"), "join" if one.kind == "JOINEXPR" else "filter"
        left += [*one.nodes("fromlist"), one.node("larg"), one.node("rarg")]


def _tables_of(scope: _Scope) -> set[int]:
    """The tables of which each row may be a row of the query: those of its FROM, and not those that
    a condition reads."""
    found: set[int] = set()
    left, seen = [scope], set()
    while left:
        one = left.pop()
        if id(one.query) in seen:
            continue
        seen.add(id(one.query))
        left += [branch for branch, is_returned in one.branches() if is_returned]
        for entry, _, _ in _from(one):
            if entry and entry.number("rtekind") == _RELATION:
                found.add(entry.number("relid"))
            elif entry and (query := one.read_by(entry)):
                left.append(query)
    return found


def _compares_rows(query: Node) -> bool:
    """Whether a set operation of it compares rows: all but UNION ALL do."""
    left = [query.node("setOperations")]
    while left:
        one = left.pop()
        if one is None or one.kind == "RANGETBLREF":
            continue
        if one["all"] != "true" or one.number("op") != _UNION:
            return True
        left += [one.node("larg"), one.node("rarg")]
    return False


def _alias(entry: Node) -> str:
    name = entry.node("eref") or entry.node("alias")
    return _plain(name["aliasname"]) if name else ""


def _plain(name: object) -> str:
    """A name as it is: in the tree, braces and blanks have a backslash."""
    return re.sub(r"\\(.)", r"\1", str(name))


def _functions(entry: Node, number: int) -> list[Node]:
    """The function in FROM that returns its column `number`; all of them where that is the whole
    row or the number of the row (WITH ORDINALITY)."""
    functions = entry.nodes("functions")
    end = 0
    for function in functions:
        end += function.number("funccolcount")
        if 0 < number <= end:
            return [function]
    return functions
