"""Whether a SELECT must return the same rows each time it reads the same tables.

The server's own labels do not tell: `now()` is stable, and so is `to_char`; `row_number()` is
immutable, and numbers rows that tie in any order. So the SELECT may consist of parts that are known
here, and of no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from loadsheet.sql.parsing import Statement

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
# The last digits of a sum of these depend on the order in which the rows are read.
_ORDERED_SUMS = frozenset(("sum", "avg"))
_FLOAT_NAMES = frozenset(("float4", "float8", "float", "real"))
FLOATS = ("real", "double precision")
"""Types that round when they are summed."""
_SET_OPERATIONS = ("SETOP_UNION", "SETOP_INTERSECT", "SETOP_EXCEPT")
# A text that becomes a time when the SELECT is read.
_MOMENTS = frozenset(("now", "today", "tomorrow", "yesterday"))


def why_not_repeatable(
    statement: Statement, floats: Collection[str], many_forms: Collection[str]
) -> str:
    """Why the SELECT may return other rows each time, for messages; empty if it must return the
    same ones.

    Of the columns of the tables that it reads, `floats` are those of one of FLOATS, and
    `many_forms` those whose equal values may be written in several ways (`types.has_one_form`).
    """
    has_floats = False
    sums = False
    chooses = _chooses(statement)
    totals = _totals(statement)
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
        elif kind == "ColumnRef":
            has_floats = has_floats or _may_be_of(floats, node["fields"][-1])
            if chooses and id(node) not in totals and _may_be_of(many_forms, node["fields"][-1]):
                return "it may show any of several values that are equal, such as 1.0 and 1.00"
        elif kind == "TypeName" or "typemod" in node:
            has_floats = has_floats or _name_of(node.get("names", ())) in _FLOAT_NAMES
        elif kind == "sval" and str(node.get("sval", "")).strip().lower() in _MOMENTS:
            return f"it has the text '{node['sval']}', which may be a time"
    if has_floats and sums:
        return "it reads floating-point numbers and sums"
    return ""


def _chooses(statement: Statement) -> bool:
    """Whether the SELECT shows one of several values that are equal."""
    for kind, node, _ in statement.nodes:
        if "groupClause" in node or "distinctClause" in node:
            return True
        if node.get("op") in _SET_OPERATIONS and not node.get("all"):
            return True
        if kind == "FuncCall" and _name_of(node["funcname"]) in ("min", "max"):
            return True
    return False


def _totals(statement: Statement) -> set[int]:
    """The columns that are only counted or summed, which depends on no choice."""
    columns: set[int] = set()
    for kind, node, _ in statement.nodes:
        if kind == "FuncCall" and _name_of(node["funcname"]) in ("count", "sum", "avg"):
            for argument in node.get("args", ()):
                columns.add(id(argument.get("ColumnRef")))
    return columns


def _may_be_of(floats: Collection[str], field: Any) -> bool:
    if "String" not in field:  # a star
        return bool(floats)
    return field["String"].get("sval", "") in floats


def _name_of(parts: Iterable[Any]) -> str:
    """The name that the parser's list stands for, without PostgreSQL's own schema."""
    names = [part["String"].get("sval", "") for part in parts if "String" in part]
    return ".".join(name for name in names if name != "pg_catalog")
