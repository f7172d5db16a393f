"""Settings that a database or a role may carry into every session, each of which changes what
values look like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from loadsheet.sql.text import ident, literal

# Each name is looked for in the first schema of a search path before the server's own is found.
TRAP = """
CREATE SCHEMA trap;
CREATE FUNCTION trap.lies(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.lies);
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql
    AS $$SELECT timestamptz '1999-01-01'$$;
CREATE FUNCTION trap.hashtextextended(text, int) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION trap.format_type(oid, int) RETURNS text LANGUAGE sql AS $$SELECT 'text'$$;
CREATE FUNCTION trap.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$SELECT ''$$;
CREATE FUNCTION trap.pg_has_role(name, text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION trap.nextval(text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE TABLE trap.pg_attribute (
    attrelid oid, attname name, atttypid oid, attnum int, attisdropped bool
);
CREATE VIEW trap.pg_class AS SELECT * FROM pg_catalog.pg_class WHERE false;
CREATE VIEW trap.pg_stat_activity AS SELECT * FROM pg_catalog.pg_stat_activity WHERE false;
CREATE DOMAIN trap.text AS pg_catalog.text CHECK (VALUE = 'never');
CREATE DOMAIN trap.numeric AS pg_catalog.numeric CHECK (VALUE < 0);
CREATE DOMAIN trap.jsonb AS pg_catalog.jsonb CHECK (false);
"""

PROFILES: dict[str, dict[str, str]] = {
    "german": {
        "DateStyle": "German",
        "IntervalStyle": "sql_standard",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "TimeZone": "Asia/Kolkata",
        "xmlbinary": "hex",
        "xmloption": "document",
        "array_nulls": "off",
        "quote_all_identifiers": "on",
        "standard_conforming_strings": "off",
        "escape_string_warning": "off",
        "client_encoding": "LATIN1",
        "lc_monetary": "C.UTF-8",
        "lc_numeric": "C.UTF-8",
    },
    "traps": {
        "search_path": "trap, public, pg_catalog",
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "iso_8601",
        "extra_float_digits": "0",
        "TimeZone": "America/St_Johns",
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "row_security": "on",
        "client_encoding": "SQL_ASCII",
        "enable_hashjoin": "off",
        "enable_seqscan": "off",
        "default_toast_compression": "pglz",
    },
    "postgres": {
        "DateStyle": "Postgres, MDY",
        "IntervalStyle": "postgres_verbose",
        "TimeZone": "Europe/Berlin",
        "default_transaction_isolation": "repeatable read",
        "session_replication_role": "replica",
        "transform_null_equals": "on",
        "gin_fuzzy_search_limit": "1",
        "synchronize_seqscans": "on",
        "bytea_output": "escape",
        "enable_mergejoin": "off",
        "enable_nestloop": "off",
        "array_nulls": "off",
        "extra_float_digits": "-4",
        "client_min_messages": "error",
        "default_statistics_target": "1",
    },
}


@contextmanager
def hostile(profile: str, *places: str) -> Iterator[None]:
    """The databases put `profile` into every new session of anybody, until the end of the block."""
    try:
        for place in places:
            _alter(place, PROFILES[profile])
        yield
    finally:
        for place in places:
            _alter(place, {})


def _alter(dsn: str, settings: dict[str, str]) -> None:
    # Settings of a session come before the database's, so that these statements mean what they say.
    with psycopg.connect(
        dsn, autocommit=True, options="-csearch_path=pg_catalog -ctransform_null_equals=off"
    ) as session:
        database = ident(session.info.dbname)
        session.execute(f"ALTER DATABASE {database} RESET ALL")
        for name, value in settings.items():
            text = value if name == "search_path" else literal(value)
            session.execute(f"ALTER DATABASE {database} SET {name} = {text}")
