"""Errors in a transform's SQL, with the line and the column of its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.spec.models import Transform
from loadsheet.sql.excerpt import Excerpt, excerpt
from loadsheet.sql.params import Param, split_params


@contextmanager
def errors_located(
    session: Session, transform: Transform, create: str, bound: sql.Composed
) -> Iterator[None]:
    """Within, `create` and the transform's SQL, with its parameters `bound`, are sent as one text.

    Raises Refused with line, column and caret for an error whose place in the SQL the server names.
    Others stay: of an error that a row brings about, the server does not know the place.
    """
    try:
        yield
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        place = place_of(session, transform, create, bound, error)
        if place is None:
            raise
        refused = Refused(
            f"{transform.file}:{place.line}:{place.column}: {error.diag.message_primary}"
            f" (SQLSTATE {error.sqlstate})"
        )
        refused.excerpt = place.text
        raise refused from error


def place_of(
    session: Session,
    transform: Transform,
    create: str,
    bound: sql.Composed,
    error: psycopg.Error,
) -> Excerpt | None:
    """The place in the transform's file that the server's error is about; None where it names none
    there. `create` and `bound` are what was sent."""
    position = error.diag.statement_position
    if position is None:
        return None
    offset = _offset_in_file(transform.sql, bound, int(position) - 1 - len(create), session)
    return None if offset is None else excerpt(transform.sql, offset)


def _offset_in_file(text: str, bound: sql.Composed, position: int, session: Session) -> int | None:
    """The offset in `text` of the character at `position` (from 0) of its `bound` form; that of a
    parameter where the position is in its value, None where it is outside of the text."""
    offset = 0
    for piece, value in zip(split_params(text), bound, strict=True):
        length = len(value.as_string(session))
        if isinstance(piece, Param):
            if 0 <= position < length:
                return offset
            offset += 1 + len(piece.name)
        else:
            if 0 <= position < length:
                return offset + position
            offset += len(piece)
        position -= length
    return None
