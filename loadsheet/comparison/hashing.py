"""SQL that hashes the values of a row by the server's own hash functions, one after the other.

The hash of each value is the seed of the next one's:

    hash(row, seed) = hash(value 2, hash(value 1, seed))

To form a row and to hash that instead took up to twice as long. Two rows that differ have the same
hash with a probability of about 2^-64, whichever columns differ, and the same two hashes, of other
seeds, with one of 2^-128. That rests on three rules:

- Some of the server's functions leave something out: the sign of a numeric, half of a bigint or a
  timestamp. That is then a part of its own.
- An integer goes into the seed of the next value's hash as it is, by an XOR, and only into one that
  is a hash: two integers that swap their values would leave their XOR as it was.
- NULL stands for a number that a type does not have. Where it has all, another value stands for
  NULL in each of the two hashes, so one of them, with 2^-64, tells such a value from NULL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loadsheet.sql.types import modifier, without_modifier


class Recipe(NamedTuple):
    """How values of a column are hashed."""

    parts: tuple[str, ...]
    """SQL of what is hashed, computed once for two hashes."""
    function: str
    """SQL of the hash, with places for the parts, the `seed` and the `number` of the hash."""


_INTEGER = "{0} # {seed}"
_BIGINT = "coalesce({0}, -922337203685477580{number}) # {seed}"
_TIMESTAMP = "timestamp_hash_extended({0}, {1} # {seed})"
# The hashes of 0 and NaN are the seed or the number before it, so they are hashed again.
_NUMERIC = "hashint4extended({1}, hash_numeric_extended({0}, {seed}))"
_FLOAT = "hashint4extended({1}, hashfloat8extended({0}, {seed}))"
_UUID = (
    "uuid_hash_extended(coalesce({0},"
    " CAST('6f6b1c0e-5b5d-4b8e-9d0a-1f2a3b4c5d0{number}' AS uuid)), {seed})"
)
_BYTES = "hash_record_extended({0}, {seed})"
_TEXT = "hashtextextended(coalesce({0}, 'no value {number}'), {seed})"
_MIXED = "hashint4extended(0, {seed})"
# What these return is no hash yet. And to the seed of these, and of a timestamp, an integer is
# added, which must be a hash before.
_UNMIXED = (_INTEGER, _BIGINT)
_NEED_MIXED = (_INTEGER, _BIGINT, _TIMESTAMP)

# No smaller integer, no date and no second is this number.
_NO_NUMBER = -(2**62)
_START = "2000-01-01"
_LONG = 2000
_INTEGERS = ("smallint", "integer", "oid")
# A cast shows them as COPY does, or says more. `format`, which is right for all types, looks up for
# each value how to show it: that took as long again as showing a number.
_SHOWN_BY_CAST = (
    *("json", "jsonb", "inet", "cidr"),
    *("interval", "time without time zone", "time with time zone"),
)


def recipe(value: str, type_name: str, text: str) -> Recipe:
    """How `value`, SQL of this type, is hashed so that it hashes alike on both sides if, and only
    if, it is the same. `text` is SQL for it as text."""
    plain = without_modifier(type_name)
    if plain == "bigint":
        return Recipe((value,), _BIGINT)
    if plain in _INTEGERS:
        return _integer(f"CAST({value} AS bigint)")
    if plain == "boolean":
        return _integer(f"CAST(CAST({value} AS integer) AS bigint)")
    if plain == "date":
        # The operator for the difference of two dates fails where one is infinite.
        return _integer(f"CAST(daterange_subdiff({value}, '{_START}') AS bigint)")
    if plain == "timestamp with time zone":
        # Unlike a cast, this does not look up the time zone of the session.
        moved = f"timezone(interval '0', {value})"
        return _timestamp(moved, f"tstzrange_subdiff({value}, '{_START} 00:00:00+00')")
    if plain == "timestamp without time zone":
        return _timestamp(value, f"tsrange_subdiff({value}, '{_START}')")
    if plain == "numeric":
        return Recipe((f"coalesce({value}, 0)", _sign_and_scale(value, type_name)), _NUMERIC)
    if plain in ("real", "double precision"):
        number = f"coalesce(CAST({value} AS double precision), 0)"
        return Recipe((number, _sign_of_zero(value)), _FLOAT)
    if plain == "uuid":
        return Recipe((value,), _UUID)
    if plain == "bytea":
        return Recipe((f"ROW({value}, {value} IS NULL)",), _BYTES)
    if plain in ("text", "character varying"):
        # What is stored compressed would be unpacked for each of the two hashes: 1.8 times the CPU.
        unpacked = f"CASE WHEN octet_length({value}) > {_LONG} THEN {value} || '' ELSE {value} END"
        return Recipe((f'{unpacked} COLLATE "C"',), _TEXT)
    if plain in _SHOWN_BY_CAST:
        text = f"CAST({value} AS text)"
    return Recipe((f'{text} COLLATE "C"',), _TEXT)


def _integer(value: str) -> Recipe:
    return Recipe((f"coalesce({value}, {_NO_NUMBER})",), _INTEGER)


def _timestamp(value: str, seconds: str) -> Recipe:
    """`seconds` are rounded, and less exact far from now. The hash of a time has 32 bits, in which
    times differ that are so close."""
    whole = f"coalesce(CAST({seconds} AS bigint), {_NO_NUMBER})"
    return Recipe((f"coalesce({value}, timestamp 'infinity')", whole), _TIMESTAMP)


def _sign_and_scale(value: str, type_name: str) -> str:
    """An integer for what the hash of a numeric leaves out: its sign, NULL, and the digits after
    the point, where the column does not fix them."""
    if modifier(type_name):
        return f"coalesce(numeric_cmp({value}, 0), 2)"
    # NaN and infinite values have no scale, and one hash.
    return (
        f"coalesce(numeric_cmp({value}, 0) * 20000 + scale({value}),"
        f" 100000 + numeric_cmp({value}, 'Infinity'), 2000000)"
    )


def _sign_of_zero(value: str) -> str:
    """An integer for what the hash of a floating-point number leaves out: that, and NULL."""
    zero = f"CASE CAST({value} AS text) WHEN '-0' THEN 1 ELSE 0 END"
    return f"CASE WHEN {value} = 0 THEN {zero} WHEN {value} IS NULL THEN 2 ELSE 0 END"


def chained(recipes: Iterable[Recipe], parts: Sequence[str], seed: str, number: int) -> str:
    """SQL for the hash of a row: of the values of these recipes, whose parts are `parts`.

    `number` is a digit that tells one hash from another.
    """
    left = iter(parts)
    result = seed
    is_mixed = True
    for each in recipes:
        own = [next(left) for _ in each.parts]
        if not is_mixed and each.function in _NEED_MIXED:
            result = _MIXED.format(seed=result)
        result = each.function.format(*own, seed=result, number=number)
        is_mixed = each.function not in _UNMIXED
    return result if is_mixed else _MIXED.format(seed=result)
