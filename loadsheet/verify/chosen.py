"""Whether a SELECT may show any of several values that are equal.

1.0 and 1.00 are one group, and the order in which the rows are read decides which of them is shown.
DISTINCT, UNION, min() and max() choose in the same way. So what is chosen must be of one form: of a
column whose type has one (`types.has_one_form`), or made of such columns by what keeps it so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from loadsheet.sql.parsing import Node, Statement

_SET_OPERATIONS = ("SETOP_UNION", "SETOP_INTERSECT", "SETOP_EXCEPT")
# Their result is true or false. That of `BETWEEN` and `IN` is, too.
_COMPARISONS = frozenset("= <> < > <= >= ~~ !~~ ~~* !~~* ~ !~ ~* !~* @> <@ && @@".split())
_COMPARING = frozenset(
    "AEXPR_IN AEXPR_BETWEEN AEXPR_NOT_BETWEEN AEXPR_BETWEEN_SYM AEXPR_NOT_BETWEEN_SYM"
    " AEXPR_DISTINCT AEXPR_NOT_DISTINCT AEXPR_LIKE AEXPR_ILIKE AEXPR_SIMILAR"
    " AEXPR_OP_ANY AEXPR_OP_ALL".split()
)
# How many digits they return, or whether days or hours, depends on more than the value.
_MANY_FORMS = frozenset("avg to_number make_interval justify_days justify_hours timezone".split())
_ONE_FORM_TYPES = frozenset(
    "int2 int4 int8 oid bool uuid bytea text varchar date time timestamp timestamptz".split()
)
_COLLATIONS = frozenset(("C", "POSIX", "default", "C.utf8", "ucs_basic", "unicode"))
# The names that PostgreSQL gives to columns without one, besides those that stand in them.
_GIVEN_NAMES = ("case", "coalesce", "greatest", "least", "array", "row", "grouping", "?column?")
_ANY = "*"
"""Instead of a name: all columns of a relation."""


class _Leaves(NamedTuple):
    """What decides whether an expression has one form."""

    has_many: bool
    """Whatever its columns are."""
    names: frozenset[str]
    """Of its columns. If one of them has many forms, so may the expression."""


def may_choose(statement: Statement, many_forms: Collection[str]) -> bool:
    """Whether a value that is chosen from among equal ones may have several forms. `many_forms` are
    the columns of the tables that do."""
    relations = relation_names(statement)
    chosen = [_leaves(node, relations) for node in _chosen(statement)]
    if not chosen:
        return False
    many = _spread(statement, set(many_forms), relations)
    return any(leaves.has_many or leaves.names & many for leaves in chosen)


def relation_names(statement: Statement) -> set[str]:
    """The names by which the statement can read a whole row: of its tables, CTEs and aliases."""
    names: set[str] = set()
    for _, node, _ in statement.nodes:
        names.update(str(node[key]) for key in ("aliasname", "relname") if key in node)
    return names


def _chosen(statement: Statement) -> Iterator[Node]:
    """The expressions of which one of several equal values is shown."""
    for kind, node, _ in statement.nodes:
        targets = node.get("targetList", [])
        for group in _groups(node):
            number = group.get("A_Const", {}).get("ival", {}).get("ival")
            yield targets[number - 1] if number and number <= len(targets) else group
        if "distinctClause" in node:
            yield from targets
        if node.get("op") in _SET_OPERATIONS and not node.get("all"):
            yield from _shown(node)
        if kind == "FuncCall":
            name = _last(node["funcname"])
            is_sum = name in ("sum", "avg") and node.get("agg_distinct")
            if is_sum or name in ("min", "max"):
                yield from node.get("args", ())


def _groups(select: Node) -> Iterator[Node]:
    stack = list(select.get("groupClause", ()))
    while stack:
        group = stack.pop()
        if "GroupingSet" in group:
            stack += group["GroupingSet"].get("content", ())
        elif "List" in group:
            stack += group["List"].get("items", ())
        elif "RowExpr" in group:
            stack += group["RowExpr"].get("args", ())
        else:
            yield group


def _shown(select: Node) -> Iterator[Node]:
    """What the arms of a UNION show."""
    stack = [select]
    while stack:
        arm = stack.pop()
        yield from arm.get("targetList", ())
        yield from arm.get("valuesLists", ())
        stack += [arm[side] for side in ("larg", "rarg") if side in arm]


def _spread(statement: Statement, many: set[str], relations: Collection[str]) -> set[str]:
    """`many`, and the names that subqueries give to what may have many forms."""
    begins: set[str] = set(many)
    makes: dict[str, set[str]] = {}
    for kind, node, _ in statement.nodes:
        names: set[str] = set()
        leaves = _Leaves(False, frozenset((_ANY,)))
        if kind == "ResTarget":
            leaves = _leaves(node["val"], relations)
            names = {node["name"]} if "name" in node else _names_of(node["val"])
        elif "valuesLists" in node:
            leaves = _leaves({"values": node["valuesLists"]}, relations)
            width = max(len(row["List"]["items"]) for row in node["valuesLists"])
            names = {f"column{number}" for number in range(1, width + 1)}
        for key in ("colnames", "aliascolnames"):
            names.update(name["String"].get("sval", "") for name in node.get(key, ()))
        if leaves.has_many:
            begins |= names
        for name in leaves.names:
            makes.setdefault(name, set()).update(names)
    found: set[str] = set()
    waiting = [*begins, _ANY] if begins else []
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += makes.get(name, ())
    return found


def _names_of(value: Node) -> set[str]:
    """The names that a column of this value may have where it is given none."""
    names = set(_GIVEN_NAMES)
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            if isinstance(part.get("sval"), str):
                names.add(part["sval"])
            stack += part.values()
    return names


def _leaves(expression: Node, relations: Collection[str]) -> _Leaves:
    """Not by recursion, which deep SQL would exhaust."""
    names: set[str] = set()
    has_many = False
    stack: list[Any] = [expression]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
            continue
        if not isinstance(part, dict):
            continue
        for kind, node in part.items():
            if kind == "ColumnRef":
                name = _last(node["fields"]) or _ANY
                names.add(name)
                if len(node["fields"]) == 1 and name in relations:
                    names.add(_ANY)
            elif kind == "A_Indirection":
                names.add(_last(node["indirection"]) or _ANY)
                stack.append(node["arg"])
            elif kind == "A_Const":
                has_many = has_many or "fval" in node
            elif kind == "TypeCast":
                has_many = has_many or not _has_one_form(node["typeName"])
            elif kind == "FuncCall":
                name = _last(node["funcname"])
                has_many = has_many or name in _MANY_FORMS
                if name != "count":
                    stack.append(node.get("args", []))
            elif kind == "CollateClause":
                # A collation may take 'a' and 'A' for equal.
                has_many = has_many or _last(node["collname"]) not in _COLLATIONS
                stack.append(node.get("arg"))
            elif kind == "A_Expr":
                operator = _last(node["name"])
                if node["kind"] not in _COMPARING and operator not in _COMPARISONS:
                    # 1 / 2.0 has other digits than 10 / 20.0.
                    has_many = has_many or operator == "/"
                    stack += [node.get("lexpr"), node.get("rexpr")]
            elif kind == "SubLink":
                if node["subLinkType"] in ("EXPR_SUBLINK", "ARRAY_SUBLINK"):
                    stack += _shown(node["subselect"]["SelectStmt"])
            elif kind not in ("BoolExpr", "NullTest", "BooleanTest"):
                stack.append(node)
    return _Leaves(has_many, frozenset(names))


def _has_one_form(type_name: Node) -> bool:
    if "arrayBounds" in type_name or len(type_name["names"]) > 2:
        return False
    if len(type_name["names"]) == 2 and type_name["names"][0]["String"]["sval"] != "pg_catalog":
        return False
    name = _last(type_name["names"])
    return name in _ONE_FORM_TYPES or (name in ("numeric", "bpchar") and "typmods" in type_name)


def _last(parts: list[Node]) -> str:
    """The last name of the parser's list; empty for a star or a subscript."""
    return str(parts[-1].get("String", {}).get("sval", ""))
