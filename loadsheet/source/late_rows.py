"""Views in which a row may appear long after its cursor was stamped, below a watermark by then.

An increment reads a row of a view only if it appears when the row of the table is written. So it is
where each row of the view is a row of one table, and only constants and the row's own columns
decide whether it is shown: plain columns, a condition, UNION, views of such views. A row of a join
appears with its second half, one of DISTINCT ON when another row goes, one below `at < now()` as
time passes. What is known here is read, and all else needs a lookback.

Values count as rows: the columns of a LEFT JOIN, a sub-query or an aggregate change while the
cursor stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadsheet.source import nodes
from loadsheet.source.nodes import Node

_RELATION, _SUBQUERY, _FUNCTION, _VALUES, _CTE, _RESULT = 0, 1, 3, 5, 6, 8
"""What an entry of a query's FROM can be."""
_UNION = 1
# What a query can have: whatever is not here must be empty.
_HARMLESS = {
    *("commandType", "querySource", "canSetTag", "stmt_location", "stmt_len", "rteperminfos"),
    *("targetList", "rtable", "jointree", "cteList", "setOperations", "hasTargetSRFs"),
    # Equal rows have an equal cursor, so the first of them is written with it.
    "distinctClause",
    # They give the rows an order, a lock and a name.
    *("sortClause", "rowMarks", "hasForUpdate", "windowClause"),
    # Set by WITH RECURSIVE, also where no query reads itself.
    "hasRecursive",
}
_HIDING = {
    "hasDistinctOn": "it has DISTINCT ON",
    "groupClause": "it has GROUP BY",
    "hasGroupRTE": "it has GROUP BY",  # since PostgreSQL 18
    "groupingSets": "it has GROUP BY",
    "havingQual": "it has HAVING",
    "hasAggs": "it aggregates rows",
    "hasWindowFuncs": "it has a window function",
    "hasSubLinks": "it has a sub-query",
    "limitCount": "it has LIMIT",
    "limitOffset": "it has OFFSET",
}
_EMPTY = ("<>", "false", "0", "-1")
_EXPRESSIONS = {
    *("VAR", "CONST", "OPEXPR", "FUNCEXPR", "BOOLEXPR", "NULLTEST", "BOOLEANTEST", "DISTINCTEXPR"),
    *("NULLIFEXPR", "SCALARARRAYOPEXPR", "ARRAYEXPR", "COALESCEEXPR", "MINMAXEXPR", "CASEEXPR"),
    *("CASEWHEN", "CASETESTEXPR", "RELABELTYPE", "COLLATEEXPR", "SUBSCRIPTINGREF", "COERCEVIAIO"),
    *("ARRAYCOERCEEXPR", "FIELDSELECT", "ROWEXPR", "NAMEDARGEXPR", "COERCETODOMAIN"),
}
_HOLDERS = {"TARGETENTRY": "expr", "RANGETBLFUNCTION": "funcexpr"}
"""Nodes that are no expressions, and the field that has one."""
_UNKNOWN_ENTRY = "it has an entry of FROM that is not known"
_TIME_OF_THE_STANDARD = 8
"""The last of the SQLVALUEFUNCTIONs that tell the time; the others tell a name."""
# PostgreSQL's own functions that depend on settings alone, which our sessions pin: comparisons and
# casts between times with and without a zone, parts and rows of times, texts and JSON of values.
_BY_SETTINGS = {
    *range(2351, 2358),
    *range(2377, 2384),
    *range(2520, 2534),
    *(1171, 6203, 1174, 1176, 1178, 1189, 1190, 1217, 1284, 2019, 2027, 2028, 2549),
    *(1770, 2049, 1768, *range(1772, 1777), 1778, 1780),
    *(939, 1388, 3462, 3463, 6221, 6223),
    *(3058, 3059, 3539, 3540, 384, 395, 2003, 2004, 1285, 1290, 1714, 1717),
    *(*range(3153, 3157), 3176, *range(3198, 3202), *range(3271, 3275), 3787),
}
# bool, the numbers, texts, uuid, JSON, bytea. Into a time, the text 'now' gives the present.
_READ_FROM_TEXT = {16, 17, 19, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1700, 2950, 3802}


@dataclass(frozen=True)
class View:
    """A view, as the catalogs have it."""

    name: str
    action: str
    """Its query, as a tree of nodes."""
    functions: Mapping[str, str | None]
    """The functions that it calls, by oid: their names where they are not immutable."""


def why_late(views: Sequence[View]) -> str:
    """Why a row may appear late in one of these views, for messages; empty where none can. The
    first view is the one that is read, the others are below it."""
    for view in views:
        query = nodes.query_of(view.action)
        try:
            _Walk(view.functions).query(query, is_inner=view is not views[0])
        except (_Late, RecursionError) as found:
            why = found if isinstance(found, _Late) else "its query is nested too deeply"
            return f"a row may appear in view {view.name} with an old cursor, because {why}"
    return ""


class _Late(Exception):
    """What in a view may show a row late."""


class _Walk:
    """Looks through the query of one view. Raises _Late for what is not known."""

    def __init__(self, functions: Mapping[str, str | None]):
        self._functions = functions

    def query(self, query: Node, is_inner: bool) -> None:
        """A query. Where it is inner, a condition outside may use each of its columns."""
        for name, values in query.fields.items():
            if not (name in _HARMLESS or _is_empty(values) or _is_no_limit(name, query)):
                raise _Late(_HIDING.get(name, f"it has a part that is not known ({name})"))
        for common in query.nodes("cteList"):
            if common["cterecursive"] != "false":
                raise _Late("it is recursive (WITH RECURSIVE)")
            self._inner(common, "ctequery", is_inner=True)
        union = query.node("setOperations")
        if union is not None:
            _refuse_differences(union)
        self._from(query, is_inner)
        if is_inner or query["hasTargetSRFs"] == "true":
            self._expression(query.nodes("targetList"), "it has a column whose expression")

    def _from(self, query: Node, is_inner: bool) -> None:
        """The entries of FROM, the conditions upon them, and the branches of a UNION."""
        entries = query.nodes("rtable")
        sources, conditions = _parts(query)
        self._expression(conditions, "it has a condition that")
        tables = 0
        for place in sources:
            if not 0 < place <= len(entries):
                raise _Late(_UNKNOWN_ENTRY)
            entry = entries[place - 1]
            kind = entry.number("rtekind")
            if entry.node("tablesample") is not None:
                raise _Late("it reads a part of the rows (TABLESAMPLE)")
            if kind in (_RELATION, _SUBQUERY, _CTE):
                tables += _has_table(entry, query)
            elif kind in (_FUNCTION, _VALUES):
                rows = entry.fields.get("functions" if kind == _FUNCTION else "values_lists")
                if rows is None:
                    raise _Late(_UNKNOWN_ENTRY)
                self._expression(rows, "it has an entry of FROM that")
            elif kind != _RESULT:
                raise _Late(_UNKNOWN_ENTRY)
            if kind == _SUBQUERY:
                self._inner(entry, "subquery", is_inner or bool(conditions))
        if tables > 1 and query.node("setOperations") is None:
            raise _Late("it joins tables")

    def _inner(self, holder: Node, field: str, is_inner: bool) -> None:
        inner = holder.node(field)
        if inner is None:
            raise _Late("it has a query that is not known")
        self.query(inner, is_inner)

    def _expression(self, parts: Sequence[Any], where: str) -> None:
        """Expressions over the row's own columns. Without recursion, because trees are deep."""
        left = list(parts)
        while left:
            one = left.pop()
            if isinstance(one, list):
                left.extend(one)
            elif isinstance(one, Node) and one.kind in _HOLDERS:
                left.append(one[_HOLDERS[one.kind]])
            elif isinstance(one, Node):
                self._refuse_unknown(one, where)
                left.extend(one.fields.values())

    def _refuse_unknown(self, node: Node, where: str) -> None:
        if node.kind == "SQLVALUEFUNCTION":
            tells = "a name of the session"
            if node.number("op") <= _TIME_OF_THE_STANDARD:
                tells = "the time"
            raise _Late(f"{where} asks for {tells}")
        if node.kind not in _EXPRESSIONS:
            raise _Late(f"{where} is not known ({node.kind})")
        if node.kind == "VAR" and node.number("varattno") < 0:
            raise _Late(f"{where} uses a system column")
        if node.kind == "COERCEVIAIO" and node.number("resulttype") not in _READ_FROM_TEXT:
            raise _Late(f"{where} reads a value from a text")
        for field in ("funcid", "opfuncid", "elemfuncid"):
            function = node.number(field)
            if function <= 0 or function in _BY_SETTINGS:
                continue
            name = self._functions.get(str(function), str(function))
            if name is not None:
                raise _Late(f"{where} calls {name}, which is not immutable")


def _has_table(entry: Node, query: Node) -> bool:
    """Whether an entry of the query's FROM reads a table: one of constants, or of the columns of
    another entry (LATERAL), shows nothing late."""
    left: list[Any] = [entry]
    if entry.number("rtekind") == _CTE and entry.number("ctelevelsup") == 0:
        name = entry["ctename"]
        left = [one["ctequery"] for one in query.nodes("cteList") if one["ctename"] == name]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(one)
        elif isinstance(one, Node):
            # What one WITH reads from another is not followed.
            if one.fields.get("rtekind") in ([str(_RELATION)], [str(_CTE)]):
                return True
            left.extend(one.fields.values())
    return False


def _is_empty(values: list[Any]) -> bool:
    return all(value in _EMPTY for value in values)


def _is_no_limit(name: str, query: Node) -> bool:
    """Whether it is LIMIT ALL or OFFSET 0."""
    if name not in ("limitCount", "limitOffset", "limitOption"):
        return False
    if name == "limitOption":
        return True  # how a LIMIT counts
    value = query.node(name)
    if value is not None and value.kind == "FUNCEXPR":
        value = next(iter(value.nodes("args")), None)  # a cast
    if value is None or value.kind != "CONST":
        return False
    if value["constisnull"] == "true":
        return True
    digits = value.fields.get("constvalue", [])[2:-1]
    return name == "limitOffset" and bool(digits) and all(digit == "0" for digit in digits)


def _refuse_differences(union: Node) -> None:
    if union.number("op") != _UNION:
        raise _Late("it has EXCEPT or INTERSECT")
    for side in ("larg", "rarg"):
        inner = union.node(side)
        if inner is not None and inner.kind != "RANGETBLREF":
            _refuse_differences(inner)


def _parts(query: Node) -> tuple[list[int], list[Node]]:
    """The places of the entries that FROM or a UNION is of, and the conditions of WHERE and ON."""
    sources = []
    conditions = []
    left = [query.node("jointree"), query.node("setOperations")]
    while left:
        one = left.pop()
        if one is None:
            continue
        if one.kind == "RANGETBLREF":
            sources.append(one.number("rtindex"))
            continue
        left += [*one.nodes("fromlist"), one.node("larg"), one.node("rarg")]
        condition = one.node("quals")
        if condition is not None:
            conditions.append(condition)
    return sources, conditions
