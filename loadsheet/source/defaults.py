"""Whether a column's default gives the clock's time, or a number that rises, as it is.

The server shows an expression as text. Parts that are known are replaced by what they are, until
one word is left: `(now() AT TIME ZONE 'UTC'::text)` -> `(<clock> AT TIME ZONE 'UTC'::text)` ->
`<local>`. Under `search_path = pg_catalog`, functions and types that are not PostgreSQL's own have
a schema in front, so that no part is taken for another.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from loadsheet.sql.types import TIME_TYPES, without_modifier

# Of a name with a backslash the server makes an E'' string. Quotes are doubled there as well.
_STRING = r"E?'(?:[^']|'')*'"
_NUMBER = r"-?\d+(?:\.\d+)?"
_LITERAL = rf"(?:{_STRING}|{_NUMBER}|\({_NUMBER}\))"
_TYPE = r"[a-z]+(?: [a-z]+)*(?:\(\d+(?:,\d+)?\))?(?: [a-z]+)*"
_CONSTANT = re.compile(
    rf"NULL(?:::{_TYPE})?|{_LITERAL}(?:::{_TYPE})?|to_timestamp\({_LITERAL}(?:::{_TYPE})?\)"
)
_POSITIVE = r"(?:\d+(?:\.\d+)?|\(\d+(?:\.\d+)?\)|'\d+(?:\.\d+)?')(?:::[a-z ]+)?"
_MICROSECONDS = 6
_WITH_ZONE = "timestamp with time zone"

_DRAWN = rf"\bnextval\({_STRING}::regclass\)|\btxid_current\(\)"
_PARENTHESES = ((r"^\(<(\w+)>\)$", r"<\1>"), (r"\(\(<(\w+)>\)\)", r"(<\1>)"))
# Each part, and what it is: <clock> is the time, <local> the time of a zone.
_TIMES = (
    (r"\b(?:now|(?:transaction|statement|clock)_timestamp)\(\)", "<clock>"),
    (r"\bCURRENT_TIMESTAMP\b(?:\((?P<digits>\d)\))?", "<clock>"),
    (r"\bLOCALTIMESTAMP\b(?:\((?P<digits>\d)\))?", "<local>"),
    (r"\bCURRENT_DATE\b", "<date>"),
    (r"\(<clock>\)::timestamp(?:\((?P<digits>\d)\))? with time zone", "<clock>"),
    (r"\(<(?:clock|local)>\)::timestamp(?:\((?P<digits>\d)\))? without time zone", "<local>"),
    (r"\(<(?:clock|local)>\)::date", "<date>"),
    (r"\btimezone\('(?P<zone>[^']+)'::text, <clock>\)", "<local>"),
    (r"<clock> AT TIME ZONE '(?P<zone>[^']+)'::text", "<local>"),
    *_PARENTHESES,
)
_NUMBERS = (
    *_TIMES[:2],
    (_DRAWN, "<number>"),
    (r"\(<number>\)::(?:smallint|integer|bigint|numeric(?:\(\d+,\d+\))?)", "<number>"),
    (r"\bEXTRACT\(epoch FROM <clock>\)|\bdate_part\('epoch'::text, <clock>\)", "<epoch>"),
    (r"\(<epoch>\)::(?:integer|bigint|double precision|numeric(?:\(\d+,\d+\))?)", "<epoch>"),
    (r"\b(?:floor|ceil|ceiling|round|trunc)\(<epoch>\)", "<epoch>"),
    (rf"\((?:<epoch> [*/] {_POSITIVE}|{_POSITIVE} \* <epoch>)\)", "<epoch>"),
    *_PARENTHESES,
)
_FITTING = {
    _WITH_ZONE: ("<clock>",),
    "timestamp without time zone": ("<clock>", "<local>"),
    "date": ("<clock>", "<local>", "<date>"),
    # It has too few digits for Unix seconds, and for a sequence that has counted far.
    "real": (),
    "double precision": ("<epoch>",),
}


def is_known(expression: str, type_name: str, is_in_zone: Callable[[str], bool]) -> bool:
    """Whether the default `expression`, as the server shows it, gives a column of the type the time
    of writing or a number that rises, or is a constant.

    `is_in_zone` tells whether the column may be stamped with the time of the zone of that name.
    """
    if _CONSTANT.fullmatch(expression):
        return True
    kind = without_modifier(type_name)
    fitting = _FITTING.get(kind, ("<number>", "<epoch>"))
    digits = _digits(type_name)

    def meaning(found: re.Match[str], word: str) -> str:
        parts = found.groupdict()
        # Rounded values of an unrounded column are not what hold-back takes them for.
        if kind != "date" and int(parts.get("digits") or _MICROSECONDS) < digits:
            return found.group()
        zone = parts.get("zone")
        if zone is None:
            return found.expand(word)
        if not is_in_zone(zone):
            return found.group()
        # Assigned to a column with time zone, it is taken for a time of the session's zone.
        return "<clock>" if kind == _WITH_ZONE else word

    left = expression
    before = ""
    while left != before:
        before = left
        for part, word in _TIMES if kind in TIME_TYPES else _NUMBERS:
            left = re.sub(part, lambda found, word=word: meaning(found, word), left)  # type: ignore
    return left in fitting


def counting(expression: str, type_name: str) -> str:
    """In which way a known default of a column of numbers counts: two of the same way give numbers
    in one order. Empty for a constant, which the application has chosen."""
    if _CONSTANT.fullmatch(expression):
        return ""
    way = re.sub(*_TIMES[0], expression)
    drawn = re.search(_DRAWN, expression)
    if drawn:
        way = drawn.group()
    # Seconds that are rounded up lie above later ones that are not.
    if type_name in ("smallint", "integer", "bigint"):
        return way
    return f"{way} {type_name}"


def _digits(type_name: str) -> int:
    """How many digits of a second a time has."""
    found = re.search(r"\((\d)\)", type_name)
    return int(found[1]) if found else _MICROSECONDS
