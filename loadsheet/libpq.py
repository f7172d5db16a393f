"""A connection as libpq's parameters: each one that libpq knows reaches it, and no other is dropped
without a word.

The names come from libpq itself, so a newer libpq brings its new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from psycopg import pq

from loadsheet.connections.lookup import Connection
from loadsheet.errors import InputError
from loadsheet.names import closest

POSTGRES = "postgres"
_FIELDS = {
    "host": "host",
    "port": "port",
    "user": "login",
    "password": "password",
    "dbname": "schema",
}
"""libpq's names of what a connection has fields for."""
_REFUSED = {
    "fallback_application_name": "set application_name",
    "replication": "a replication session does not read tables",
}
# Airflow's PostgresHook has extras of its own. By these it logs in to a cloud's database.
_HOOKS_LOGINS = ("iam", "azure_conn_id")
# These are for such a login, or say how the hook returns rows and what it logs.
_HOOKS_OWN = {
    *("redshift", "redshift-serverless", "cluster-identifier", "workgroup-name"),
    *("aws_conn_id", "region_name"),
    *("cursor", "sqlalchemy_scheme", "sqlalchemy_query", "enable_log_db_messages"),
}
_UTF8 = ("utf8", "utf-8", "unicode")


def parameters(connection: Connection) -> dict[str, str]:
    """The parameters that the connection's fields and extra set, without empty ones.

    Raises InputError, which names the connection and the parameter, when the connection is of
    another type than postgres, and for an extra that is no parameter of libpq, has a field of its
    own, or is set by Loadsheet.
    """
    if connection.conn_type not in ("", POSTGRES):
        raise InputError(
            f"connection {connection.conn_id!r} has the type {connection.conn_type!r}: the source"
            f" and the warehouse are PostgreSQL, whose type is {POSTGRES!r}"
        )
    found: dict[str, str] = {}
    for name, field in _FIELDS.items():
        value = getattr(connection, field)
        if value:
            found[name] = str(value)
    for name, value in connection.extra.items():
        if value is None or value == "" or name in _HOOKS_OWN:
            continue
        if name in _HOOKS_LOGINS:
            if value is False:
                continue
            raise _wrong(connection, f"logs in by {name!r}, which Loadsheet cannot: use a password")
        if name in found:
            field = _FIELDS[name]
            raise _wrong(connection, f"has {name!r} as {field} and in extra: remove one of the two")
        found[name] = _checked(connection, name, value)
    # Sessions are always in UTF8, which psycopg is told by itself.
    encoding = found.pop("client_encoding", "UTF8")
    if encoding.lower() not in _UTF8:
        raise _wrong(connection, "cannot set client_encoding: Loadsheet always uses UTF8")
    return found


def set_parameters(options: Iterable[pq.ConninfoOption]) -> dict[str, str]:
    """What differs from the defaults that libpq was built with, whether a connection, a service
    file or the environment has set it. `options` are those of a session."""
    found: dict[str, str] = {}
    for option in options:
        if option.val is not None and option.val != option.compiled:
            found[option.keyword.decode()] = option.val.decode()
    return found


@cache
def known() -> Mapping[str, str]:
    """libpq's parameters, and the variable of the environment that sets each: empty if none."""
    found: dict[str, str] = {}
    for option in pq.Conninfo.get_defaults():
        found[option.keyword.decode()] = (option.envvar or b"").decode()
    return found


def _checked(connection: Connection, name: str, value: Any) -> str:
    """The text of an extra that is a parameter."""
    if name in _REFUSED:
        raise _wrong(connection, f"cannot set {name}: {_REFUSED[name]}")
    if name not in known():
        meant = closest(name, known())
        hint = f"did you mean {meant!r}?" if meant else "its extra sets the parameters of libpq"
        # An older one does not know what PostgreSQL's manual of today lists.
        version = pq.version() // 10_000
        raise _wrong(
            connection, f"has the extra {name!r}, which libpq {version} does not know ({hint})"
        )
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, (str, int, float)):
        raise _wrong(connection, f"has no text and no number in the extra {name!r}")
    # psycopg reads it as well, and takes what is no number for a bug of ours.
    if name == "connect_timeout" and not str(value).strip().isdecimal():
        raise _wrong(connection, "has no whole number of seconds in the extra 'connect_timeout'")
    return str(value)


def _wrong(connection: Connection, what: str) -> InputError:
    return InputError(f"connection {connection.conn_id!r} {what}")
