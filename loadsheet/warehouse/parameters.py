"""The named parameters of a transform's SQL: their values, and what they ask of the transaction."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from loadsheet.outcome import RunRequest
from loadsheet.spec.models import Transform
from loadsheet.spec.schedule import is_number
from loadsheet.sql.params import Param, split_params, uses_since_load, uses_until_load

NO_END = 2**63 - 1
"""`:until_load` in a view, which shows what is loaded later as well."""


def bind_parameters(
    text: str, request: RunRequest, since_load: int, until_load: int = NO_END
) -> sql.Composed:
    """The SQL with its named parameters bound by the driver as literals (numbers, times and text),
    never pasted."""
    values: dict[str, Any] = {
        "since_load": sql.Literal(since_load),
        # A SELECT may show it, and its type must not depend on its size.
        "until_load": sql.SQL("CAST({} AS bigint)").format(sql.Literal(until_load)),
        "interval_start": _cursor_literal(request.interval_start),
        "interval_end": _cursor_literal(request.interval_end),
        "run_id": sql.Literal(request.run_id),
    }
    pieces: list[sql.Composable] = []
    for piece in split_params(text):
        if isinstance(piece, Param):
            pieces.append(values[piece.name])
        else:
            pieces.append(sql.SQL(piece))
    return sql.Composed(pieces)


def must_hold_inputs(transform: Transform) -> bool:
    """Whether no load of an input may commit while the transform runs.

    A script that adds the rows after `:since_load` reads whatever is committed, and the next run
    would add those of a later load again. With `:until_load` it leaves them to the next run, and a
    merge may read a row twice.
    """
    if transform.materialized != "script" or uses_until_load(transform.sql):
        return False
    return uses_since_load(transform.sql)


def _cursor_literal(value: str | None) -> sql.Composed:
    kind = "numeric" if value is not None and is_number(value) else "timestamptz"
    return sql.SQL(f"CAST({{}} AS {kind})").format(sql.Literal(value))
