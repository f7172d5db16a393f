"""Read-only sessions for a preview, and what to report where a server does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from loadsheet.connections.lookup import Connection, Connections
from loadsheet.engine.diagnosis import diagnose
from loadsheet.errors import LoadsheetError, Unavailable
from loadsheet.postgres import PinnedSession, Session, connect_source, connect_warehouse
from loadsheet.preview.models import StepPreview
from loadsheet.spec.models import Pipeline

_SECONDS = 5
_SETTINGS = {
    "default_transaction_read_only": "on",
    "statement_timeout": f"{_SECONDS}s",
    "lock_timeout": "2s",
}
UNANSWERED = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)
NOT_KNOWN = (
    f"not known: the answer takes longer than {_SECONDS} s, or another session has locked the table"
)


@contextmanager
def read_only(pipeline: Pipeline, connections: Connections) -> Iterator[tuple[Session, Session]]:
    """The source and the warehouse. Raises Unavailable, naming the connection, when one cannot be
    had."""
    source = _open(connect_source, connections(pipeline.source.conn_id), "source")
    with (
        source,
        _open(connect_warehouse, connections(pipeline.warehouse.conn_id), "warehouse") as warehouse,
    ):
        yield source, warehouse


def _open(
    connect: Callable[[Connection], PinnedSession], connection: Connection, role: str
) -> PinnedSession:
    try:
        session = connect(connection)
        session.pins = {**session.pins, **_SETTINGS}
        session.begin_step()
    except psycopg.Error as error:
        raise Unavailable(
            f"the {role} (connection {connection.conn_id!r}): {diagnose(error)}"
        ) from error
    return session


def asked(found: StepPreview, code: str, question: Callable[[], Any]) -> Any:
    """The answer; None, and a remark, when it is a refusal or takes too long."""
    try:
        return question()
    except LoadsheetError as error:
        found.error(code, str(error))
    except UNANSWERED:
        found.tell("note", code, NOT_KNOWN)
    except psycopg.errors.InsufficientPrivilege as error:
        found.error("privilege", error.diag.message_primary or str(error))
    return None
