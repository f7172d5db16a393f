"""Whether a SELECT may show any of several values that are equal.

1.0 and 1.00 are one group, and the order in which the rows are read decides which of them is shown.
DISTINCT, UNION, min() and max() choose in the same way. So what is chosen must be of one form: of a
column whose type has one (`types.has_one_form`), or made of such columns by what keeps it so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from loadsheet.sql.parsing import Node, Statement
from loadsheet.sql.types import SAME_WHEN_EQUAL, has_one_form

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
# Their values come from any of several expressions, with the digits of each.
_MIXING = ("CaseExpr", "CoalesceExpr", "MinMaxExpr")
_ANY = "*"
"""Instead of a name: all columns of a relation."""


class _Known(NamedTuple):
    """What is known of the names in a statement."""

    relations: set[str]
    alike: set[str]


class _Leaves(NamedTuple):
    """What decides whether an expression has one form."""

    has_many: bool
    """Whatever its columns are."""
    names: frozenset[str]
    """Of its columns. If one of them has many forms, so may the expression."""


def may_choose(statement: Statement, columns: Mapping[str, Collection[str]]) -> bool:
    """Whether a value that is chosen from among equal ones may have several forms. `columns` are
    those of the tables, with the types that each name has."""
    known = _Known(relation_names(statement), _alike(statement, columns))
    chosen = [_leaves(node, known) for node in _chosen(statement)]
    if not chosen:
        return False
    many_forms = {name for name, types in columns.items() if not all(map(has_one_form, types))}
    many = _spread(statement, many_forms, known)
    return any(leaves.has_many or leaves.names & many for leaves in chosen)


def _alike(statement: Statement, columns: Mapping[str, Collection[str]]) -> set[str]:
    """The columns whose values have one form also next to those of another column or a constant: a
    numeric(10,2) has not, since 0 equals 0.00."""
    names = {name for name, types in columns.items() if set(types) <= set(SAME_WHEN_EQUAL)}
    if len(names) == len(columns):
        names.add(_ANY)
    # Unless the statement gives the name to something else.
    for kind, node, _ in statement.nodes:
        if kind == "ResTarget" and "name" in node:
            fields = node["val"].get("ColumnRef", {}).get("fields")
            if not fields or _last(fields) != node["name"]:
                names.discard(node["name"])
    return names


def relation_names(statement: Statement) -> set[str]:
    """The names by which the statement can read a whole row: of its tables, CTEs and aliases."""
    names: set[str] = set()
    for _, node, _ in statement.nodes:
        names.update(str(node[key]) for key in ("aliasname", "relname") if key in node)
    return names


def _chosen(statement: Statement) -> Iterator[Node]:
    """The expressions of which one of several equal values is shown."""
    for arms, may_choose_one in _unions(statement):
        if may_choose_one:
            yield _mixed(arms)
    for kind, node, _ in statement.nodes:
        targets = node.get("targetList", [])
        for group in _groups(node):
            number = group.get("A_Const", {}).get("ival", {}).get("ival")
            if number and not any(map(_is_star, targets)):
                group = targets[number - 1]
            # A star stands for any number of columns.
            yield from targets if number and "A_Const" in group else [group]
        if "distinctClause" in node:
            yield from targets
        if kind == "FuncCall":
            name = _last(node["funcname"])
            is_sum = name in ("sum", "avg") and node.get("agg_distinct")
            if is_sum or name in ("min", "max"):
                yield from node.get("args", ())


def _is_star(target: Node) -> bool:
    fields = target["ResTarget"]["val"].get("ColumnRef", {}).get("fields", [{}])
    return "A_Star" in fields[-1]


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


def _unions(statement: Statement) -> Iterator[tuple[list[Node], bool]]:
    """The arms of each UNION, INTERSECT or EXCEPT, and whether equal rows become one."""
    seen: set[int] = set()
    for _, node, _ in statement.nodes:
        if node.get("op") not in _SET_OPERATIONS or id(node) in seen:
            continue
        arms: list[Node] = []
        chooses = False
        stack = [node]
        while stack:
            arm = stack.pop()
            seen.add(id(arm))
            if arm["op"] in _SET_OPERATIONS:
                chooses = chooses or not arm.get("all")
                stack += [arm["larg"], arm["rarg"]]
            else:
                arms.append(arm)
        yield arms, chooses


def _mixed(arms: list[Node]) -> Node:
    """What the arms show, which are values of one column as those of a coalesce() are."""
    shown = [part for arm in arms for part in _shown(arm)]
    return {"CoalesceExpr": {"args": shown}}


def _shown(select: Node) -> Iterator[Node]:
    stack = [select]
    while stack:
        arm = stack.pop()
        yield from (*arm.get("targetList", ()), *arm.get("valuesLists", ()))
        stack += [arm[side] for side in ("larg", "rarg") if side in arm]


def _spread(statement: Statement, many: set[str], known: _Known) -> set[str]:
    """`many`, and the names that subqueries give to what may have many forms."""
    begins: set[str] = set(many)
    makes: dict[str, set[str]] = {}
    for arms, _ in _unions(statement):
        # The first arm gives the names.
        names = {name for arm in arms for part in _shown(arm) for name in _names_shown(part)}
        leaves = _leaves(_mixed(arms), known)
        if leaves.has_many:
            begins |= names
        for name in leaves.names:
            makes.setdefault(name, set()).update(names)
    for kind, node, _ in statement.nodes:
        names = set()
        leaves = _Leaves(False, frozenset((_ANY,)))
        if kind == "ResTarget":
            leaves = _leaves(node["val"], known)
            names = _names_shown({kind: node})
        elif "valuesLists" in node:
            leaves = _leaves(_mixed([node]), known)
            names = {name for row in node["valuesLists"] for name in _names_shown(row)}
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


def _names_shown(part: Node) -> set[str]:
    """The names of a column, or of the columns of a row of VALUES."""
    if "List" in part:
        return {f"column{place + 1}" for place in range(len(part["List"]["items"]))}
    target = part["ResTarget"]
    return {target["name"]} if "name" in target else _names_of(target["val"])


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


def _leaves(expression: Node, known: _Known) -> _Leaves:
    """Not by recursion, which deep SQL would exhaust."""
    names: set[str] = set()
    has_many = False
    # Each part, and whether it stands next to others that are values of the same column.
    waiting: list[tuple[Any, bool]] = [(expression, False)]
    while waiting:
        part, is_mixed = waiting.pop()
        if isinstance(part, list):
            waiting += [(item, is_mixed) for item in part]
            continue
        if not isinstance(part, dict):
            continue
        stack: list[Any] = []
        for kind, node in part.items():
            is_mixed = is_mixed or kind in _MIXING
            if kind == "ColumnRef":
                name = _last(node["fields"]) or _ANY
                names.add(name)
                has_many = has_many or (is_mixed and name not in known.alike)
                if len(node["fields"]) == 1 and name in known.relations:
                    names.add(_ANY)
            elif kind == "A_Indirection":
                names.add(_last(node["indirection"]) or _ANY)
                stack.append(node["arg"])
            elif kind == "A_Const":
                has_many = has_many or "fval" in node
            elif kind == "TypeCast":
                has_many = has_many or not _has_one_form(node["typeName"], is_mixed)
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
        waiting += [(item, is_mixed) for item in stack]
    return _Leaves(has_many, frozenset(names))


def _has_one_form(type_name: Node, is_mixed: bool) -> bool:
    if "arrayBounds" in type_name or len(type_name["names"]) > 2:
        return False
    if len(type_name["names"]) == 2 and type_name["names"][0]["String"]["sval"] != "pg_catalog":
        return False
    name = _last(type_name["names"])
    is_fixed = name in ("numeric", "bpchar") and "typmods" in type_name
    return name in _ONE_FORM_TYPES or (is_fixed and not is_mixed)


def _last(parts: list[Node]) -> str:
    """The last name of the parser's list; empty for a star or a subscript."""
    return str(parts[-1].get("String", {}).get("sval", ""))
