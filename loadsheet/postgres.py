"""Sessions on PostgreSQL: one way to connect, with the same pinned settings on source and
warehouse. With `-vv` the logger of this module shows every statement."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any, Self

import psycopg

from loadsheet.answers import unreadable
from loadsheet.connections.lookup import Connection
from loadsheet.deadline import remaining
from loadsheet.libpq import parameters
from loadsheet.pinned import PINNED, PinnedCursor, PinnedSession, name_connection

# Reading in physical order, always from the first page, gives the same bytes each time for an
# unchanged table. The session that holds the snapshot is idle while others read in it.
SOURCE_SETTINGS = {
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    "idle_in_transaction_session_timeout": "0",
    # As pg_dump does: a limit for reports would end the reading of a large table, time after time.
    "statement_timeout": "0",
}
# Waiting for another session's lock ends with an error after lock_timeout, and a dead client's
# statement ends by itself. A worker that was stopped, or that the network has lost, releases its
# locks in half the time that others wait for them. No session of ours is idle in a transaction for
# more than moments (`warehouse.turn` keeps its own awake).
WAREHOUSE_SETTINGS = {
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "30s",
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
    "statement_timeout": "0",
}
# A dead server is noticed after a minute of silence. With unacknowledged data the kernel would keep
# trying for 15 minutes; a limit below these five would also drop a server that is only too busy to
# read.
NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 300_000,
}

_log = logging.getLogger(__name__)
Session = psycopg.Connection[Any]
EXTRACTOR = "loadsheet:extract"
"""The application_name of sessions that only read. Any session may carry it: it is only shown."""
EXTRACTOR_LOCK = (1282367844, 1936221541)
"""The advisory lock ("Load", "shee" in ASCII) that every transaction on a source holds, shared.
Hold-back does not wait for a transaction that holds it and writes nothing. It works on a standby,
too."""
server_versions: dict[str, str] = {}
"""The version of each server that this process has connected to, by connection id. A bug report
names them."""


def extractor_mark() -> str:
    """SQL that takes EXTRACTOR_LOCK until the transaction ends. It never waits: without the lock,
    other extractions wait for this one."""
    return "pg_catalog.pg_try_advisory_xact_lock_shared({}, {})".format(*EXTRACTOR_LOCK)


class _LoggedCursor(PinnedCursor):
    """Logs the text of each statement. Parameters are not logged: they may be row data."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Self:
        _log.debug("%s", _text(query))
        return super().execute(query, *args, **kwargs)

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        _log.debug("%s", _text(statement))
        return super().copy(statement, *args, **kwargs)


def _text(query: Any) -> str:
    return query.decode(errors="replace") if isinstance(query, bytes) else str(query)


def connect(
    connection: Connection,
    application_name: str,
    settings: dict[str, str],
    read_only: bool = False,
    end: str = "",
) -> PinnedSession:
    """A session with the pinned settings and `settings` in each transaction. A statement outside of
    `transaction()` is committed at once. `end` is what the server is to a pipeline, for messages.

    Raises psycopg.OperationalError when the server cannot be reached, does not answer within 10 s
    or refuses the login; InputError for a connection that cannot be one to PostgreSQL.
    """
    options: dict[str, Any] = {**NETWORK, **parameters(connection)}
    options.setdefault("application_name", application_name)
    # Connecting may not take longer than the step has left. To libpq, 0 means no limit.
    left = remaining()
    if left < (float(options["connect_timeout"]) or math.inf):
        options["connect_timeout"] = max(int(left), 1)
    try:
        session = PinnedSession.connect(
            autocommit=True,
            # Behind a transaction pooler a prepared statement may belong to another session.
            prepare_threshold=None,
            cursor_factory=PinnedCursor,
            client_encoding="UTF8",
            **options,
        )
    except psycopg.Error as error:
        name_connection(error, connection.conn_id, end)
        raise
    session.conn_id = connection.conn_id
    session.end = end
    newer = newer_settings(session.info.server_version)
    session.pin({**PINNED, **settings, **newer}, read_only)
    version = session.info.parameter_status("server_version") or "of unknown version"
    server_versions[connection.conn_id] = version
    _log.info("connected to %s: PostgreSQL %s", connection.conn_id, version)
    if _log.isEnabledFor(logging.DEBUG):  # once per session, so that other runs pay nothing
        session.cursor_factory = _LoggedCursor
    try:
        session.begin_step()
    except BaseException:
        session.close()
        raise
    return session


def ask_together(
    session: Session, *questions: tuple[str, Sequence[Any]]
) -> list[list[tuple[Any, ...]]]:
    """The rows of each question, a SELECT with its parameters, in their order: in one statement,
    which saves a round trip and its CPU time on both sides for each of the others.

    The rows arrive as JSON: texts, booleans, whole numbers and arrays of them come as they are.
    The columns of a question must have different names.
    """
    parts = []
    values: list[Any] = []
    for query, its_values in questions:
        parts.append(f"(SELECT json_agg(part) FROM ({query}) part)")
        values += its_values
    row = session.execute(f"SELECT {', '.join(parts)}", values).fetchone()
    assert row
    for rows in row:
        if not isinstance(rows, list | None) or not all(
            isinstance(one, dict) for one in rows or ()
        ):
            raise unreadable(session, "something else where rows were asked for")
    return [[tuple(each.values()) for each in rows or ()] for rows in row]


def newer_settings(server_version: int) -> dict[str, str]:
    """Further settings of a session, which older servers do not know."""
    return {"transaction_timeout": "0"} if server_version >= 170000 else {}


def connect_source(connection: Connection) -> PinnedSession:
    """A session whose transactions only read: a view of the source may call a function that writes.
    By the lock that they hold, other extractions know not to wait for them."""
    session = connect(connection, EXTRACTOR, SOURCE_SETTINGS, read_only=True, end="source")
    session.mark = extractor_mark()
    return session


def connect_warehouse(connection: Connection) -> PinnedSession:
    """A session that writes staging, marts and the ledger.

    The connection's own `options` (`-c lock_timeout=5min`) override WAREHOUSE_SETTINGS, but never
    PINNED.
    """
    chosen = _chosen(str(connection.extra.get("options", "")))
    # Set by us as well, because PgBouncer may take `options` and pass none of it on.
    ours = {name: chosen.get(name, value) for name, value in WAREHOUSE_SETTINGS.items()}
    return connect(connection, "loadsheet", ours, end="warehouse")


def _chosen(options: str) -> dict[str, str]:
    """The settings in libpq's `options`. A backslash keeps the character behind it."""
    given = re.findall(r"(?:-c\s*|--)([\w-]+)\s*=((?:\\.|[^\s\\])*)", options)
    return {name.replace("-", "_").lower(): re.sub(r"\\(.)", r"\1", value) for name, value in given}
