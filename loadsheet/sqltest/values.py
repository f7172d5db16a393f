"""From the values in test files to values of PostgreSQL's types, and back to comparable text."""

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
# A number with decimals. Quoted text is matched as a whole, because it may contain such a number.
_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+\.\d+')


def guessed_types(rows: Iterable[Row], declared: Mapping[str, str]) -> dict[str, str]:
    """A type for every column that is declared or has a value in `rows`. Raises InputError if
    values disagree."""
    types = dict(declared)
    for row in rows:
        for name, value in row.values.items():
            if name in declared:
                continue
            guess = _guess(value)
            before = types.get(name, "unknown")
            if before == "unknown":
                types[name] = guess
            elif {before, guess} == {"bigint", "numeric"}:
                types[name] = "numeric"
            elif guess not in (before, "unknown"):
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
    time = _TIME.fullmatch(value)
    if time:
        return "timestamptz" if time[3] else "timestamp"
    return "text"


def casts(values: Mapping[str, Any], types: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    """SQL expressions that create a value of each column's type, and their parameters."""
    # The inner cast to text makes PostgreSQL read every value as it reads text in a file; without
    # it, the type of the Python value would decide.
    expressions: list[str] = []
    parameters: list[Any] = []
    for name, value in values.items():
        kind = types[name]
        if isinstance(value, list) and kind.endswith("[]"):
            expressions.append(f"CAST(CAST(%s AS text[]) AS {kind})")
            parameters.append(_array(value, kind))
        else:
            expressions.append(f"CAST(CAST(%s AS text) AS {kind})")
            parameters.append(_text(value))
    return expressions, parameters


def _array(values: list[Any], kind: str) -> list[Any]:
    """The texts of an array's elements. A list within is one more dimension, or an element if the
    elements are JSON."""
    items: list[Any] = []
    for value in values:
        if isinstance(value, list) and not kind.startswith("json"):
            items.append(_array(value, kind))
        else:
            items.append(_text(value))
    return items


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def text_sql(sql: str, kind: str) -> str:
    """SQL for a value's text. JSON goes through jsonb, so that the order of keys does not count."""
    if kind == "json":
        return f"CAST(CAST({sql} AS jsonb) AS text)"
    return f"CAST({sql} AS text)"


def comparable(text: str | None, kind: str) -> str | None:
    """A text that is equal for equal values: 1.0 and 1.00 are the same, also in JSON and arrays."""
    if text is None or not kind.startswith(("numeric", "json")):
        return text
    return _NUMBER.sub(_without_trailing_zeros, text)


def _without_trailing_zeros(number: re.Match[str]) -> str:
    text = number[0]
    if text.startswith('"'):  # a number inside a JSON string is text
        return text
    return text.rstrip("0").rstrip(".")


def row_texts(session: Session, row: Row, types: Mapping[str, str]) -> dict[str, str | None]:
    """The row's values as `text_sql` shows them. Raises InputError for a value that does not fit
    its column's type."""
    if not row.values:
        return {}
    expressions, parameters = casts(row.values, types)
    names = list(row.values)
    texts = [text_sql(sql, types[name]) for sql, name in zip(expressions, names, strict=True)]
    query = f"SELECT {', '.join(texts)}"
    values = execute_for_row(session, query, parameters, row, types).fetchone()
    return {name: comparable(value, types[name]) for name, value in zip(names, values, strict=True)}


def execute_for_row(
    session: Session, statement: str, parameters: list[Any], row: Row, types: Mapping[str, str]
) -> Any:
    """Run a statement whose parameters are the row's values. Raises InputError that names the value
    which does not fit."""
    try:
        # A savepoint: after an error, the statements below still have to run.
        with session.transaction():
            return session.execute(statement, parameters)
    except psycopg.Error as error:
        # Which of the values it was: only a statement with one value tells.
        for name, value in row.values.items():
            (expression,), parameter = casts({name: value}, types)
            try:
                with session.transaction():
                    session.execute(f"SELECT {expression}", parameter)
            except psycopg.Error as cause:
                raise InputError(f"{row.where} {name}: {cause.diag.message_primary}") from None
        raise InputError(f"{row.where} {error.diag.message_primary}") from None
