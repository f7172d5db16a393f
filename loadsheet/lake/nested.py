"""The text PostgreSQL shows for arrays, ranges and multiranges, from their binary form."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from psycopg import adapters

from loadsheet.lake.values import SHOWN, Show
from loadsheet.sql.types import without_modifier

_RANGES = {
    "int4range": "int4", "int8range": "int8", "numrange": "numeric", "daterange": "date", "tsrange": "timestamp",
    "tstzrange": "timestamptz",
}  # fmt: skip


def shown(type_name: str) -> Show | None:
    """How values of the type (as `Column.type` names it) are shown; None where that is not known here."""
    plain = without_modifier(type_name)
    if plain.endswith("[]"):
        return _array
    if plain in ("int2vector", "oidvector"):
        return lambda data: _array(data, vector=True)
    info = adapters.types.get("interval" if plain.startswith("interval ") else plain)
    return _show(info.name if info else plain.strip('"'))


def _show(name: str) -> Show | None:
    if name not in _RANGES and name.replace("multirange", "range") not in _RANGES:
        return SHOWN.get(name)
    bound = SHOWN[_RANGES[name.replace("multirange", "range")]]
    if name in _RANGES:
        return lambda data: _range(data, bound)
    return lambda data: "{" + ",".join(_range(part, bound) for part in _fields(data[4:]) if part) + "}"


def _fields(data: bytes) -> Iterator[bytes | None]:
    """Values, each behind its length; a NULL has the length -1."""
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from(">i", data, place)
        place += 4
        yield None if length < 0 else data[place : place + length]
        place += max(length, 0)


def _range(data: bytes, show: Show) -> str:
    flags = data[0]
    if flags & 1:
        return "empty"
    bounds = _fields(data[1:])
    lower = "" if flags & 8 else _quoted(show(next(bounds) or b""), r'["\\(),\[\]\s]', '""')
    upper = "" if flags & 16 else _quoted(show(next(bounds) or b""), r'["\\(),\[\]\s]', '""')
    return f"{'[' if flags & 2 else '('}{lower},{upper}{']' if flags & 4 else ')'}"


def _array(data: bytes, vector: bool = False) -> str:
    dimensions, _, element = struct.unpack_from(">iiI", data)
    sizes = list(struct.iter_unpack(">ii", data[12 : 12 + 8 * dimensions]))
    name = adapters.types[element].name
    show = _show(name)
    if show is None:
        raise KeyError(name)
    delimiter = ";" if name == "box" else ","
    values = [None if v is None else show(v) for v in _fields(data[12 + 8 * dimensions :])]
    if vector:
        return " ".join(str(value) for value in values)
    if not dimensions:
        return "{}"
    texts = ["NULL" if v is None else _quoted(v, rf'["\\{{}}{delimiter}\s]', '\\"', is_array=True) for v in values]
    for size, _ in reversed(sizes):
        texts = ["{" + delimiter.join(texts[i : i + size]) + "}" for i in range(0, len(texts), size)]
    bounds = "".join(f"[{lower}:{lower + size - 1}]" for size, lower in sizes) + "="
    return (bounds if any(lower != 1 for _, lower in sizes) else "") + texts[0]


def _quoted(text: str, special: str, quote: str, is_array: bool = False) -> str:
    if text and not re.search(special, text, re.ASCII) and not (is_array and text.upper() == "NULL"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', quote) + '"'
