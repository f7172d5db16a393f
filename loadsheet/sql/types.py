"""How a source type lands in the warehouse, by an explicit rule.

A built-in type that means the same on every server lands as itself. Domains land as their base type. Everything else
(enums, composites, extension types, object identifiers) lands as `text`, arrays of it as `text[]`: readable without
the type, and equal to what the source shows.
"""

from __future__ import annotations

from dataclasses import dataclass

# Binary COPY of these is the same bytes on every PostgreSQL since 9.4: their send/receive functions carry no OID but
# the element type's own (built-in, hence equal), and no locale or session setting.
_EXACT_IN_BINARY = {
    *("bool", "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "uuid", "bit", "varbit"),
    *("text", "varchar", "bpchar", "bytea", "json", "jsonb"),
    *("date", "time", "timetz", "timestamp", "timestamptz", "interval"),
    *("point", "line", "lseg", "box", "path", "polygon", "circle", "inet", "cidr", "macaddr", "macaddr8"),
    *("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"),
    *("int4multirange", "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange", "datemultirange"),
}
# Portable as text under the pinned settings, but their binary form depends on locale, encoding or version.
_PORTABLE_AS_TEXT = {
    *("money", "xml", "tsvector", "tsquery", "name", "char", "jsonpath"),
    *("pg_lsn", "pg_snapshot", "txid_snapshot", "xid8"),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column on its way: its place in the source and the type it lands with."""

    name: str
    attnum: int
    """Stays when the column is renamed, so a rename is seen as one."""
    source_type: str
    type: str
    """The landing type, with its modifier: `numeric(10,2)`."""
    cast: bool = False
    """Read as `CAST(column AS type)` because the source's own type does not land."""
    exact_in_binary: bool = True


def landing(source_type: str, element: str, is_array: bool, builtin: bool) -> tuple[str, bool, bool]:
    """`(type, cast, exact_in_binary)` for a source type.

    `source_type` is the formatted base type (domains resolved), `element` the internal name of the type, or of the
    element where it is an array, `builtin` whether that type ships with PostgreSQL.
    """
    if builtin and element in _EXACT_IN_BINARY:
        return source_type, False, True
    if builtin and element in _PORTABLE_AS_TEXT:
        return source_type, False, False
    return ("text[]" if is_array else "text"), True, True


TIME_TYPES = ("timestamp with time zone", "timestamp without time zone", "date")
NUMBER_TYPES = ("smallint", "integer", "bigint", "numeric", "real", "double precision")


def without_modifier(type_name: str) -> str:
    """The type without its modifier: `timestamp(3) with time zone` -> `timestamp with time zone`."""
    if "(" not in type_name:
        return type_name
    return type_name[: type_name.index("(")] + type_name[type_name.index(")") + 1 :]


def widens(old: str, new: str) -> bool:
    """Whether every value of `old` is one of `new`, so that a column may be altered in place without a loss."""
    old_base, new_base = without_modifier(old), without_modifier(new)
    if new == "text":
        return old_base in ("character varying", "text")
    if old_base == new_base:
        return new == new_base or _modifier_grows(old, new)
    ladder = ("smallint", "integer", "bigint", "numeric")
    if old_base in ladder and new in ladder:
        return ladder.index(old_base) < ladder.index(new)
    return (old_base, new) == ("real", "double precision")


def _modifier_grows(old: str, new: str) -> bool:
    before, after = _modifier(old), _modifier(new)
    if not before or len(before) != len(after) or old.startswith("character("):
        return False
    if len(before) == 2:  # numeric: neither the digits before nor those behind the point may get fewer
        return after[1] >= before[1] and after[0] - after[1] >= before[0] - before[1]
    return after[0] >= before[0]


def _modifier(type_name: str) -> list[int]:
    if "(" not in type_name:
        return []
    inner = type_name[type_name.index("(") + 1 : type_name.index(")")]
    return [int(part) for part in inner.split(",") if part.strip().lstrip("-").isdigit()]
