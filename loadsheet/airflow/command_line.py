"""Airflow's connections and Variables for the command line, which is no task: no supervisor answers
for it.

`with_database` also asks Airflow's database; without it only the secrets backend and the
environment, as Airflow does for a process of its own that is no task.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from loadsheet.connections.lookup import Connection
from loadsheet.errors import ConnectionMissing, InputError
from loadsheet.redact import summary


def connection(conn_id: str, *, with_database: bool) -> Connection:
    """The connection. Raises ConnectionMissing."""
    with _output_kept(), _failures_explained(f"connection {conn_id!r}"):
        get, missing = _getter("connection", with_database)
        try:
            found = get(conn_id)
        except missing:
            where = "secrets backend, environment or database"
            if not with_database:
                where = "secrets backend or environment"
            raise ConnectionMissing(
                f"Airflow has no connection {conn_id!r} in its {where}{_why('connection', conn_id)}"
            ) from None
        return converted(conn_id, found)


def variable(name: str, *, with_database: bool) -> str | None:
    """The Variable's text; None where there is none. Raises InputError where Airflow fails."""
    with _output_kept(), _failures_explained(f"Variable {name!r}"):
        get, missing = _getter("variable", with_database)
        try:
            text: str | None = get(name)
        except missing:
            if why := _why("variable", name):
                raise InputError(f"Airflow's Variable {name!r} is not known{why}") from None
            return None
        return text


def converted(conn_id: str, found: Any) -> Connection:
    """Airflow's connection as ours."""
    return Connection(
        conn_id=conn_id,
        conn_type=found.conn_type or "",
        host=found.host or "",
        port=found.port,
        login=found.login or "",
        password=found.password or "",
        schema=found.schema or "",
        extra=found.extra_dejson,
    )


def _getter(kind: str, with_database: bool) -> tuple[Callable[[str], Any], Any]:
    """A function that asks Airflow, and what it raises where there is no such connection or
    Variable."""
    from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError

    if not with_database:
        from airflow.sdk import Connection as TaskConnection
        from airflow.sdk import Variable as TaskVariable

        get = TaskConnection.get if kind == "connection" else TaskVariable.get
        return get, (AirflowNotFoundException, AirflowRuntimeError)
    from airflow.models.connection import Connection as StoredConnection
    from airflow.models.variable import Variable as StoredVariable

    if kind == "connection":
        return StoredConnection.get_connection_from_secrets, AirflowNotFoundException
    return StoredVariable.get, KeyError


def _why(kind: str, name: str) -> str:
    """What the secrets backend says to it, for the end of a message: Airflow logs a failure of the
    backend, and goes on as if it had nothing."""
    from airflow.sdk.configuration import get_custom_secret_backend

    backend = get_custom_secret_backend(worker_mode=True)
    if backend is None:
        return ""
    try:
        if kind == "connection":
            backend.get_connection(name)
        else:
            backend.get_variable(name)
    except Exception as error:
        return f": {type(backend).__name__} failed: {summary(error)}"
    return f" ({type(backend).__name__})"


@contextlib.contextmanager
def _output_kept() -> Iterator[None]:
    """Within, what Airflow prints goes to stderr: our output may be JSON. Afterwards logging is as
    it was: Airflow's import sets it up for all of this process."""
    loggers = [logging.getLogger(), logging.getLogger("loadsheet")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, (handlers, level, propagates) in zip(loggers, before, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagates


@contextlib.contextmanager
def _failures_explained(what: str) -> Iterator[None]:
    """Turns a failure of Airflow, such as a backend that cannot be imported or a database that does
    not answer, into InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"Airflow cannot be asked for the {what}: {summary(error)}") from error
