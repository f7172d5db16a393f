"""Sessions on PostgreSQL: one way to connect, the same pinned settings on both sides."""

from __future__ import annotations

from typing import Any

import psycopg

from loadsheet.connections import Connection

# Text forms differ by these settings; unpinned, float digits were lost silently. The pair on both servers carried
# 456 of 456 hard values unchanged (docs/protocol.md).
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
    "search_path": "pg_catalog",
}
# Reading in physical order, always from the first page, makes the bytes of an unchanged table the same each time.
SOURCE_SETTINGS = {"synchronize_seqscans": "off", "max_parallel_workers_per_gather": "0", "row_security": "off"}
# A lock held by somebody else is an error after this long, not a hang; a dead client's statement ends by itself.
WAREHOUSE_SETTINGS = {"lock_timeout": "60s", "client_connection_check_interval": "2s", "jit": "off"}

Session = psycopg.Connection[Any]
EXTRACTOR = "loadsheet:extract"
_LIBPQ_EXTRAS = {
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "channel_binding", "gssencmode"),
    *("target_session_attrs", "connect_timeout", "tcp_user_timeout", "options"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
}


def connect(connection: Connection, application_name: str, settings: dict[str, str]) -> psycopg.Connection[Any]:
    """An autocommit session with the pinned settings and `settings`; transactions are opened explicitly.

    Raises psycopg.OperationalError when the server cannot be reached or refuses the login.
    """
    extras = {key: value for key, value in connection.extra.items() if key in _LIBPQ_EXTRAS}
    session = psycopg.connect(
        autocommit=True,
        host=connection.host or None,
        port=connection.port or None,
        user=connection.login or None,
        password=connection.password or None,
        dbname=connection.schema or None,
        application_name=application_name,
        client_encoding="UTF8",
        **{"connect_timeout": 10, "keepalives_idle": 30, **extras},
    )
    session.prepare_threshold = None  # behind a transaction pooler a prepared statement may be another session's
    pin = {**PINNED, **settings}
    session.execute(
        "SELECT " + ", ".join(["pg_catalog.set_config(%s, %s, false)"] * len(pin)),
        [text for pair in pin.items() for text in pair],
    )
    return session


def connect_source(connection: Connection) -> psycopg.Connection[Any]:
    """A session that only reads. Its name lets other extractions know that it holds nothing back."""
    return connect(connection, EXTRACTOR, SOURCE_SETTINGS)


def connect_warehouse(connection: Connection) -> psycopg.Connection[Any]:
    """A session that writes staging, marts and the ledger."""
    return connect(connection, "loadsheet", WAREHOUSE_SETTINGS)
