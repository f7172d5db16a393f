"""How a source type lands in the warehouse and travels in Parquet, by explicit rules.

A built-in type that means the same on every server lands as itself. Domains and arrays of them land
as their base type. Everything else (enums, composites, extension types, object identifiers) lands
as `text`, arrays of it as `text[]`: readable without the type, and equal to what the source shows.
Some types of extensions land as themselves where the warehouse has them (`sql.extensions`).
So do xml, whose own output leaves out the encoding it declares and which a server built without
libxml does not take, and jsonpath, which grows with versions.

A number travels as a number and a time as a time; what has no counterpart in Parquet travels as the
text PostgreSQL writes, which is exact. A type that readers would take for something else is
refused: a numeric that decimal128 cannot hold, money, and arrays, whose bounds and dimensions a
list does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loadsheet.sql.type_names import known_type

# Binary COPY of these is the same bytes on every PostgreSQL since 9.4: their send/receive functions
# carry no OID but the element type's own (built-in, hence equal), and no locale or session setting.
_EXACT_IN_BINARY = frozenset(
    """
    bool int2 int4 int8 oid float4 float8 numeric uuid bit varbit
    text varchar bpchar bytea json jsonb
    date time timetz timestamp timestamptz interval
    point line lseg box path polygon circle inet cidr macaddr macaddr8
    int4range int8range numrange tsrange tstzrange daterange
    int4multirange int8multirange nummultirange tsmultirange tstzmultirange datemultirange
    """.split()
)
# Portable as text under the pinned settings, but their binary form depends on locale, encoding or
# version.
_PORTABLE_AS_TEXT = frozenset(
    "money tsvector tsquery name char pg_lsn pg_snapshot txid_snapshot xid8".split()
)
# Without an order (a default btree operator class): neither a key nor a cursor.
_UNORDERED = frozenset(
    "json point line lseg box path polygon circle pg_snapshot txid_snapshot".split()
)
MOST_COLUMNS = 1600
"""The columns of a table at most."""
# One of them is `_load_id`.
MAX_COLUMNS = MOST_COLUMNS - 1

TIME_TYPES = ("timestamp with time zone", "timestamp without time zone", "date")
# Their order is the collation's: only in "C" is it the same on every server.
TEXT_TYPES = ("text", "character varying", "bpchar", "name")
NUMBER_TYPES = ("smallint", "integer", "bigint", "numeric", "real", "double precision")

# Equal values of these are stored as the same bytes (a text's under the collation "C").
SAME_WHEN_EQUAL = (
    *("smallint", "integer", "bigint", "oid", "boolean", "uuid"),
    *("bytea", "text", "character varying"),
    *("date", "time without time zone"),
    *("timestamp with time zone", "timestamp without time zone"),
)

Kind = tuple[str | int, ...]
"""The name of a type in Arrow and its arguments: `("decimal128", 10, 2)`."""

TEXT: Kind = ("string",)
_KINDS: dict[str, Kind] = {
    "boolean": ("bool_",),
    "smallint": ("int16",),
    "integer": ("int32",),
    "bigint": ("int64",),
    "oid": ("int64",),
    "real": ("float32",),
    "double precision": ("float64",),
    "date": ("date32",),
    "time without time zone": ("time64", "us"),
    "timestamp without time zone": ("timestamp", "us"),
    "timestamp with time zone": ("timestamp", "us", "UTC"),
    "bytea": ("binary",),
}
# Of a decimal128.
_DIGITS = 38
REMEDY = "leave it out with columns.exclude, or set lake.format: auto"
_ARRAYS = ("int2vector", "oidvector")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column on its way: its place in the source and the type it lands with.

    Its type becomes part of statements, so it is one that is known here, wherever it comes from.
    Raises UnknownType, a ValueError, for any other text.
    """

    name: str
    attnum: int
    """Stays when the column is renamed, so a rename is seen as one."""
    source_type: str
    type: str
    """The landing type, with its modifier: `numeric(10,2)`."""
    cast: bool = False
    """Read as `CAST(column AS type)` because the source's own type does not land."""
    exact_in_binary: bool = True
    labels: tuple[str, ...] = ()
    """Of an enum: a renamed label changes rows without writing them."""
    inside: tuple[str, ...] = ()
    """What else the text of its values depends on, each behind the oid of the type inside its own:
    `16401 label a` of an enum in a composite or a range, `16404 columns 1 2` of a composite, `2205
    names` of a type that shows names of the catalog (regclass); and `0 expression`, with a hash of
    it, of a virtual generated column."""

    def __post_init__(self) -> None:
        known_type(self.type)


def changed_text(before: Mapping[str, Any], column: Column) -> str:
    """Why rows that nothing has written since the column was recorded as `before` show other text
    now, for messages; empty where they show the same."""
    lost = set(before.get("labels", ())) - set(column.labels)
    if column.labels and lost:
        return f"had its label {min(lost)!r} renamed"
    for part in sorted(set(before.get("inside", ())) - set(column.inside)):
        # An older ledger has recorded no parts, and another type's rows were written.
        kind, _, what = part.partition(" ")[2].partition(" ")
        if column.inside and kind == "label":
            return f"had its label {what!r} renamed"
        if column.inside and kind == "columns":
            return "had columns of its row type added or dropped"
        if column.inside and kind == "expression":
            return "had its expression changed"
    return ""


def shows_names(column: Column) -> bool:
    """Whether values show names of the source's catalog: renaming the table that a regclass stands
    for changes rows without writing them."""
    return any(part.endswith(" names") for part in column.inside)


def landing(
    source_type: str, element: str, is_array: bool, builtin: bool
) -> tuple[str, bool, bool]:
    """`(type, cast, exact_in_binary)` for a source type.

    `source_type` is the formatted base type (domains resolved, also inside an array), `element` the
    internal name of the type, or of the element where it is an array, `builtin` whether that type
    ships with PostgreSQL.
    """
    if builtin and element in _EXACT_IN_BINARY:
        return source_type, False, True
    if builtin and element in _PORTABLE_AS_TEXT:
        return source_type, False, False
    landing_type = "text[]" if is_array else "text"
    return landing_type, True, True


def has_order(element: str) -> bool:
    """Whether values of the type, or of arrays of it, can be compared, so that it may be a key or a
    cursor."""
    return element not in _UNORDERED


def without_modifier(type_name: str) -> str:
    """The type without its modifier: `time(3) with time zone` -> `time with time zone`."""
    if "(" not in type_name:
        return type_name
    plain = type_name[: type_name.index("(")] + type_name[type_name.index(")") + 1 :]
    # Without a modifier these two mean a length of one, to which a cast cuts silently.
    return {"character": "bpchar", "bit": '"bit"'}.get(plain, plain)


def has_one_form(type_name: str) -> bool:
    """Whether values of the type that are equal are always the same: 1.0 is not 1.00."""
    plain = without_modifier(type_name)
    if plain == "numeric":
        return bool(modifier(type_name))  # which fixes the digits after the point
    return plain in SAME_WHEN_EQUAL or type_name.startswith("character(")


def widens(old: str, new: str) -> bool:
    """Whether every value of `old` is one of `new`, so that a column may be altered in place
    without a loss."""
    old_base = without_modifier(old)
    new_base = without_modifier(new)
    if new == "text":
        return old_base in ("character varying", "text")
    if old_base == new_base:
        return new == new_base or _modifier_grows(old, new)
    ladder = ("smallint", "integer", "bigint", "numeric")
    if old_base in ladder and new in ladder:
        return ladder.index(old_base) < ladder.index(new)
    return (old_base, new) == ("real", "double precision")


def _modifier_grows(old: str, new: str) -> bool:
    before = modifier(old)
    after = modifier(new)
    if not before or len(before) != len(after) or old.startswith(("character(", "bit(")):
        return False
    # An extension's type has its schema in front, and numbers with other meanings: vector(3) has 3
    # dimensions, geometry(Point,4326) a reference system.
    if "." in old[: old.index("(")]:
        return False
    # numeric: neither the digits before nor those after the point may become fewer.
    if len(before) == 2:
        return after[1] >= before[1] and after[0] - after[1] >= before[0] - before[1]
    return after[0] >= before[0]


def modifier(type_name: str) -> list[int]:
    """The numbers in a type's modifier: `numeric(10,2)` -> `[10, 2]`; empty where it has none."""
    if "(" not in type_name:
        return []
    inner = type_name[type_name.index("(") + 1 : type_name.index(")")]
    return [int(part) for part in inner.split(",") if part.strip().lstrip("-").isdigit()]


def parquet_kind(type_name: str) -> Kind | str:
    """How a landing type travels; a string says why it cannot."""
    if type_name.endswith("[]") or type_name in _ARRAYS:
        return "a list in Parquet has neither dimensions nor bounds"
    if type_name == "money":
        return "Parquet has no money"
    plain = without_modifier(type_name)
    if plain == "numeric":
        return _decimal(modifier(type_name))
    return _KINDS.get(plain, TEXT)


def _decimal(modifiers: list[int]) -> Kind | str:
    """Parquet's scale is between 0 and the precision: `numeric(3,-2)` has up to 5 digits before the
    point."""
    if not modifiers:
        return f"a decimal in Parquet has a fixed scale, and at most {_DIGITS} digits"
    precision, scale = modifiers
    if scale < 0:
        precision -= scale
        scale = 0
    precision = max(precision, scale)
    if precision > _DIGITS:
        return f"a decimal has at most {_DIGITS} digits"
    return "decimal128", precision, scale


def unfit(columns: Iterable[Column]) -> list[str]:
    """What cannot travel in Parquet: a line per column, with its type and the reason."""
    lines = []
    for column in columns:
        reason = parquet_kind(column.type)
        if isinstance(reason, str):
            where = f"column {column.name} ({column.type})"
            lines.append(f"{where} does not survive in Parquet, because {reason}")
    return lines
