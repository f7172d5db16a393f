"""Values of Arrow tables as PostgreSQL writes them in text.

psycopg reads what Python has a type for. What Python would change (a month as 30 days, infinity,
BC, 24:00) is written here from the format of the types' send functions.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from math import inf
from uuid import UUID

from psycopg import adapters
from psycopg.pq import Format

from loadsheet.sql.types import without_modifier

Show = Callable[[bytes], str]
_INFINITE = {32: (2**31 - 1, -(2**31)), 64: (2**63 - 1, -(2**63))}
_EPOCH = 2451545  # 2000-01-01 as a Julian day
_DAY = 86_400_000_000


def _number(code: str) -> Show:
    return lambda data: str(struct.unpack(">" + code, data)[0])


def double(value: float, narrow: bool = False) -> str:
    """The shortest digits that give the value again, in the server's notation (extra_float_digits
    above 0)."""
    if value != value or value in (inf, -inf):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    sign, digits, exponent = Decimal(_shortest(value, narrow)).normalize().as_tuple()
    exponent = int(exponent) + len(digits) - 1
    shown = "".join(map(str, digits))
    if not -4 <= exponent < (6 if narrow else 15):
        shown = shown[0] + ("." + shown[1:] if shown[1:] else "") + f"e{exponent:+03d}"
    elif exponent < 0:
        shown = "0." + "0" * (-exponent - 1) + shown
    elif len(shown) > exponent + 1:
        shown = shown[: exponent + 1] + "." + shown[exponent + 1 :]
    else:
        shown = shown.ljust(exponent + 1, "0") if value else "0"
    return "-" + shown if sign else shown


def _shortest(value: float, narrow: bool) -> str:
    """Python takes a number half way to the next double for the value, where the tie falls its way;
    PostgreSQL never. There are none of so few digits below 2^53."""
    if not narrow and abs(value) < 2**53:
        return repr(value)
    layout = ">If" if narrow else ">Qd"
    texts = (f"{value:.{precision}e}" for precision in range(17))
    return next(text for text in texts if _is_nearest(Fraction(text), value, layout))


def _is_nearest(shown: Fraction, value: float, codes: str) -> bool:
    whole, real = codes[0] + codes[1], codes[0] + codes[2]
    (bits,) = struct.unpack(whole, struct.pack(real, value))
    if not value:
        return shown == 0
    (inner,) = struct.unpack(real, struct.pack(whole, bits - 1))
    (outer,) = struct.unpack(real, struct.pack(whole, bits + 1))
    exact = Fraction(value)
    below = abs(exact - Fraction(inner)) / 2
    above = below if outer in (inf, -inf) else abs(Fraction(outer) - exact) / 2
    return abs(exact) - below < abs(shown) < abs(exact) + above


def _floats(data: bytes) -> Iterator[str]:
    return (double(value) for value in struct.unpack(f">{len(data) // 8}d", data))


def _points(data: bytes) -> str:
    numbers = list(_floats(data))
    return ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))


_NUMERIC = adapters.get_loader(1700, Format.BINARY)


def _numeric(data: bytes) -> str:
    assert _NUMERIC is not None
    return format(_NUMERIC(1700, None).load(data), "f")


def _date(data: bytes) -> str:
    (days,) = struct.unpack(">i", data)
    return _endless(days, 32) or "{}{}".format(*_day(days))


def _timestamp(data: bytes, zone: str = "") -> str:
    (moment,) = struct.unpack(">q", data)
    day, era = _day(moment // _DAY) if abs(moment) < 2**63 - 1 else ("", "")
    return _endless(moment, 64) or f"{day} {clock(moment % _DAY)}{zone}{era}"


def _endless(value: int, bits: int) -> str:
    return {_INFINITE[bits][0]: "infinity", _INFINITE[bits][1]: "-infinity"}.get(value, "")


def _day(days: int) -> tuple[str, str]:
    """The date so many days after 2000-01-01 in the proleptic Gregorian calendar, and its era
    (Richards' algorithm)."""
    julian = days + _EPOCH
    f = julian + 1401 + (((4 * julian + 274277) // 146097) * 3) // 4 - 38
    e = 4 * f + 3
    h = 5 * ((e % 1461) // 4) + 2
    day, month = (h % 153) // 5 + 1, (h // 153 + 2) % 12 + 1
    year = e // 1461 - 4716 + (14 - month) // 12
    shown, era = (year, "") if year > 0 else (1 - year, " BC")
    return f"{shown:04d}-{month:02d}-{day:02d}", era


def clock(microseconds: int) -> str:
    """Hours, minutes, seconds and as much of a fraction as there is."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    shown = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return shown + (f".{fraction:06d}".rstrip("0") if fraction else "")


def _timetz(data: bytes) -> str:
    time, west = struct.unpack(">qi", data)
    hours, rest = divmod(abs(west), 3600)
    zone = (
        f"{hours:02d}"
        + (f":{rest // 60:02d}" if rest else "")
        + (f":{rest % 60:02d}" if rest % 60 else "")
    )
    return clock(time) + ("-" if west > 0 else "+") + zone


def _interval(data: bytes) -> str:
    time, days, months = struct.unpack(">qii", data)
    if (time, days, months) in ((2**63 - 1, 2**31 - 1, 2**31 - 1), (-(2**63), -(2**31), -(2**31))):
        return "infinity" if time > 0 else "-infinity"
    years, months = int(months / 12), months - int(months / 12) * 12
    shown, negative = [], False
    for count, unit in ((years, "year"), (months, "mon"), (days, "day")):
        if count:
            plus = "+" if negative and count > 0 else ""
            shown.append(f"{plus}{count} {unit}{'' if count == 1 else 's'}")
            negative = count < 0
    if time or not shown:
        sign = "-" if time < 0 else "+" if negative else ""
        shown.append(sign + clock(abs(time)))
    return " ".join(shown)


def _char(data: bytes) -> str:
    return "" if data == b"\0" else data.decode() if data[0] < 128 else f"\\{data[0]:03o}"


def _bits(data: bytes) -> str:
    (length,) = struct.unpack_from(">i", data)
    return "".join(f"{byte:08b}" for byte in data[4:])[:length]


def _address(data: bytes) -> str:
    family, bits, is_cidr = data[:3]
    shown = socket.inet_ntop(socket.AF_INET if family == 2 else socket.AF_INET6, data[4:])
    return shown if bits == len(data[4:]) * 8 and not is_cidr else f"{shown}/{bits}"


def _money(data: bytes) -> str:
    (cents,) = struct.unpack(">q", data)
    return f"{'-' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02d}"


def _position(data: bytes) -> str:
    high, low = struct.unpack(">II", data)
    return f"{high:X}/{low:X}"


def _snapshot(data: bytes) -> str:
    low, high, *running = struct.unpack(f">{len(data) // 8}Q", data[4:])
    return f"{low}:{high}:{','.join(map(str, running))}"


def _path(data: bytes) -> str:
    points = _points(data[5:])
    return f"({points})" if data[0] else f"[{points}]"


def _circle(data: bytes) -> str:
    return f"<{_points(data[:16])},{double(struct.unpack('>d', data[16:])[0])}>"


SHOWN: dict[str, Show] = {
    **dict.fromkeys(
        ("text", "varchar", "bpchar", "json", "name", "xml"), lambda data: data.decode()
    ),
    "bool": lambda data: "t" if data[0] else "f",
    "int2": _number("h"),
    "int4": _number("i"),
    "int8": _number("q"),
    "oid": _number("I"),
    "xid8": _number("Q"),
    "float4": lambda data: double(struct.unpack(">f", data)[0], narrow=True),
    "float8": lambda data: double(struct.unpack(">d", data)[0]),
    "numeric": _numeric,
    "money": _money,
    "bytea": lambda data: "\\x" + data.hex(),
    "uuid": lambda data: str(UUID(bytes=data)),
    '"char"': _char,
    "jsonb": lambda data: data[1:].decode(),
    "bit": _bits,
    "varbit": _bits,
    "date": _date,
    "time": lambda data: clock(int.from_bytes(data)),
    "timetz": _timetz,
    "timestamp": _timestamp,
    "timestamptz": lambda data: _timestamp(data, "+00"),
    "interval": _interval,
    "point": _points,
    "box": _points,
    "lseg": lambda data: f"[{_points(data)}]",
    "path": _path,
    "circle": _circle,
    "line": lambda data: "{" + ",".join(_floats(data)) + "}",
    "polygon": lambda data: f"({_points(data[4:])})",
    "inet": _address,
    "cidr": _address,
    "macaddr": lambda data: data.hex(":"),
    "macaddr8": lambda data: data.hex(":"),
    "pg_lsn": _position,
    "pg_snapshot": _snapshot,
    "txid_snapshot": _snapshot,
}
"""How each type is shown, by the name its catalog gives it."""


_RANGES = {
    "int4range": "int4",
    "int8range": "int8",
    "numrange": "numeric",
    "daterange": "date",
    "tsrange": "timestamp",
    "tstzrange": "timestamptz",
}


def shown(type_name: str) -> Show | None:
    """How values of the type (as `Column.type` names it) are shown; None where that is not known
    here."""
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

    def show_multirange(data: bytes) -> str:
        ranges = [_range(part, bound) for part in _fields(data[4:]) if part]
        return "{" + ",".join(ranges) + "}"

    return show_multirange


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
    texts = []
    for value in _fields(data[12 + 8 * dimensions :]):
        if value is None:
            texts.append("NULL")
        elif vector:
            texts.append(show(value))
        else:
            special = rf'["\\{{}}{delimiter}\s]'
            texts.append(_quoted(show(value), special, '\\"', is_array=True))
    if vector:
        return " ".join(texts)
    if not dimensions:
        return "{}"
    # From the innermost dimension out: each turn joins `size` texts into one.
    for size, _ in reversed(sizes):
        groups = [texts[i : i + size] for i in range(0, len(texts), size)]
        texts = ["{" + delimiter.join(group) + "}" for group in groups]
    if all(lower == 1 for _, lower in sizes):
        return texts[0]
    bounds = "".join(f"[{lower}:{lower + size - 1}]" for size, lower in sizes)
    return f"{bounds}={texts[0]}"


def _quoted(text: str, special: str, quote: str, is_array: bool = False) -> str:
    if (
        text
        and not re.search(special, text, re.ASCII)
        and not (is_array and text.upper() == "NULL")
    ):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', quote) + '"'
