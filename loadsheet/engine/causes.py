"""Why a server refuses, what to do about it, and whether the same call may succeed later.

Tables for PostgreSQL (the classes of its manual's Appendix A) and this machine; that of the lake is
in loadsheet/engine/lake_causes.py. Where a lasting failure looks the same as a passing one, it
counts as passing: a server that is read-only may be in the middle of a failover, and a needless
retry costs a minute, not a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A class of failures: the reason and the next step for the user."""

    retryable: bool
    why: str
    next: str
    is_login: bool = False
    """The server answered, and does not accept the login."""


_LOGIN = Cause(
    False,
    "The server does not accept this login",
    "correct the connection's login, then run again",
    is_login=True,
)
FULL = "free space there, or enlarge it"
# A setting of the role does not count, so to raise it there would change nothing.
_STATEMENT_TIMEOUT = (
    "Loadsheet sets statement_timeout to 0, so what counts is one in `options` of the warehouse's"
    " connection, in a function, or on the server of a foreign table"
)

SQLSTATES = {
    "08": Cause(
        True,
        "The connection was lost or could not be made",
        "check that the server runs and can be reached from here",
    ),
    "08001": Cause(
        True,
        "The server could not be reached",
        "check that the server runs, and host and port of the connection",
    ),
    "08006": Cause(
        True, "The connection was lost", "check that the server runs and can be reached from here"
    ),
    "0A": Cause(False, "The server cannot do this", "change the spec or the SQL"),
    "21": Cause(False, "A subquery returned more than one row", "correct the SQL"),
    "22": Cause(False, "A value does not fit", "correct the value, or the type of its column"),
    "22012": Cause(False, "The SQL divides by zero", "correct the SQL, such as by NULLIF(x, 0)"),
    "23": Cause(False, "Rows break a constraint", "correct the rows, or drop the constraint"),
    "25": Cause(False, "The transaction is in a state that forbids this", "correct the SQL"),
    "25006": Cause(
        True,
        "The server is read-only: a standby, or by a setting",
        "after a failover, point the connection at the primary; otherwise set"
        " default_transaction_read_only to off",
    ),
    # Timeouts: to correct the SQL, as for the rest of their class, would be the wrong advice.
    "25P03": Cause(
        True,
        "The server ended a transaction that was idle for too long",
        "raise idle_in_transaction_session_timeout for the connection's role",
    ),
    "25P04": Cause(
        True,
        "The server ended a transaction that took too long",
        "raise transaction_timeout for the connection's role (ALTER ROLE ... SET"
        " transaction_timeout), or make the work smaller",
    ),
    "28": _LOGIN,
    "2B": Cause(False, "Something else depends on it", "drop what depends on it first"),
    "3D": Cause(False, "There is no such database", "create it, or correct the connection"),
    "3F": Cause(False, "There is no such schema", "create it, or correct the spec"),
    "40": Cause(
        True,
        "It collided with another transaction, and the server rolled this one back",
        "nothing, unless it keeps happening; then keep the other writers off this table",
    ),
    # A constraint that is checked at COMMIT: the retry would bring the same rows.
    "40002": Cause(False, "Rows break a constraint", "correct the rows, or drop the constraint"),
    "42": Cause(
        False,
        "The database does not accept this SQL",
        "correct the SQL file, or what the pipeline file names",
    ),
    "42501": Cause(
        False,
        "The role may not do this",
        "grant the role what it lacks; `loadsheet doctor` prints the GRANTs, and `loadsheet grants`"
        " all that a pipeline needs",
    ),
    "53": Cause(
        True, "The server has run out of a resource", "free the resource, or add more of it"
    ),
    "53100": Cause(True, "The server's disk is full", FULL),
    "53200": Cause(
        True,
        "The server is out of memory",
        "lower work_mem, run fewer tasks at once, or add memory",
    ),
    "53300": Cause(
        True,
        "The server has no connection left for this role",
        "end idle sessions, raise max_connections or the CONNECTION LIMIT, or let fewer tasks run"
        " at once",
    ),
    # A configured limit, unlike the rest of its class, does not recover.
    "53400": Cause(
        False,
        "A limit in the server's configuration was reached",
        "raise the limit that the message names for the connection's role (ALTER ROLE ... SET), or"
        " make the work smaller",
    ),
    "54": Cause(False, "It is larger than PostgreSQL allows", "make it smaller"),
    "55": Cause(
        False,
        "The object is in a state that forbids this",
        "bring it into the state the message asks for",
    ),
    "55006": Cause(
        True, "Another session uses the object", "end that session, or wait until it has finished"
    ),
    "55P03": Cause(
        True,
        "Another session held a lock for too long",
        "end that session, or wait until it has finished",
    ),
    "57": Cause(True, "An operator intervened", "check that the server runs"),
    "57014": Cause(
        True,
        "A user or statement_timeout cancelled the statement",
        f"find out who cancelled it: the server's log has the statement; {_STATEMENT_TIMEOUT}",
    ),
    "57P01": Cause(
        True, "An administrator shut the server down or ended the session", "check that it runs"
    ),
    "57P02": Cause(True, "The server crashed and is restarting", "read its log"),
    "57P03": Cause(
        True,
        "The server is starting, stopping or recovering",
        "wait until it takes connections",
    ),
    "57P05": Cause(
        True,
        "The server ended a session that was idle for too long",
        "raise idle_session_timeout for the connection's role",
    ),
    # The one of its class that does not pass: the class covers restarts and failovers.
    "57P04": Cause(False, "The database was dropped", "create it, or correct the connection"),
    "58": Cause(True, "The server's disk or operating system failed", "read the server's log"),
    "58P01": Cause(
        False,
        "A file the server needs is missing",
        "install what the file belongs to, for example an extension",
    ),
    "72": Cause(
        True, "The snapshot was too old", "raise old_snapshot_threshold if it happens again"
    ),
    "HV": Cause(False, "A foreign table's server reported an error", "correct the foreign table"),
    # The only foreign-table error that may pass: its server could not be reached.
    "HV00N": Cause(True, "A foreign table's server could not be reached", "check that it runs"),
    "P0": Cause(
        False,
        "A function or trigger in the database raised this",
        "follow its message, or correct it",
    ),
    "XX": Cause(True, "Something went wrong inside the server", "read the server's log"),
    # Damaged data, unlike the rest of its class, stays damaged.
    "XX001": Cause(
        False, "The server found damaged data on its disk", "restore the table from a backup"
    ),
    "XX002": Cause(False, "The server found a damaged index", "REINDEX it"),
    # A code of an extension, or of a newer PostgreSQL.
    "": Cause(
        False, "The server refused", "look the SQLSTATE up in PostgreSQL's manual, Appendix A"
    ),
}

_WRONG_PARAMETER = (
    r'invalid (\w+ value|"\w+" value|port number|integer value|value for parameter)'
    r"|unrecognized configuration|definition of service|could not match \d+|could not parse"
)
# libpq passes on no SQLSTATE for a login that fails or a session that breaks off, only the message.
LOGIN_MESSAGES = {
    "28P01": re.compile(r"password authentication failed|no password supplied"),
    "28000": re.compile(
        r"pg_hba\.conf|role .* (does not exist|is not permitted to log in)|authentication failed"
        r"|no such user|certificate|does not support SSL|channel binding|encryption required"
        r"|method requirement|only supports protocol"
        rf"|permission denied to set parameter|{_WRONG_PARAMETER}"
    ),
    "3D000": re.compile(r"database .* does not exist|no such database"),
    "42501": re.compile(r"permission denied for database"),
    "53300": re.compile(r"too many (connections|clients)|remaining connection slots"),
    "57P01": re.compile(r"terminating connection due to administrator command"),
    "57P03": re.compile(r"the database system is |not currently accepting connections"),
}
# One SQLSTATE may have several causes, each with its own way on: the first whose message fits.
_BY_MESSAGE = (
    (
        # A standby as the source: the primary has removed rows that the query may still see. It has
        # the SQLSTATE of any collision, and ends sessions with others.
        "",
        re.compile("conflict with recovery"),
        Cause(
            True,
            "The server is a standby, and could wait no longer with changes of its primary that"
            " this query holds up",
            "set hot_standby_feedback = on at the standby, or raise max_standby_streaming_delay"
            " (and max_standby_archive_delay) there above the time that the largest table takes to"
            " read; or read from the primary",
        ),
    ),
    (
        "57014",
        re.compile("due to statement timeout"),
        Cause(
            True,
            "A statement_timeout ended the statement",
            f"raise it where it is set: {_STATEMENT_TIMEOUT}",
        ),
    ),
    (
        "57014",
        re.compile("due to user request"),
        Cause(
            True,
            "An administrator cancelled the statement (pg_cancel_backend), or a program that ends"
            " long ones",
            "find out who, and exempt the connection's role: the server's log has the statement",
        ),
    ),
    (
        # No GRANT removes it.
        "42501",
        re.compile("row-level security"),
        Cause(
            False,
            "Row level security would hide rows from the role, and a load must see all of them",
            "give the role BYPASSRLS, or read as the table's owner; `loadsheet doctor` prints the"
            " line",
        ),
    ),
    (
        # The detail says which; it is not shown, because details may have row data.
        "42P10",
        re.compile("^cannot (update|delete from) table"),
        Cause(
            False,
            "The table is published, and its publication does not fit its replica identity: the"
            " server refuses every UPDATE and DELETE",
            "publish all columns of the replica identity, generated ones too (from PostgreSQL 18 on"
            " WITH (publish_generated_columns = stored)), or give the table another REPLICA"
            " IDENTITY",
        ),
    ),
    (
        "28000",
        re.compile(r"pg_hba\.conf.*no encryption"),
        Cause(
            False,
            "The server's pg_hba.conf does not let this login in from here without TLS",
            "set sslmode in the connection, add a line for it there, or correct the login",
            is_login=True,
        ),
    ),
    # What these messages have in common is only that no session begins: the login may be right.
    (
        "28000",
        re.compile("does not support SSL"),
        Cause(
            False,
            "The server does not offer the encryption that the connection asks for",
            "turn on ssl there, or set another sslmode in the connection",
        ),
    ),
    (
        "28000",
        re.compile("channel binding|encryption required|support GSSAPI|method requirement"),
        Cause(
            False,
            "The server does not log in by the method that the connection asks for",
            "correct channel_binding, gssencmode or require_auth in the connection, or the server:"
            " channel binding needs ssl there",
        ),
    ),
    (
        "28000",
        re.compile("only supports protocol"),
        Cause(
            False,
            "The server is older than the connection asks for",
            "remove min_protocol_version from the connection",
        ),
    ),
    (
        "28000",
        re.compile("permission denied to set parameter"),
        Cause(
            False,
            "The role may not set a parameter that the connection's options name",
            "remove it from options in the connection, or GRANT SET ON PARAMETER ... TO the role",
        ),
    ),
    (
        "28000",
        re.compile("certificate verify failed|root certificate|does not match host name"),
        Cause(
            False,
            "The server's certificate is not trusted here",
            "name the file of its authority in sslrootcert of the connection, or correct the"
            " certificate",
        ),
    ),
    (
        "28000",
        re.compile(_WRONG_PARAMETER),
        Cause(False, "A parameter of the connection is wrong", "correct it in the connection"),
    ),
    (
        "28000",
        re.compile(r"no pg_hba\.conf entry|pg_hba\.conf rejects"),
        Cause(
            False,
            "The server's pg_hba.conf does not let this login in from here",
            "add a line for it there, or correct the connection's login",
            is_login=True,
        ),
    ),
    (
        "53300",
        re.compile("too many connections for role"),
        Cause(
            True,
            "The role has as many connections as its CONNECTION LIMIT allows",
            "end idle sessions of the role, or ALTER ROLE ... CONNECTION LIMIT; let fewer tasks"
            " run at once (tasks.max_active_tasks, or a pool)",
        ),
    ),
    (
        "53300",
        re.compile("too many connections for database"),
        Cause(
            True,
            "The database has as many connections as its CONNECTION LIMIT allows",
            "end idle sessions of the database, or ALTER DATABASE ... CONNECTION LIMIT",
        ),
    ),
    (
        "53300",
        re.compile("too many clients|slots"),
        Cause(
            True,
            "The server has no connection left: the rest is reserved for superusers",
            "end idle sessions, or raise max_connections; let fewer tasks run at once",
        ),
    ),
    (
        "57P03",
        re.compile("not currently accepting connections"),
        Cause(
            True,
            "The database does not accept connections, from any role",
            "ALTER DATABASE ... ALLOW_CONNECTIONS true, or correct the database's name (schema) in"
            " the connection",
        ),
    ),
    (
        "08001",
        re.compile(r"session is (not )?read-only|server is (not )?in hot standby"),
        Cause(
            True,
            "No host of the connection is in the state that its target_session_attrs asks for",
            "correct target_session_attrs, or name the host that is in that state; during a"
            " failover, wait",
        ),
    ),
)
NOT_CONNECTED, DISCONNECTED = "08001", "08006"

LOCAL_FULL = Cause(True, "The disk of this machine is full", FULL)
LOCAL_REFUSED = Cause(
    False, "A file on this machine is missing or not accessible", "correct what the message names"
)
LOCAL = Cause(
    True, "This machine's network, disk or operating system failed", "check what the message names"
)


NO_ROOM_IN_PARTITION = Cause(
    False,
    "The table is a partition of another, and rows do not fit its bounds",
    "detach it (ALTER TABLE ... DETACH PARTITION), or widen its bounds",
)
"""A check violation that names no constraint."""


def of_sqlstate(code: str, text: str = "") -> Cause:
    """The cause of a SQLSTATE: its own, else that of its class, else the general one. The server's
    message `text` tells apart what has one code."""
    for of_code, pattern, cause in _BY_MESSAGE:
        if code.startswith(of_code) and pattern.search(text):
            return cause
    # The table has a class by two characters, and a few longer prefixes.
    for length in range(len(code), 0, -1):
        known = SQLSTATES.get(code[:length])
        if known:
            return known
    return SQLSTATES[""]
