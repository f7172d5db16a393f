"""Read-only sessions for a preview, and questions that a server may refuse or leave unanswered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from loadsheet.connections.lookup import Connection, Connections
from loadsheet.engine.diagnosis import named, told
from loadsheet.errors import LoadsheetError, Unavailable
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.preview.models import StepPreview
from loadsheet.redact import message
from loadsheet.source.access import RowsHidden
from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)

_SECONDS = 5
_SETTINGS = {
    "statement_timeout": f"{_SECONDS}s",
    "lock_timeout": "2s",
}
UNANSWERED = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)
"""The errors of a query that took too long, or that waited too long for a lock."""
NOT_KNOWN = (
    f"not known: the answer takes longer than {_SECONDS} s, or another session has locked the table"
)


@contextmanager
def read_only_sessions(
    pipeline: Pipeline, connections: Connections
) -> Iterator[tuple[PinnedSession, PinnedSession]]:
    """Sessions on the source and the warehouse.

    Raises Unavailable, naming the connection, when a server cannot be reached.
    """
    source_connection = connections(pipeline.source.conn_id)
    with _open(connect_source, source_connection) as source:
        warehouse_connection = connections(pipeline.warehouse.conn_id)
        with _open(connect_warehouse, warehouse_connection) as warehouse:
            yield source, warehouse


def _open(connect: Callable[[Connection], PinnedSession], connection: Connection) -> PinnedSession:
    try:
        session = connect(connection)
        # The server itself keeps the session from writing, also in functions behind a view.
        session.pin(_SETTINGS, read_only=True)
    except psycopg.Error as error:
        raise Unavailable(told(error)) from error
    return session


def ask(preview: StepPreview, code: str, question: Callable[[], Any]) -> Any:
    """The answer to the question.

    Where the engine would refuse, the role lacks a right, or the answer takes too long, adds a
    remark to the preview and returns None.
    """
    try:
        return question()
    except RowsHidden as error:
        preview.add_error("privilege", str(error), error.fix, "source")
    except LoadsheetError as error:
        preview.add_error(code, str(error))
    except UNANSWERED:
        _log.debug("%s: no answer about %s in time", preview.id, code)
        preview.add_remark("note", code, NOT_KNOWN)
    except psycopg.errors.InsufficientPrivilege as error:
        preview.add_error("privilege", f"{named(error)}{message(error)}")
    return None
