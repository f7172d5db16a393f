"""Sessions on PostgreSQL: one way to connect, with the same pinned settings on source and
warehouse. With `-vv` the logger of this module shows every statement."""

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

# Settings that a database or a role may set for its sessions and that change values, names, answers
# or their order. Without the pins, digits of floats were lost silently, NULL in an array became the
# text "NULL", and a stale snapshot was taken before a lock was acquired. tests/faults/hostile.py
# sets each of them to another value.
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
# Reading in physical order, always from the first page, gives the same bytes each time for an
# unchanged table. The session that holds the snapshot is idle while others read in it. A view of
# the source may call a function that writes: read-only transactions refuse that.
SOURCE_SETTINGS = {
    "default_transaction_read_only": "on",
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    "idle_in_transaction_session_timeout": "0",
}
# Waiting for another session's lock ends with an error after lock_timeout, and a dead client's
# statement ends by itself. A worker that was stopped, or that the network has lost, releases its
# locks in half the time that others wait for them. No session of ours is idle in a transaction for
# more than moments.
WAREHOUSE_SETTINGS = {
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "30s",
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
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

# libpq's options that a connection's extra may set.
_LIBPQ_EXTRAS = {
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword"),
    *("channel_binding", "gssencmode", "target_session_attrs", "options"),
    *("connect_timeout", "tcp_user_timeout"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
}

_log = logging.getLogger(__name__)
Session = psycopg.Connection[Any]
EXTRACTOR = "loadsheet:extract"
"""The application_name of sessions that only read: hold-back ignores them."""
server_versions: dict[str, str] = {}
"""The version of each server that this process has connected to, by connection id. A bug report
names them."""


class PinnedSession(psycopg.Connection[Any]):
    """A session that can be used by one step after another, each with the same settings."""

    pins: Mapping[str, str] = {}

    def begin_step(self) -> None:
        """Start over for the current step: the session is shut when the step's time is up, and has
        the pinned settings even if an earlier step changed them.

        Raises psycopg.Error when the connection is dead.
        """
        watch(self._shut)
        # Behind a transaction pooler a prepared statement may belong to another session.
        self.prepare_threshold = None
        calls = ", ".join(["pg_catalog.set_config(%s, %s, false)"] * len(self.pins))
        values = [text for setting in self.pins.items() for text in setting]
        self.execute(f"SELECT {calls}", values)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's, but every error on a broken connection is a psycopg.OperationalError.

        psycopg 3.3 may raise a ValueError when the connection breaks during a COPY and the server's
        last message comes before the end of the rows. Callers would not know that a retry helps.
        """
        try:
            return super().wait(*args, **kwargs)
        except Exception as error:
            if isinstance(error, psycopg.Error) or not self.broken:
                raise
            message = self.pgconn.get_error_message().strip()
            message = message or "the connection to the server broke"
            raise psycopg.OperationalError(message) from error

    def _shut(self) -> None:
        """Shut the socket under a waiting call, which then fails as if the server had gone."""
        # libpq owns the descriptor, so this closes a duplicate, at once: as long as it is open, the
        # connection is.
        with socket.socket(fileno=os.dup(self.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)


class _LoggedCursor(psycopg.Cursor[Any]):
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
    connection: Connection, application_name: str, settings: dict[str, str]
) -> PinnedSession:
    """A session with the pinned settings and `settings`. It is in autocommit mode: transactions are
    opened explicitly.

    Raises psycopg.OperationalError when the server cannot be reached, does not answer within 10 s
    or refuses the login.
    """
    extras = {key: value for key, value in connection.extra.items() if key in _LIBPQ_EXTRAS}
    options: dict[str, Any] = {**NETWORK, **extras}
    # Connecting may not take longer than the step has left. To libpq, 0 would mean no limit.
    left = remaining()
    if left < float(options["connect_timeout"]):
        options["connect_timeout"] = max(int(left), 1)
    session = PinnedSession.connect(
        autocommit=True,
        host=connection.host or None,
        port=connection.port or None,
        user=connection.login or None,
        password=connection.password or None,
        dbname=connection.schema or None,
        application_name=application_name,
        client_encoding="UTF8",
        **options,
    )
    session.pins = {**PINNED, **settings}
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


def connect_source(connection: Connection) -> PinnedSession:
    """A session that only reads. By its name other extractions know not to wait for it."""
    return connect(connection, EXTRACTOR, SOURCE_SETTINGS)


def connect_warehouse(connection: Connection) -> PinnedSession:
    """A session that writes staging, marts and the ledger.

    The connection's own `options` (`-c lock_timeout=5min`) override WAREHOUSE_SETTINGS, but never
    PINNED.
    """
    named = re.findall(r"(?:-c\s*|--)([\w-]+)\s*=", str(connection.extra.get("options", "")))
    chosen = {name.replace("-", "_").lower() for name in named}
    ours = {name: value for name, value in WAREHOUSE_SETTINGS.items() if name not in chosen}
    return connect(connection, "loadsheet", ours)
