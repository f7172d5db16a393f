"""Transactions that begin with pinned settings.

Nothing is ever set for a session. Behind a transaction pooler (PgBouncer with
pool_mode=transaction) each transaction may run in another session of the server, which goes to
another client afterwards: a setting of a session would be missing here and would stay there. So
every statement runs in a transaction that begins with the pins:

    transaction()  BEGIN and the pins in one message, then the block's statements, then COMMIT
    snapshot()     as well, for reading; the caller says when the snapshot is taken
    execute()      outside of a block: BEGIN, pins, statement and COMMIT in one round trip
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date, datetime
from typing import Any, Self

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.copy import LibpqWriter
from psycopg.pq import PipelineStatus, TransactionStatus

from loadsheet.answers import BROKEN_VALUE, unreadable
from loadsheet.deadline import watch
from loadsheet.errors import Unavailable, Unreadable
from loadsheet.redact import on_one_line, server_text

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


def begin(isolation: str, read_only: bool) -> str:
    """A BEGIN that depends on no default of the server or the role, except on whether a transaction
    that is not `read_only` may write."""
    access = ", READ ONLY" if read_only else ""
    return f"BEGIN ISOLATION LEVEL {isolation}{access}, NOT DEFERRABLE"


def begin_with(pins: Mapping[str, str], begin: str) -> str:
    """Statements for one message: `begin`, then a SET LOCAL for each of the pins."""
    statements = [begin]
    statements += [f"SET LOCAL {name} = {_quoted(value)}" for name, value in pins.items()]
    return "; ".join(statements)


def _quoted(value: str) -> str:
    # With E'' its meaning does not depend on standard_conforming_strings, which is not pinned yet.
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def name_connection(error: BaseException, conn_id: str, end: str = "", role: str = "") -> None:
    """Note on an error which connection it is about, which `end` of the pipeline that is (`source`,
    `warehouse`), and the role, where the error is about its privileges; the first note stays."""
    if not hasattr(error, "loadsheet_conn_id"):
        error.loadsheet_conn_id = conn_id  # type: ignore[attr-defined]
        error.loadsheet_end = end  # type: ignore[attr-defined]
        error.loadsheet_role = role  # type: ignore[attr-defined]


@contextmanager
def about(name: str) -> Iterator[None]:
    """Within, an error of a server is about the table or mart `name`, which messages show."""
    try:
        yield
    except psycopg.Error as error:
        error.loadsheet_about = name  # type: ignore[attr-defined]
        raise
    except Unreadable as error:
        error.args = (f"{on_one_line(name)}: {error}",)
        raise


class _Styled(Loader):
    """Reads text as the pins make the server write it. psycopg goes by what the server has reported
    last, which is the session's own style again when the transaction is over."""

    read: Callable[[str], Any]

    def load(self, data: Buffer) -> Any:
        text = bytes(data).decode()
        try:
            return type(self).read(text)
        except ValueError as error:
            raise psycopg.DataError(f"Python has no value for {text!r}") from error


class _DateLoader(_Styled):
    read = date.fromisoformat


class _TimestampLoader(_Styled):
    read = datetime.fromisoformat


_BROKEN = (*BROKEN_VALUE, psycopg.DataError)


class _Reading:
    """A cursor that raises Unreadable for a value that is not as its type demands."""

    connection: psycopg.Connection[Any]
    itersize = 1000
    """How many rows are read at a time."""

    def fetchone(self) -> Any:
        """As psycopg's."""
        return self._read(super().fetchone)  # type: ignore[misc]

    def fetchmany(self, size: int = 0) -> list[Any]:
        """As psycopg's."""
        return self._read(super().fetchmany, size)  # type: ignore[misc,no-any-return]

    def fetchall(self) -> list[Any]:
        """As psycopg's."""
        return self._read(super().fetchall)  # type: ignore[misc,no-any-return]

    def __iter__(self) -> Any:
        # In blocks, which takes half of the CPU of a call for each row.
        while rows := self.fetchmany(self.itersize):
            yield from rows
            if len(rows) < self.itersize:
                return

    def _read(self, fetch: Callable[..., Any], *values: Any) -> Any:
        try:
            return fetch(*values)
        except _BROKEN as error:
            self._refuse_value(error)
            raise

    def _refuse_value(self, error: Exception) -> None:
        # An error with a code is the server's own: a cursor computes its rows as they are fetched.
        if not isinstance(error, psycopg.Error) or error.sqlstate is None:
            raise unreadable(self.connection, "a value that is not of its type") from error


class _ServerCursor(_Reading, psycopg.ServerCursor[Any]):
    """A cursor on the server."""


class _Writer(LibpqWriter):
    """Writes the rows of a COPY. psycopg would log a warning where one that has failed cannot be
    ended: its session is lost, or was shut to end it."""

    def finish(self, exc: BaseException | None = None) -> None:
        """As psycopg's. The error that led here is raised, not one of a session that is lost."""
        try:
            super().finish(exc)
        except psycopg.Error:
            if exc is None:
                raise


class PinnedCursor(_Reading, psycopg.Cursor[Any]):
    """Runs each statement in a transaction with the pinned settings."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Self:
        """As psycopg's. Outside of `transaction()` the statement has a transaction for itself."""
        session = self.connection
        assert isinstance(session, PinnedSession)
        if not session.is_idle:
            return super().execute(query, *args, **kwargs)
        execute = super().execute
        session.run_alone(lambda: execute(query, *args, **kwargs))
        return self

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's, and only within `transaction()`: rows of COPY have no second chance to get
        the pinned settings."""
        session = self.connection
        assert isinstance(session, PinnedSession)
        if session.is_idle:
            raise psycopg.ProgrammingError("COPY needs a transaction")
        kwargs.setdefault("writer", _Writer(self))
        return super().copy(statement, *args, **kwargs)


class PinnedSession(psycopg.Connection[Any]):
    """A session that can be used by one step after another, with the same settings in each of its
    transactions. Its transactions only read where `read_only` is set."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.server_cursor_factory = _ServerCursor

    mark = ""
    """SQL that each transaction evaluates as it begins."""
    conn_id = ""
    """The connection, for messages."""
    end = ""
    """What it is to a pipeline, for messages: `source` or `warehouse`."""
    led_to_primary = False
    """Whether a transaction of this session has found itself on a server that is no standby."""

    def pin(self, settings: Mapping[str, str], read_only: bool = False) -> None:
        """From the next transaction on, these settings hold as well."""
        self.read_only = read_only or self.read_only
        self.adapters.register_loader("date", _DateLoader)
        for name in ("timestamp", "timestamptz"):
            self.adapters.register_loader(name, _TimestampLoader)
        self._pins = {**self._pins, **settings}

    _pins: Mapping[str, str] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no transaction is open."""
        return self.pgconn.transaction_status == TransactionStatus.IDLE

    def begin_step(self) -> None:
        """Start over for the current step: the session is shut when the step's time is up.

        Raises psycopg.Error when the connection is dead.
        """
        watch(self.shut)
        # It reads nothing, so it needs no settings.
        psycopg.Cursor(self).execute("SELECT")

    # psycopg yields its own object, which no caller here needs.
    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[None]:  # type: ignore[override]
        """A transaction with the pinned settings; within one, a savepoint."""
        if not self.is_idle:
            with super().transaction(*args, **kwargs):
                yield
            return
        message = begin_with(self._pins, self._begin)
        if self.mark:
            message += f"; SELECT {self.mark}"
        with self._within(message):
            yield

    @contextmanager
    def snapshot(self, exported: str = "") -> Iterator[None]:
        """A transaction that reads, and sees the same rows from `fix_snapshot` to its end: those of
        the `exported` snapshot, if its name is given.

        Until then the caller may lock tables: all so far was made by SET, which takes no snapshot.
        """
        own = begin("REPEATABLE READ", read_only=True)
        if exported:
            own += f"; SET TRANSACTION SNAPSHOT {_quoted(exported)}"
        with self._within(begin_with(self._pins, own)):
            yield

    def fix_snapshot(self) -> None:
        """Take the snapshot. Raises Unavailable where the pinned settings do not hold in it."""
        names = [f"pg_catalog.current_setting('{name}')" for name in PINNED]
        row = self.execute(f"SELECT {self.mark or 'NULL'}, {', '.join(names)}").fetchone()
        assert row
        for (name, value), found in zip(PINNED.items(), row[1:], strict=True):
            if found != value:
                server = server_text(self.end, self.conn_id)
                raise Unavailable(
                    f"{server}setting {name} is {found!r} in the transaction that made it"
                    f" {value!r}: what is between here and the server does not keep transactions"
                    " together. Connect to the server itself"
                )

    def prove_transactions(self) -> None:
        """Raises where what is between here and the server does not keep a transaction together:
        psycopg.Error of a pooler that says so, else Unavailable."""
        # Several round trips, because all of `run_alone` is over before a pooler looks.
        with self.snapshot():
            self.fix_snapshot()

    @contextmanager
    def _within(self, begin: str) -> Iterator[None]:
        try:
            psycopg.Cursor(self).execute(begin)
            yield
        except BaseException:
            self._roll_back()
            raise
        self.commit()

    def run_alone(self, run: Callable[[], object]) -> None:
        """Call `run`, which executes one statement, in a transaction for it alone.

        All is sent before the first answer is read. The server skips what follows an error.
        Raises the first error. The session is closed where answers may still come, as after an
        interruption.
        """
        first: BaseException | None = None
        try:
            with self.pipeline():
                # Raised after the pipeline's end: psycopg would log what is skipped as a warning.
                try:
                    ours = psycopg.Cursor(self)
                    ours.execute(self._begin)
                    ours.execute(self._set_all)
                    run()
                    ours.execute("COMMIT")
                except BaseException as error:
                    first = error
        except BaseException as error:
            first = first or error
        if first is None:
            return
        is_answered = isinstance(first, psycopg.Error)
        if is_answered:
            self._roll_back()
            is_answered = self.pgconn.pipeline_status == PipelineStatus.OFF and self.is_idle
        # After Ctrl-C answers may be missing, and the next statement would take them for its own. A
        # connection that is lost takes no further statement.
        if not is_answered and not self.broken:
            self.close()
        raise first

    def run_outside(self, statement: bytes) -> None:
        """Run what the server refuses in a transaction (CREATE DATABASE), without the pins."""
        psycopg.Cursor(self).execute(statement)

    @property
    def _begin(self) -> str:
        # Without a word about writing, a server or role that only reads stays so.
        return begin("READ COMMITTED", bool(self.read_only))

    @property
    def _set_all(self) -> str:
        # Most have their value already: setting one costs more than asking. The operator is named
        # in full, because the search path is not pinned yet.
        pins = ", ".join(f"('{name}', {_quoted(value)})" for name, value in self._pins.items())
        return (
            f"SELECT {self.mark or 'NULL'},"
            " (SELECT pg_catalog.count(pg_catalog.set_config(name, value, true))"
            f" FROM (VALUES {pins}) AS pin (name, value)"
            " WHERE pg_catalog.current_setting(name) OPERATOR(pg_catalog.<>) value)"
        )

    def _roll_back(self) -> None:
        # The error that led here is raised, not one of a connection that is lost by now.
        with suppress(psycopg.Error):
            self.rollback()

    def name(self, error: psycopg.Error) -> None:
        """Note on the error that it is about this session's server."""
        is_about_rights = isinstance(error, psycopg.errors.InsufficientPrivilege)
        name_connection(error, self.conn_id, self.end, self.info.user if is_about_rights else "")

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's, but an error says which server it is from, and every error on a broken
        connection is a psycopg.OperationalError.

        psycopg 3.3 may raise a ValueError when the connection breaks during a COPY and the server's
        last message comes before the end of the rows. Callers would not know that a retry helps.
        """
        try:
            return super().wait(*args, **kwargs)
        except psycopg.Error as error:
            # Source and warehouse may have a table of the same name, and both have settings that
            # end a statement.
            self.name(error)
            raise
        except Exception as error:
            if not self.broken:
                raise
            message = self.pgconn.get_error_message().strip()
            lost = psycopg.OperationalError(message or "the connection to the server broke")
            self.name(lost)
            raise lost from error

    def shut(self) -> None:
        """Shut the socket under a waiting call, which then fails as if the server had gone."""
        # libpq owns the descriptor, so this closes a duplicate, at once: as long as it is open, the
        # connection is.
        with socket.socket(fileno=os.dup(self.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)
