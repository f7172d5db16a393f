"""PostgreSQL's text for values in binary form, for types that Arrow does not have.

psycopg loads a value into a Python type, which may change it (a month becomes 30 days; infinity, BC
and 24:00 are errors). Here values are turned into text directly, by the formats of PostgreSQL's
send functions and the rules of its output functions.
"""

from __future__ import annotations

import math
import re
import socket
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from psycopg import adapters
from psycopg.pq import Format

from loadsheet.sql.types import without_modifier

Show = Callable[[bytes], str]
"""From a value's binary form to its text."""
_INFINITE_DATES = {2**31 - 1: "infinity", -(2**31): "-infinity"}
_INFINITE_TIMESTAMPS = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_INFINITE_INTERVALS = {
    (2**63 - 1, 2**31 - 1, 2**31 - 1): "infinity",
    (-(2**63), -(2**31), -(2**31)): "-infinity",
}
_EPOCH = 2451545  # 2000-01-01 as a Julian day
_DAY = 86_400_000_000  # microseconds
_NUMERIC = adapters.get_loader(1700, Format.BINARY)
_RANGES = {
    "int4range": "int4",
    "int8range": "int8",
    "numrange": "numeric",
    "daterange": "date",
    "tsrange": "timestamp",
    "tstzrange": "timestamptz",
}


def text_reader(type_name: str) -> Show | None:
    """The function that turns a binary value of the type (named as in `Column.type`) into its text;
    None where the type's binary form is not known here."""
    plain = without_modifier(type_name)
    if plain.endswith("[]"):
        return _array
    if plain in ("int2vector", "oidvector"):
        return _vector
    if plain.startswith("interval "):
        plain = "interval"
    info = adapters.types.get(plain)
    return _show(info.name if info else plain.strip('"'))


def _show(name: str) -> Show | None:
    range_name = name.replace("multirange", "range")
    if range_name not in _RANGES:
        return SHOWN.get(name)
    bound = SHOWN[_RANGES[range_name]]

    def show_range(data: bytes) -> str:
        return _range(data, bound)

    def show_multirange(data: bytes) -> str:
        ranges = [_range(part, bound) for part in _fields(data[4:]) if part]
        return "{" + ",".join(ranges) + "}"

    return show_range if name == range_name else show_multirange


def _number(code: str) -> Show:
    return lambda data: str(struct.unpack(">" + code, data)[0])


def double(value: float, narrow: bool = False) -> str:
    """The shortest digits that stand for the value, in the server's notation (extra_float_digits
    above 0). `narrow` is for float4."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    sign, digits, exponent = Decimal(_shortest(value, narrow)).normalize().as_tuple()
    exponent = int(exponent) + len(digits) - 1
    text = "".join(map(str, digits))
    if not -4 <= exponent < (6 if narrow else 15):
        point = "." if len(text) > 1 else ""
        text = f"{text[0]}{point}{text[1:]}e{exponent:+03d}"
    elif exponent < 0:
        text = "0." + "0" * (-exponent - 1) + text
    elif len(text) > exponent + 1:
        text = text[: exponent + 1] + "." + text[exponent + 1 :]
    elif value:
        text = text.ljust(exponent + 1, "0")
    else:
        text = "0"
    return "-" + text if sign else text


def _shortest(value: float, narrow: bool) -> str:
    """The fewest digits that are nearer to `value` than to any other number of its type.

    Python's repr also accepts digits that lie exactly half way to the next double, where rounding
    leads back to the value; PostgreSQL does not. Below 2^53 no such tie has so few digits.
    """
    if not narrow and abs(value) < 2**53:
        return repr(value)
    for precision in range(17):
        text = f"{value:.{precision}e}"
        if _is_nearest(Fraction(text), value, narrow):
            return text
    raise AssertionError(value)  # 17 digits are always enough


def _is_nearest(candidate: Fraction, value: float, narrow: bool) -> bool:
    if not value:
        return candidate == 0
    integer, real = (">I", ">f") if narrow else (">Q", ">d")
    # The neighbours of a float are those with the next lower and the next higher bits.
    (bits,) = struct.unpack(integer, struct.pack(real, value))
    (inner,) = struct.unpack(real, struct.pack(integer, bits - 1))
    (outer,) = struct.unpack(real, struct.pack(integer, bits + 1))
    exact = Fraction(value)
    below = abs(exact - Fraction(inner)) / 2
    above = below
    if not math.isinf(outer):
        above = abs(Fraction(outer) - exact) / 2
    return abs(exact) - below < abs(candidate) < abs(exact) + above


def _floats(data: bytes) -> Iterator[str]:
    return (double(value) for value in struct.unpack(f">{len(data) // 8}d", data))


def _points(data: bytes) -> str:
    numbers = list(_floats(data))
    return ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))


def _numeric(data: bytes) -> str:
    assert _NUMERIC is not None
    return format(_NUMERIC(1700, None).load(data), "f")


def _date(data: bytes) -> str:
    (days,) = struct.unpack(">i", data)
    if days in _INFINITE_DATES:
        return _INFINITE_DATES[days]
    day, era = _day(days)
    return day + era


def _timestamp(data: bytes, zone: str = "") -> str:
    (moment,) = struct.unpack(">q", data)
    if moment in _INFINITE_TIMESTAMPS:
        return _INFINITE_TIMESTAMPS[moment]
    days, time = divmod(moment, _DAY)
    day, era = _day(days)
    return f"{day} {clock(time)}{zone}{era}"


def _day(days: int) -> tuple[str, str]:
    """The date so many days after 2000-01-01 in the proleptic Gregorian calendar, and its era
    (Richards' algorithm)."""
    julian = days + _EPOCH
    f = julian + 1401 + (((4 * julian + 274277) // 146097) * 3) // 4 - 38
    e = 4 * f + 3
    h = 5 * ((e % 1461) // 4) + 2
    day = (h % 153) // 5 + 1
    month = (h // 153 + 2) % 12 + 1
    year = e // 1461 - 4716 + (14 - month) // 12
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}", ""
    # There is no year 0: 1 BC comes before 1 AD.
    return f"{1 - year:04d}-{month:02d}-{day:02d}", " BC"


def clock(microseconds: int) -> str:
    """Hours, minutes, seconds, and the fraction without trailing zeros."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours:02d}:{minutes:02d}:{seconds:02d}"
    if fraction:
        text += f".{fraction:06d}".rstrip("0")
    return text


def _timetz(data: bytes) -> str:
    time, west = struct.unpack(">qi", data)
    minutes, seconds = divmod(abs(west), 60)
    hours, minutes = divmod(minutes, 60)
    zone = f"{'-' if west > 0 else '+'}{hours:02d}"
    if minutes or seconds:
        zone += f":{minutes:02d}"
    if seconds:
        zone += f":{seconds:02d}"
    return clock(time) + zone


def _interval(data: bytes) -> str:
    time, days, months = struct.unpack(">qii", data)
    if (time, days, months) in _INFINITE_INTERVALS:
        return _INFINITE_INTERVALS[time, days, months]
    years = int(months / 12)  # towards zero, as in C: -13 months are -1 year and -1 month
    months -= years * 12
    parts = []
    was_negative = False
    for count, unit in ((years, "year"), (months, "mon"), (days, "day")):
        if count:
            sign = "+" if was_negative and count > 0 else ""
            plural = "" if count == 1 else "s"
            parts.append(f"{sign}{count} {unit}{plural}")
            was_negative = count < 0
    if time < 0:
        parts.append("-" + clock(-time))
    elif time and was_negative:
        parts.append("+" + clock(time))
    elif time or not parts:
        parts.append(clock(time))
    return " ".join(parts)


def _bool(data: bytes) -> str:
    return "t" if data[0] else "f"


def _char(data: bytes) -> str:
    if data == b"\0":
        return ""
    if data[0] < 128:
        return data.decode()
    return f"\\{data[0]:03o}"


def _bits(data: bytes) -> str:
    (length,) = struct.unpack_from(">i", data)
    return "".join(f"{byte:08b}" for byte in data[4:])[:length]


def _address(data: bytes) -> str:
    # PostgreSQL has its own numbers for the families: 2 is IPv4 and 3 is IPv6 on every system.
    family, bits, is_cidr = data[:3]
    address = data[4:]
    text = socket.inet_ntop(socket.AF_INET if family == 2 else socket.AF_INET6, address)
    is_one_host = bits == len(address) * 8
    if is_one_host and not is_cidr:
        return text
    return f"{text}/{bits}"


def _money(data: bytes) -> str:
    # With a dollar sign, because lc_monetary is pinned to C.
    (cents,) = struct.unpack(">q", data)
    dollars, rest = divmod(abs(cents), 100)
    sign = "-" if cents < 0 else ""
    return f"{sign}${dollars:,}.{rest:02d}"


def _lsn(data: bytes) -> str:
    high, low = struct.unpack(">II", data)
    return f"{high:X}/{low:X}"


def _snapshot(data: bytes) -> str:
    # The number of running transactions comes first, in four bytes.
    low, high, *running = struct.unpack(f">{len(data) // 8}Q", data[4:])
    return f"{low}:{high}:{','.join(map(str, running))}"


def _path(data: bytes) -> str:
    # A byte tells whether it is closed, four bytes hold the number of points.
    points = _points(data[5:])
    return f"({points})" if data[0] else f"[{points}]"


def _circle(data: bytes) -> str:
    return f"<{_points(data[:16])},{double(struct.unpack('>d', data[16:])[0])}>"


SHOWN: dict[str, Show] = {
    **dict.fromkeys(
        ("text", "varchar", "bpchar", "json", "name", "xml"), lambda data: data.decode()
    ),
    "bool": _bool,
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
    "jsonb": lambda data: data[1:].decode(),  # after the version of the format
    "bit": _bits,
    "varbit": _bits,
    "date": _date,
    "time": lambda data: clock(int.from_bytes(data)),
    "timetz": _timetz,
    "timestamp": _timestamp,
    "timestamptz": lambda data: _timestamp(data, "+00"),  # TimeZone is pinned to UTC
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
    "pg_lsn": _lsn,
    "pg_snapshot": _snapshot,
    "txid_snapshot": _snapshot,
}
"""The function for each type, by the name in its catalog."""


def _fields(data: bytes) -> Iterator[bytes | None]:
    """The values in `data`, each of which follows its length; NULL has the length -1."""
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from(">i", data, place)
        place += 4
        yield None if length < 0 else data[place : place + length]
        place += max(length, 0)


def _range(data: bytes, show: Show) -> str:
    # The flags of rangetypes.h.
    is_empty, includes_lower, includes_upper, no_lower, no_upper = (
        data[0] & 1 << bit for bit in range(5)
    )
    if is_empty:
        return "empty"
    bounds = _fields(data[1:])
    lower = "" if no_lower else _quoted_bound(next(bounds), show)
    upper = "" if no_upper else _quoted_bound(next(bounds), show)
    left = "[" if includes_lower else "("
    right = "]" if includes_upper else ")"
    return f"{left}{lower},{upper}{right}"


def _quoted_bound(value: bytes | None, show: Show) -> str:
    return _quoted(show(value or b""), r'["\\(),\[\]\s]', '""')


def _vector(data: bytes) -> str:
    """An int2vector or oidvector: an array of one dimension with a text of its own."""
    dimensions, _, element = struct.unpack_from(">iiI", data)
    show = SHOWN[adapters.types[element].name]
    return " ".join(show(value or b"") for value in _fields(data[12 + 8 * dimensions :]))


def _array(data: bytes) -> str:
    dimensions, _, element = struct.unpack_from(">iiI", data)
    sizes = list(struct.iter_unpack(">ii", data[12 : 12 + 8 * dimensions]))
    name = adapters.types[element].name
    show = _show(name)
    if show is None:
        raise KeyError(name)
    # A box contains commas.
    delimiter = ";" if name == "box" else ","
    special = rf'["\\{{}}{delimiter}\s]'
    texts = []
    for value in _fields(data[12 + 8 * dimensions :]):
        if value is None:
            texts.append("NULL")
        else:
            texts.append(_quoted(show(value), special, '\\"', is_array=True))
    if not dimensions:
        return "{}"
    # From the innermost dimension outwards: each turn joins `size` texts into one.
    for size, _ in reversed(sizes):
        groups = [texts[i : i + size] for i in range(0, len(texts), size)]
        texts = ["{" + delimiter.join(group) + "}" for group in groups]
    if all(lower == 1 for _, lower in sizes):
        return texts[0]
    bounds = "".join(f"[{lower}:{lower + size - 1}]" for size, lower in sizes)
    return f"{bounds}={texts[0]}"


def _quoted(text: str, special: str, quote: str, is_array: bool = False) -> str:
    """The text of an element or a bound, in quotes where it could be read as something else."""
    looks_like_null = is_array and text.upper() == "NULL"
    if text and not looks_like_null and not re.search(special, text, re.ASCII):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', quote) + '"'
