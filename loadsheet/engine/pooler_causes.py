"""What PgBouncer means by its own messages, from 1.18 to 1.25. Most have SQLSTATE 08P01, as if the
protocol had been broken.

As in `loadsheet.engine.causes`, what may pass counts as passing.
"""

from __future__ import annotations

import re

from loadsheet.engine.causes import Cause

_CAUSES = (
    (
        r"transaction blocks not allowed in statement pooling mode",
        Cause(
            False,
            "PgBouncer has pool_mode=statement, which keeps no transaction together",
            "set pool_mode=transaction for this database there, or connect to the server itself",
        ),
    ),
    (
        r"unsupported (options )?startup parameter",
        Cause(
            False,
            "PgBouncer takes no such parameter of a connection",
            "remove it from the connection's extra, or add it to ignore_startup_parameters there",
        ),
    ),
    (
        r"SSL required",
        Cause(
            False,
            "PgBouncer takes only encrypted connections",
            "set sslmode=require, or better verify-full, in the connection's extra",
        ),
    ),
    (
        r"query_wait_timeout",
        Cause(
            True,
            "PgBouncer had no session of the server to give within its query_wait_timeout",
            "raise default_pool_size there (docs/deploy.md says how many sessions a step needs) or"
            " query_wait_timeout, or let fewer tasks run at once",
        ),
    ),
    (
        r"query[_ ]timeout",
        Cause(
            True,
            "PgBouncer ended a statement that took longer than its query_timeout",
            "set query_timeout to 0 there: a limit for all statements is too short for the largest"
            " table",
        ),
    ),
    (
        r"idle[_ ]transaction[_ ]timeout",
        Cause(
            True,
            "PgBouncer ended a transaction that was idle longer than its idle_transaction_timeout",
            "set idle_transaction_timeout to 0 there: the transaction that holds a table's snapshot"
            " is idle while others read in it",
        ),
    ),
    (
        r"transaction[_ ]timeout",
        Cause(
            True,
            "PgBouncer ended a transaction that took longer than its transaction_timeout",
            "set transaction_timeout to 0 there: a table is read and loaded in one transaction",
        ),
    ),
    (
        r"client_idle_timeout",
        Cause(
            True,
            "PgBouncer ended a session that was idle longer than its client_idle_timeout",
            "raise client_idle_timeout there above the time that the largest table takes",
        ),
    ),
    (
        r"no more connections allowed|client connections exceeded",
        Cause(
            True,
            "PgBouncer has no connection left for a client",
            "raise the limit that the message names there, or let fewer tasks run at once",
        ),
    ),
    (
        r"server login (has been failing|failed)|server_login_retry|client_login_timeout"
        r"|server_connect_timeout|pgbouncer cannot connect to server",
        Cause(
            True,
            "PgBouncer cannot connect to the server behind it",
            "check that this server runs, and its host, port and login in PgBouncer's"
            " configuration; the log of PgBouncer has the reason",
        ),
    ),
    (
        r"server conn crashed",
        Cause(
            True,
            "The server behind PgBouncer broke the connection",
            "check that this server runs, and read its log",
        ),
    ),
    (
        r"database \S+ is disabled|(pooler|pgbouncer|server) (is )?shutting down|suspend_timeout"
        r"|admin forced disconnect|database configuration changed|admin_shutdown",
        Cause(True, "PgBouncer is stopping, or its administrator intervened", "check that it runs"),
    ),
    (
        r"bouncer config error|bouncer resources exhaustion",
        Cause(
            True,
            "PgBouncer cannot work with its configuration",
            "read its log, and correct its configuration",
        ),
    ),
)
_PATTERNS = tuple((re.compile(pattern), cause) for pattern, cause in _CAUSES)


def of_message(code: str, text: str) -> Cause | None:
    """The cause of a message of PgBouncer; None for what PostgreSQL or libpq says. `code` tells
    them apart where both use the same words."""
    if not code.startswith("08"):
        return None
    for pattern, cause in _PATTERNS:
        if pattern.search(text):
            return cause
    return None
