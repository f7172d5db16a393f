"""Reads what a server answers: numbers, JSON and keys that arrive as text.

An answer is not trusted. What is between here and the server may have changed it, or be no
PostgreSQL at all. Whatever is not as PostgreSQL sends it raises Unreadable, which names the server;
it never becomes another number, and no traceback. Values of other types are read in the same way by
the cursors of `loadsheet.pinned`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from loadsheet.errors import Unreadable
from loadsheet.redact import server_text

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
# `int()` would also take 1_0 and blanks.
_WHOLE = re.compile("-?[0-9]{1,100}")
_NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?(e[+-]?[0-9]{1,4})?", re.IGNORECASE)
BROKEN_VALUE = (ValueError, ArithmeticError, RecursionError)
"""What reading a value raises that is not as its type demands."""


def unreadable(session: psycopg.Connection[Any], what: str) -> Unreadable:
    """The error for an answer of the session's server in which there is `what`: words of ours,
    because what it holds instead may be row data."""
    server = server_text(getattr(session, "end", ""), getattr(session, "conn_id", ""))
    return Unreadable(
        f"{server}its answer cannot be read: there is {what}. Next: check what the connection leads"
        " to, and what is between here and there, such as a pooler"
    )


def whole_number(session: psycopg.Connection[Any], text: object) -> int:
    """The whole number that the server has sent as text. Raises Unreadable."""
    if not isinstance(text, str) or not _WHOLE.fullmatch(text):
        raise unreadable(session, "no number where one was asked for")
    return int(text)


def is_number(text: object) -> bool:
    """Whether the text is a decimal number, as PostgreSQL writes it."""
    return isinstance(text, str) and _NUMBER.fullmatch(text) is not None


def key_texts(session: psycopg.Connection[Any], text: object, columns: int) -> list[Any]:
    """The texts of a key's columns, which the server has sent as a JSON array; None for NULL.
    Raises Unreadable."""
    found: Any = None
    if isinstance(text, str):
        with suppress(*BROKEN_VALUE):
            found = json.loads(text)
    is_key = isinstance(found, list) and len(found) == columns
    if not is_key or not all(part is None or isinstance(part, str) for part in found):
        raise unreadable(session, "no key where one was asked for")
    return found  # type: ignore[no-any-return]


def texts(session: psycopg.Connection[Any], value: object) -> dict[str, str] | None:
    """The JSON object of texts that the server has sent; None for NULL. Raises Unreadable."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise unreadable(session, "something else where texts were asked for")
    return value


def columns(session: psycopg.Connection[Any], value: object) -> list[dict[str, Any]] | None:
    """The columns of a table as the ledger has them: each with its name, types and number; None for
    NULL. Raises Unreadable."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_column(one) for one in value):
        raise unreadable(session, "something else where columns were asked for")
    return value


def _is_column(one: object) -> bool:
    return (
        isinstance(one, dict)
        and all(isinstance(one.get(name), str) for name in ("name", "type"))
        and type(one.get("attnum")) is int
    )


def names(session: psycopg.Connection[Any], text: str) -> list[str] | None:
    """The names in a JSON array, as the ledger has them; None for null. Raises Unreadable."""
    found: Any = 0
    with suppress(*BROKEN_VALUE):
        found = json.loads(text)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise unreadable(session, "something else where names were asked for")
    return found


def known(session: psycopg.Connection[Any], of: Mapping[_Key, _Value], key: Any) -> _Value:
    """The value of `key`, which the server has sent and must have been asked about. Raises
    Unreadable."""
    try:
        return of[key]
    except (KeyError, TypeError):
        raise unreadable(session, "something that was not asked about") from None


def at(session: psycopg.Connection[Any], of: Sequence[_Value], place: Any) -> _Value:
    """What is at this place, counted from 0, which the server has sent and must have been asked
    about. Raises Unreadable."""
    if type(place) is not int or not 0 <= place < len(of):
        raise unreadable(session, "something that was not asked about")
    return of[place]


def take_once(session: psycopg.Connection[Any], left: set[int], number: int) -> None:
    """Take the number that the server has sent from those that it was asked for. Raises Unreadable
    where it is none of them, or was taken before."""
    if number not in left:
        raise unreadable(session, "something that was not asked about, or that is there twice")
    left.remove(number)


def plan(session: psycopg.Connection[Any], row: Any) -> dict[str, Any]:
    """The plan in the only row that EXPLAIN (FORMAT JSON) has answered. Its costs and rows are
    numbers, in all nodes. Raises Unreadable."""
    try:
        found = row[0][0]["Plan"]
    except (TypeError, LookupError):
        found = None
    if not _is_plan(found):
        raise unreadable(session, "no plan where one was asked for")
    return dict(found)


def _is_plan(node: Any) -> bool:
    if not isinstance(node, dict) or not isinstance(node.get("Node Type"), str):
        return False
    numbers = ("Total Cost", "Plan Rows", "Plan Width")
    if not all(type(node.get(name)) in (int, float) for name in numbers):
        return False
    below = node.get("Plans", [])
    return isinstance(below, list) and all(_is_plan(child) for child in below)
