"""Why a server says no, what to do about it, and whether the same call may succeed later: the
tables.

PostgreSQL's classes are those of its manual's Appendix A. Where a failure cannot be told from one
that passes (a server that is read-only may be half way through a failover), it is tried again: that
costs a minute, not a run.
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


_LOGIN = Cause(
    False, "The server does not accept this login", "correct the connection's login, then run again"
)
_FULL = "free space there, or make it larger"
_LIMIT = "raise the limit for the connection's role, or make the work smaller"

SQLSTATES = {
    "08": Cause(
        True,
        "The connection was lost or never made",
        "see that the server runs and can be reached from here",
    ),
    "0A": Cause(False, "The server cannot do this", "change the spec or the SQL"),
    "21": Cause(False, "A subquery returned more than one row", "correct the SQL"),
    "22": Cause(False, "A value does not fit", "correct the value, or the type of its column"),
    "23": Cause(False, "Rows break a constraint", "correct the rows, or drop the constraint"),
    "25": Cause(False, "The transaction is in a state that forbids this", "correct the SQL"),
    "25006": Cause(
        True,
        "The server is read-only: a standby, or by a setting",
        "after a failover point the connection at the primary; else switch"
        " default_transaction_read_only off",
    ),
    "25P03": Cause(True, "The server ended a transaction that took too long", _LIMIT),
    "25P04": Cause(True, "The server ended a transaction that took too long", _LIMIT),
    "28": _LOGIN,
    "2B": Cause(False, "Something else depends on it", "drop what depends on it first"),
    "3D": Cause(False, "There is no such database", "create it, or correct the connection"),
    "3F": Cause(False, "There is no such schema", "create it, or correct the spec"),
    "40": Cause(
        True,
        "It collided with another transaction, and the server rolled this one back",
        "nothing, unless it keeps happening: then keep the other writers off this table",
    ),
    "40002": Cause(False, "Rows break a constraint", "correct the rows, or drop the constraint"),
    "42": Cause(
        False, "The SQL is wrong for this database", "correct the spec or the SQL it names"
    ),
    "42501": Cause(False, "The role may not do this", "grant the connection's role what it lacks"),
    "53": Cause(True, "The server is short of something", "free what it lacks, or give it more"),
    "53100": Cause(True, "The server's disk is full", _FULL),
    "53200": Cause(
        True,
        "The server is out of memory",
        "lower work_mem or the work done at once, or give it more",
    ),
    "53300": Cause(
        True,
        "The server has no connection left for this role",
        "end idle sessions, raise max_connections or the CONNECTION LIMIT, or let fewer tasks run"
        " at once",
    ),
    "53400": Cause(False, "A limit in the server's configuration was reached", _LIMIT),
    "54": Cause(False, "It is larger than PostgreSQL allows", "make it smaller"),
    "55": Cause(
        False,
        "The object is in a state that forbids this",
        "bring it into the state the message asks for",
    ),
    "55006": Cause(
        True, "Another session uses the object", "end that session, or wait until it is done"
    ),
    "55P03": Cause(
        True,
        "Another session held a lock for too long",
        "end that session, or wait until it is done",
    ),
    "57": Cause(True, "An operator intervened", "see that the server runs"),
    "57014": Cause(
        True,
        "Somebody, or statement_timeout, cancelled the statement",
        "ask who did it, or raise statement_timeout for the connection's role",
    ),
    "57P01": Cause(
        True, "An administrator shut the server down or ended the session", "see that it runs"
    ),
    "57P02": Cause(True, "The server crashed and restarts", "see its log"),
    "57P03": Cause(True, "The server starts, stops or recovers", "wait until it takes connections"),
    "57P04": Cause(False, "The database was dropped", "create it, or correct the connection"),
    "58": Cause(True, "The server's disk or operating system failed", "see the server's log"),
    "58P01": Cause(
        False, "A file the server needs is missing", "install what it belongs to (an extension?)"
    ),
    "72": Cause(
        True, "The snapshot was too old", "raise old_snapshot_threshold if it happens again"
    ),
    "HV": Cause(False, "A foreign table's server said no", "correct the foreign table"),
    "HV00N": Cause(True, "A foreign table's server could not be reached", "see that it runs"),
    "P0": Cause(
        False, "A function or trigger in the database raised this", "do as it says, or correct it"
    ),
    "XX": Cause(True, "Something went wrong inside the server", "see the server's log"),
    "XX001": Cause(
        False, "The server found damaged data on its disk", "restore the table from a backup"
    ),
    "XX002": Cause(False, "The server found a damaged index", "REINDEX it"),
    "": Cause(
        False, "The server said no", "look the SQLSTATE up in PostgreSQL's manual, Appendix A"
    ),
}

# libpq hands over no SQLSTATE for a login that fails, nor for a session that breaks off: only
# words.
LOGIN_WORDS = {
    "28P01": re.compile(r"password authentication failed|no password supplied"),
    "28000": re.compile(
        r"pg_hba\.conf|role .* (does not exist|is not permitted to log in)|authentication failed"
        r"|no such user|certificate|does not support SSL"
        r"|invalid (\w+ value|port number|integer value)|unrecognized configuration"
    ),
    "3D000": re.compile(r"database .* does not exist|no such database"),
    "42501": re.compile(r"permission denied for database"),
    "53300": re.compile(r"too many (connections|clients)|remaining connection slots"),
    "57P01": re.compile(r"terminating connection due to administrator command"),
    "57P03": re.compile(r"the database system is |not currently accepting connections"),
}
NOT_CONNECTED, DISCONNECTED = "08001", "08006"

_BUSY = Cause(
    True,
    "The lake is too busy",
    "nothing, unless it keeps happening: then let fewer tasks run at once",
)
_LAKE_LOGIN = Cause(
    False,
    "The lake does not accept this login, or it may not do this",
    "correct login and password of the lake's connection, or grant its key what it lacks",
)
_DAMAGED = Cause(
    True,
    "What was sent arrived damaged",
    "nothing, unless it keeps happening: then look at the network",
)
_LAKE_FULL = Cause(True, "The lake's disk is full", _FULL)
UNREACHABLE = Cause(
    True, "The lake could not be reached", "see that it runs and can be reached from here"
)

# S3's own codes, HTTP statuses, and the class of a status by its first digit.
S3 = {
    **dict.fromkeys(("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"), _BUSY),
    **dict.fromkeys(
        ("ServiceUnavailable", "InternalError", "OperationAborted", "RequestTimeout"), _BUSY
    ),
    **dict.fromkeys(("408", "425", "429"), _BUSY),
    **dict.fromkeys(
        ("AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        _LAKE_LOGIN,
    ),
    **dict.fromkeys(("InvalidToken", "ExpiredToken", "401", "403"), _LAKE_LOGIN),
    **dict.fromkeys(("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"), _DAMAGED),
    **dict.fromkeys(("XMinioStorageFull", "QuotaExceeded", "507"), _LAKE_FULL),
    "RequestTimeTooSkewed": Cause(False, "This clock and the lake's differ", "set the clocks"),
    "NoSuchBucket": Cause(
        False, "There is no such bucket", "run the step create_bucket, or correct lake.bucket"
    ),
    "501": Cause(False, "The lake cannot do this", "use another S3 server"),
    "4": Cause(
        False, "The lake refused the request", "correct the lake's connection or the spec's lake"
    ),
    "5": Cause(True, "The lake has trouble of its own", "see that it runs; its log says more"),
    "": Cause(
        True,
        "The lake's answer made no sense",
        "see that extra.endpoint_url is an S3 server, not a proxy",
    ),
}
UNTRUSTED = Cause(
    False,
    "The lake's certificate is not trusted here",
    "install its authority's certificate, or correct it",
)

LOCAL_FULL = Cause(True, "The disk of this machine is full", _FULL)
LOCAL_REFUSED = Cause(
    False, "This machine's files are not as they should be", "correct what the message names"
)
LOCAL = Cause(
    True, "This machine's network, disk or operating system failed", "see what the message names"
)


def of_sqlstate(code: str) -> Cause:
    """The cause of the longest prefix of `code` that the table knows."""
    return next(SQLSTATES[code[:n]] for n in range(len(code), -1, -1) if code[:n] in SQLSTATES)


def of_s3(code: str, status: int | None) -> Cause:
    """The cause of an S3 code, else of the HTTP status, else of the status's class."""
    keys = (code, str(status or ""), str(status or "")[:1])
    return next((S3[key] for key in keys if key and key in S3), S3[""])
