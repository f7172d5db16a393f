"""How a landing type travels in Parquet: as what, or why not.

A number travels as a number and a time as a time; what has no counterpart in Parquet travels as the text PostgreSQL
writes, which is exact. A type that would arrive as something else than its readers take it for is refused: a numeric
that decimal128 cannot hold, money, and arrays, whose bounds and dimensions a list does not have.
"""

from __future__ import annotations

from collections.abc import Iterable

from loadsheet.sql.types import Column, modifier, without_modifier

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
_DIGITS = 38
REMEDY = "leave it out with columns.exclude, or set lake.format: auto"
_ARRAYS = ("int2vector", "oidvector")


def kind(type_name: str) -> Kind | str:
    """How a landing type travels; a string says why it cannot."""
    if type_name.endswith("[]") or type_name in _ARRAYS:
        return "a list in Parquet has neither dimensions nor bounds"
    if type_name == "money":
        return "Parquet has no money"
    plain = without_modifier(type_name)
    return _decimal(modifier(type_name)) if plain == "numeric" else _KINDS.get(plain, TEXT)


def _decimal(modifiers: list[int]) -> Kind | str:
    """Parquet's scale is between 0 and the precision: `numeric(3,-2)` has up to 5 digits before the point."""
    if not modifiers:
        return f"a decimal in Parquet has a fixed scale, and at most {_DIGITS} digits"
    precision, scale = modifiers
    precision, scale = max(precision - min(scale, 0), scale), max(scale, 0)
    return ("decimal128", precision, scale) if precision <= _DIGITS else f"a decimal has at most {_DIGITS} digits"


def unfit(columns: Iterable[Column]) -> list[str]:
    """What cannot travel in Parquet: a line per column, with its type and the reason."""
    return [
        f"column {c.name} ({c.type}) does not survive in Parquet, because {reason}"
        for c in columns
        if isinstance(reason := kind(c.type), str)
    ]
