"""Sessions on PostgreSQL: one way to connect, the same pinned settings on both sides."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping
from typing import Any, Self

import psycopg

from loadsheet.connections.lookup import Connection
from loadsheet.deadline import remaining, watch

# What a database or a role may set for its sessions, and what changes values, names, answers or
# their order by it: unpinned, float digits were lost silently, NULL in an array became a word, and
# a stale snapshot was taken before a lock was had (tests/faults/hostile.py sets each of them
# otherwise).
PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    "gin_fuzzy_search_limit": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "search_path": "pg_catalog",
    # Rows that a policy hides from the role are an error, not a smaller table.
    "row_security": "off",
}
# Reading in physical order, always from the first page, makes the bytes of an unchanged table the
# same each time. The session that holds the snapshot only waits while others read in it. A view of
# the source may call a function that writes: not for us, in no transaction.
SOURCE_SETTINGS = {
    "default_transaction_read_only": "on",
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    "idle_in_transaction_session_timeout": "0",
}
# A lock held by another session is an error after this long, not a hang; a dead client's statement
# ends by itself. A worker that was stopped, or that the network has lost, gives its locks back in
# half the time others wait for them: nothing of ours is idle in a transaction for more than
# moments.
WAREHOUSE_SETTINGS = {
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "30s",
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
}
# A server that is gone is noticed after a minute of silence. With data on its way the kernel would
# try for 15 minutes; less than these five would also end the line to a server that is merely too
# busy to read.
NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 300_000,
}

_log = logging.getLogger(__name__)
server_versions: dict[str, str] = {}
"""The version of each server that this process has connected to, by connection id. A bug report
names them."""
Session = psycopg.Connection[Any]
EXTRACTOR = "loadsheet:extract"
_LIBPQ_EXTRAS = {
    *(
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
        "sslpassword",
        "channel_binding",
        "gssencmode",
    ),
    *("target_session_attrs", "connect_timeout", "tcp_user_timeout", "options"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
}


class PinnedSession(psycopg.Connection[Any]):
    """Says that the line broke when it did: psycopg 3.3 may trip over its own expectations first (a
    ValueError, where the server's last words came before the end of a COPY), and the caller would
    not know that a retry helps."""

    pins: Mapping[str, str] = {}

    def begin_step(self) -> None:
        """Belong to the step that runs now: end with its time, and have the pinned settings,
        whatever ran before.

        Raises psycopg.Error when the line is dead.
        """
        watch(lambda: _shut(self))
        _pin(self, self.pins)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's; raises psycopg.OperationalError for whatever went wrong on a broken
        line."""
        try:
            return super().wait(*args, **kwargs)
        except Exception as error:
            if isinstance(error, psycopg.Error) or not self.broken:
                raise
            said = self.pgconn.get_error_message().strip()
            raise psycopg.OperationalError(said or "the line to the server broke") from error


class _LoggedCursor(psycopg.Cursor[Any]):
    """Logs each statement, never the parameters: those are values of rows."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Self:
        _log.debug("%s", _text(query))
        return super().execute(query, *args, **kwargs)

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        _log.debug("%s", _text(statement))
        return super().copy(statement, *args, **kwargs)


def _text(query: Any) -> str:
    return query.decode(errors="replace") if isinstance(query, bytes) else str(query)


def connect(
    connection: Connection, application_name: str, settings: dict[str, str]
) -> PinnedSession:
    """An autocommit session with the pinned settings and `settings`; transactions are opened
    explicitly.

    Raises psycopg.OperationalError when the server cannot be reached, says nothing for 10 s or
    refuses the login.
    """
    extras = {key: value for key, value in connection.extra.items() if key in _LIBPQ_EXTRAS}
    session = PinnedSession.connect(
        autocommit=True,
        host=connection.host or None,
        port=connection.port or None,
        user=connection.login or None,
        password=connection.password or None,
        dbname=connection.schema or None,
        application_name=application_name,
        client_encoding="UTF8",
        **_network(extras),
    )
    session.pins = {**PINNED, **settings}
    version = session.info.parameter_status("server_version") or "of unknown version"
    server_versions[connection.conn_id] = version
    _log.info("connected to %s: PostgreSQL %s", connection.conn_id, version)
    if _log.isEnabledFor(logging.DEBUG):
        session.cursor_factory = _LoggedCursor
    try:
        session.begin_step()
    except BaseException:
        session.close()
        raise
    return session


def _network(extras: dict[str, Any]) -> dict[str, Any]:
    """libpq's options: ours, then the connection's own; no login may take longer than the
    step may take."""
    options = {**NETWORK, **extras}
    if (left := remaining()) < float(options["connect_timeout"]):
        options["connect_timeout"] = max(int(left), 1)
    return options


def _pin(session: psycopg.Connection[Any], settings: Mapping[str, str]) -> None:
    # behind a transaction pooler a prepared statement may be another session's
    session.prepare_threshold = None
    session.execute(
        "SELECT " + ", ".join(["pg_catalog.set_config(%s, %s, false)"] * len(settings)),
        [text for pair in settings.items() for text in pair],
    )


def _shut(session: psycopg.Connection[Any]) -> None:
    """Close the line under a waiting call, which then sees the server go away."""
    # A duplicate for a moment, because libpq owns the descriptor; held any longer it would keep the
    # line open.
    with socket.socket(fileno=os.dup(session.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


def connect_source(connection: Connection) -> PinnedSession:
    """A session that only reads. Its name lets other extractions know that it holds nothing
    back."""
    return connect(connection, EXTRACTOR, SOURCE_SETTINGS)


def connect_warehouse(connection: Connection) -> PinnedSession:
    """A session that writes staging, marts and the ledger.

    The connection's own `options` (`-c lock_timeout=5min`) beat WAREHOUSE_SETTINGS, but never
    PINNED.
    """
    named = re.findall(r"(?:-c\s*|--)([\w-]+)\s*=", str(connection.extra.get("options", "")))
    chosen = {name.replace("-", "_").lower() for name in named}
    ours = {name: value for name, value in WAREHOUSE_SETTINGS.items() if name not in chosen}
    return connect(connection, "loadsheet", ours)
