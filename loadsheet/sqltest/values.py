"""Values as tests write them -> values of PostgreSQL's types, and back to text that can be
compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import psycopg

from loadsheet.errors import InputError
from loadsheet.postgres import Session
from loadsheet.sqltest.models import Row

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?")

# A number with decimals, or a text, in which there may be something that looks like one.
_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+\.\d+')


def guessed_types(rows: Iterable[Row], declared: Mapping[str, str]) -> dict[str, str]:
    """A type for every column that is declared or has a value in `rows`. Raises InputError where
    values disagree."""
    types = dict(declared)
    for row in rows:
        for name, value in row.values.items():
            if name in declared:
                continue
            guess, before = _guess(value), types.get(name)
            if before in (None, guess, "unknown") or guess == "unknown":
                types[name] = guess if before in (None, "unknown") else before
            elif {before, guess} == {"bigint", "numeric"}:
                types[name] = "numeric"
            else:
                raise InputError(
                    f"{row.where} {name} is {guess} here and {before} above: give its type under"
                    " `tables`"
                )
    for name, kind in types.items():
        if kind == "unknown":
            types[name] = "text"
    return types


def _guess(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "bigint"
    if isinstance(value, float | Decimal):
        return "numeric"
    if isinstance(value, dict | list):
        return "jsonb"
    if _DATE.fullmatch(value):
        return "date"
    if match := _TIME.fullmatch(value):
        return "timestamptz" if match[3] else "timestamp"
    return "text"


def casts(values: Mapping[str, Any], types: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    """SQL that makes a value of each column's type, with its parameters."""
    pieces, parameters = [], []
    for name, value in values.items():
        kind = types[name]
        is_list = isinstance(value, list) and kind.endswith("[]")
        pieces.append(
            f"CAST(CAST(%s AS text[]) AS {kind})"
            if is_list
            else f"CAST(CAST(%s AS text) AS {kind})"
        )
        parameters.append(_items(value, kind) if is_list else _text(value))
    return pieces, parameters


def _items(values: list[Any], kind: str) -> list[Any]:
    """A list in a list is one more dimension, unless it is a value of its own."""
    items: list[Any] = []
    for value in values:
        if isinstance(value, list) and not kind.startswith("json"):
            items.append(_items(value, kind))
        else:
            items.append(_text(value))
    return items


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def as_text(sql: str, kind: str) -> str:
    """SQL for a value's text, in which a JSON object has no order."""
    return f"CAST(CAST({sql} AS jsonb) AS text)" if kind == "json" else f"CAST({sql} AS text)"


def comparable(text: str | None, kind: str) -> str | None:
    """The text by which two values of a type are the same: 1.0 is 1.00, in JSON and in arrays of
    numbers, too."""
    if text is None or not kind.startswith(("numeric", "json")):
        return text
    return _NUMBER.sub(_without_trailing_zeros, text)


def _without_trailing_zeros(found: re.Match[str]) -> str:
    text = found[0]
    if text.startswith('"'):  # a number inside a JSON string is text
        return text
    return text.rstrip("0").rstrip(".")


def shown(session: Session, row: Row, types: Mapping[str, str]) -> dict[str, str | None]:
    """The row's values as `as_text` shows them. Raises InputError for a value that is none of its
    column's type."""
    pieces, parameters = casts(row.values, types)
    texts = [as_text(piece, types[name]) for piece, name in zip(pieces, row.values, strict=True)]
    values = (
        execute(session, f"SELECT {', '.join(texts) or 'NULL'}", parameters, row, types).fetchone()
        or ()
    )
    return {
        name: comparable(value, types[name])
        for name, value in zip(row.values, values, strict=False)
    }


def execute(
    session: Session, statement: str, parameters: list[Any], row: Row, types: Mapping[str, str]
) -> Any:
    """Run a statement whose parameters are the row's. Raises InputError that names the value which
    does not fit."""
    try:
        with session.transaction():
            return session.execute(statement, parameters)
    except psycopg.Error as error:
        for name, value in row.values.items():
            one, parameter = casts({name: value}, types)
            try:
                with session.transaction():
                    session.execute(f"SELECT {one[0]}", parameter)
            except psycopg.Error as cause:
                raise InputError(f"{row.where} {name}: {cause.diag.message_primary}") from None
        raise InputError(f"{row.where} {error.diag.message_primary}") from None
