"""Which texts are the name of a type, so that one from elsewhere can become part of a statement.

A type's name comes from the source's catalogs, from a manifest, or from a test file, and is pasted
into statements of another server: a type takes no quotes and no parameter. So a name is never
believed. It is one of the names known here, with digits and brackets where that type has some, or
it is refused. A type of an extension may also have a schema in front, which is an identifier.
"""

from __future__ import annotations

import re
from functools import cache

from loadsheet.sql.extensions import TYPES

# As format_type writes them, in lower case and with single blanks.
_PLAIN = (
    *("boolean", "smallint", "integer", "bigint", "oid", "real", "double precision", "uuid"),
    *("money", "name", '"char"', "text", "bytea", "json", "jsonb", "date"),
    *("point", "line", "lseg", "box", "path", "polygon", "circle"),
    *("inet", "cidr", "macaddr", "macaddr8", "tsvector", "tsquery"),
    *("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"),
    *("int4multirange", "int8multirange", "nummultirange"),
    *("tsmultirange", "tstzmultirange", "datemultirange"),
    *("pg_lsn", "pg_snapshot", "txid_snapshot", "xid8", "int2vector", "oidvector"),
)
_WITH_LENGTH = ("character varying", "character", "bpchar", "bit varying", "bit", '"bit"')
_TIMES = ("time", "timestamp")
_FIELDS = (
    *("year", "month", "day", "hour", "minute", "second", "year to month"),
    *("day to hour", "day to minute", "day to second"),
    *("hour to minute", "hour to second", "minute to second"),
)
# Other names of the same types, which format_type never writes, and types that land as text.
_ONLY_DECLARED = (
    *("bool", "int", "int2", "int4", "int8", "float4", "float8", "float"),
    *("timestamptz", "timetz", "xml", "jsonpath"),
)
_ALIASES_WITH_LENGTH = ("varchar", "char", "varbit")
_ALIASES_OF_NUMERIC = ("decimal", "dec")
_ALIASES_OF_TIMES = ("timestamptz", "timetz")
_SHAPES = (
    *("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring"),
    *("multipolygon", "geometrycollection", "circularstring", "compoundcurve", "curvepolygon"),
    *("multicurve", "multisurface", "polyhedralsurface", "triangle", "tin"),
)
"""What the modifier of a PostGIS type may name."""


def _any_of(words: tuple[str, ...] | list[str]) -> str:
    # The longest first: `character varying` begins with `character`.
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_NUMBER = r"[0-9]{1,10}"
_LENGTH = rf"(?:\({_NUMBER}\))?"
_SCALE = rf"(?:\({_NUMBER}(?:,-?{_NUMBER})?\))?"
_IDENTIFIER = r'(?:[a-z_][a-z0-9_]{0,62}|"(?:[^"\x00]|""){1,63}")'
_EXTENSION_NAMES = [name for names in TYPES.values() for name in names]
_SHAPE = rf"(?i:{_any_of(_SHAPES)})(?i:zm|z|m)?"
_OF_EXTENSION = (
    rf"(?:{_IDENTIFIER}\.)?(?:{_any_of(_EXTENSION_NAMES)})"
    rf"(?:\((?:{_NUMBER}|{_SHAPE})(?:,{_NUMBER})?\))?"
)
_LANDING = (
    _any_of(_PLAIN),
    rf"(?:{_any_of(_WITH_LENGTH)}){_LENGTH}",
    rf"numeric{_SCALE}",
    rf"(?:{_any_of(_TIMES)}){_LENGTH} with(?:out)? time zone",
    rf"interval(?: (?:{_any_of(_FIELDS)}))?{_LENGTH}",
    _OF_EXTENSION,
)
_DECLARED = (
    *_LANDING,
    _any_of(_ONLY_DECLARED),
    rf"(?:{_any_of(_ALIASES_WITH_LENGTH)}){_LENGTH}",
    rf"(?:{_any_of(_ALIASES_OF_NUMERIC)}){_SCALE}",
    rf"(?:{_any_of((*_TIMES, *_ALIASES_OF_TIMES))}){_LENGTH}",
    rf"float{_LENGTH}",
)
_BLANKS_IN_PARENTHESES = re.compile(r"\s*([(),])\s*")
_LONGEST = 60
"""How much of a name a message shows."""


# Compiled when they are needed: each takes some 2 ms.
@cache
def _landing_type() -> re.Pattern[str]:
    # The server writes one pair of brackets, whatever the number of dimensions.
    return re.compile(rf"(?:{'|'.join(_LANDING)})(?:\[\])?")


@cache
def _declared_type() -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(_DECLARED)})(?:\[[0-9]{{0,5}}\]){{0,6}}")


class UnknownType(ValueError):
    """A text that is not the name of a type."""

    def __init__(self, text: object):
        shown = repr(text)
        if len(shown) > _LONGEST:
            shown = f"{shown[:_LONGEST]}…"
        super().__init__(f"{shown} is not the name of a type that Loadsheet knows")


def known_type(text: object) -> str:
    """`text`, if it is the name of a type that a column can land with, as PostgreSQL's format_type
    writes it. Raises UnknownType."""
    if not isinstance(text, str) or not _landing_type().fullmatch(text):
        raise UnknownType(text)
    return text


def declared_type(text: str) -> str:
    """The type that a person has written: also under another of its names (`int`, `VARCHAR(20)`),
    in any case and with more blanks. Raises UnknownType."""
    name = text
    if '"' not in text:
        name = " ".join(text.lower().split())
        name = _BLANKS_IN_PARENTHESES.sub(r"\1", name)
        # `time (3) with time zone`: the blank behind the parenthesis has a meaning.
        name = re.sub(r"\)(?=[a-z])", ") ", name)
        name = re.sub(r" ?\[ ?([0-9]*) ?\]", r"[\1]", name)
    if not _declared_type().fullmatch(name):
        raise UnknownType(text)
    return name
