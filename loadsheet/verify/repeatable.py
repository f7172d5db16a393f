"""Whether a SELECT must return the same rows each time it reads the same tables.

The server's own labels do not tell: `now()` is stable, and so is `to_char`; `row_number()` is
immutable, and numbers rows that tie in any order. So the SELECT may consist of parts that are known
here, and of no other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from loadsheet.sql.parsing import Node, Statement
from loadsheet.sql.types import without_modifier
from loadsheet.verify.chosen import may_choose, relation_names

# The parser's nodes, without those of values of the moment (CURRENT_DATE), windows, row locks,
# samples and functions in FROM. The names of fields begin with a small letter.
_NODES = frozenset(
    """
    A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star Alias BitString Boolean BooleanTest
    BoolExpr CaseExpr CaseWhen CoalesceExpr CollateClause ColumnRef CommonTableExpr Float FuncCall
    GroupingFunc GroupingSet Integer JoinExpr List MinMaxExpr NullTest RangeSubselect RangeVar
    ResTarget RowExpr SelectStmt SortBy String SubLink TypeCast TypeName WithClause
    """.split()
)
_FUNCTIONS = frozenset(
    """
    count sum avg min max bool_and bool_or every bit_and bit_or
    lower upper initcap length char_length character_length octet_length btrim ltrim rtrim trim
    substring substr left right replace concat concat_ws split_part lpad rpad position strpos
    reverse repeat translate md5 starts_with regexp_replace regexp_match like_escape overlay
    abs round trunc ceil ceiling floor sign mod div
    to_char to_number to_date to_timestamp date_trunc date_bin extract make_date make_time
    make_interval justify_days justify_hours timezone overlaps isfinite
    num_nulls num_nonnulls array_length cardinality array_to_string
    """.split()
)
# Those that return no floating-point numbers for others. Division of money does.
_OPERATORS = frozenset(
    """
    + - * / % || = <> < > <= >= ~~ !~~ ~~* !~~* ~ !~ ~* !~* -> ->> #> #>> @> <@ && ? ?| ?&
    BETWEEN
    """.split()
)
# The last digits of a sum of these depend on the order in which the rows are read.
_ORDERED_SUMS = frozenset(("sum", "avg"))
# Nothing that is made of these by the functions and operators above is a floating-point number.
_EXACT_NAMES = frozenset(
    """
    int2 int4 int8 numeric oid text varchar bpchar char name bool uuid bytea bit varbit json jsonb
    date time timetz timestamp timestamptz interval inet cidr macaddr macaddr8
    """.split()
)
_EXACT_TYPES = frozenset(
    (
        *("smallint", "integer", "bigint", "numeric", "oid", "boolean", "uuid", "bytea"),
        *("text", "character varying", "character", "bpchar", '"char"', "name"),
        *("bit", '"bit"', "bit varying", "json", "jsonb", "date", "interval"),
        *("time without time zone", "time with time zone"),
        *("timestamp without time zone", "timestamp with time zone"),
        *("inet", "cidr", "macaddr", "macaddr8"),
    )
)
_TIME_NAMES = frozenset(("date", "time", "timetz", "timestamp", "timestamptz"))
_TEXTLESS_TYPES = frozenset(
    (
        *("smallint", "integer", "bigint", "numeric", "boolean", "date", "interval"),
        *("time without time zone", "time with time zone"),
        *("timestamp without time zone", "timestamp with time zone"),
    )
)
_FLOAT_NAMES = frozenset(("float4", "float8", "float", "real"))
_SYSTEM_COLUMNS = frozenset(("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"))
# A text with one of these may become a time when the SELECT is read: 'yesterday 08:00', or
# '{today}' as an array.
_MOMENT = re.compile("(?<![a-z])(now|today|tomorrow|yesterday)(?![a-z])", re.IGNORECASE)


def why_not_repeatable(statement: Statement, columns: Mapping[str, Collection[str]]) -> str:
    """Why the SELECT may return other rows each time, for messages; empty if it must return the
    same ones.

    `columns` are those of the tables that it reads: by their names, the types that they have.
    """
    exact = {name for name, types in columns.items() if all(map(_is_exact, types))}
    relations = relation_names(statement)
    known = columns.keys() | relations | _made_names(statement)
    inexact = columns.keys() - exact
    has_floats = False
    sums = False
    for kind, node, _ in statement.nodes:
        if "over" in node:
            return "it numbers or sums rows in a window"
        if "limitCount" in node or "limitOffset" in node:
            return "it has a LIMIT or an OFFSET"
        if any(node.get("distinctClause", ())):
            return "it has DISTINCT ON"
        if kind[:1].isupper() and kind not in _NODES:
            return f"it has a part that is not known to be repeatable ({kind})"
        if kind == "FuncCall":
            name = _name_of(node["funcname"])
            if name not in _FUNCTIONS:
                return f"it calls {name}()"
            sums = sums or name in _ORDERED_SUMS
        elif kind == "A_Expr" and not _is_known_operator(_name_of(node["name"])):
            return f"it has the operator {_name_of(node['name'])}"
        elif kind in ("ColumnRef", "A_Indirection"):
            fields = node.get("fields") or node["indirection"]
            for name in _field_names(fields[-1:] if kind == "ColumnRef" else fields):
                # Of a row, t.f may be a call: f(t).
                if name not in known or name in _SYSTEM_COLUMNS:
                    return f"it reads {name}, which is no column of its tables"
                has_floats = has_floats or name in inexact
            # A star, or a name that may stand for a whole row.
            is_whole = "A_Star" in fields[-1] or (len(fields) == 1 and _is_row(fields, relations))
            has_floats = has_floats or (is_whole and bool(inexact))
        elif kind == "TypeName" or "typemod" in node:
            name = _name_of(node.get("names", ()))
            if name not in _EXACT_NAMES and name not in _FLOAT_NAMES:
                return f"it makes values of the type {name}"
            has_floats = has_floats or name in _FLOAT_NAMES
        elif kind == "TypeCast" and _makes_time_of_text(node, columns):
            return "it makes a time of a text, which may be 'now'"
        elif kind == "sval" and _MOMENT.search(str(node.get("sval", ""))):
            return f"it has the text '{node['sval']}', which may be a time"
    if has_floats and sums:
        return "it reads floating-point numbers, or what may become some, and sums"
    if may_choose(statement, columns):
        return "it may show any of several values that are equal, such as 1.0 and 1.00"
    return ""


def _makes_time_of_text(cast: Node, columns: Mapping[str, Collection[str]]) -> bool:
    """Whether a value that may come from a text of a row becomes a time: 'now' in a row is another
    time whenever it is read, and the text of the SELECT does not show it."""
    if _name_of(cast["typeName"]["names"]) not in _TIME_NAMES:
        return False
    stack: list[Any] = [cast["arg"]]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            if "ColumnRef" in part:
                # Of a star, and of a name that the statement makes, no type is known.
                [name] = _field_names(part["ColumnRef"]["fields"][-1:]) or [""]
                types = columns.get(name, ("text",))
                if not all(without_modifier(one) in _TEXTLESS_TYPES for one in types):
                    return True
            stack += part.values()
    return False


def _is_exact(type_name: str) -> bool:
    return without_modifier(type_name).removesuffix("[]") in _EXACT_TYPES


def _is_known_operator(name: str) -> bool:
    return name.removeprefix("NOT ").removesuffix(" SYMMETRIC") in _OPERATORS


def _is_row(fields: list[Node], relations: set[str]) -> bool:
    return bool(relations & set(_field_names(fields)))


def _made_names(statement: Statement) -> set[str]:
    """The names of columns that the statement itself makes, or may make."""
    names = {"case", "coalesce", "greatest", "least", "array", "row", "exists", "grouping"}
    for kind, node, _ in statement.nodes:
        if kind == "ResTarget" and "name" in node:
            value = node["val"]
            read = value.get("ColumnRef", {}).get("fields") or []
            read = read or value.get("A_Indirection", {}).get("indirection") or []
            if node["name"] not in _field_names(read[-1:]):
                names.add(node["name"])
        elif kind == "FuncCall":
            names.update(_field_names(node["funcname"][-1:]))
        elif "typemod" in node:
            names.update(_field_names(node.get("names", ())[-1:]))
        elif "valuesLists" in node:
            for row in node["valuesLists"]:
                names.update(f"column{place + 1}" for place in range(len(row["List"]["items"])))
        for key in ("colnames", "aliascolnames"):
            names.update(_field_names(node.get(key, ())))
    return names


def _field_names(fields: Iterable[Any]) -> list[str]:
    return [field["String"].get("sval", "") for field in fields if "String" in field]


def _name_of(parts: Iterable[Any]) -> str:
    """The name that the parser's list stands for, without PostgreSQL's own schema."""
    return ".".join(name for name in _field_names(parts) if name != "pg_catalog")
