"""Hold-back: how far the watermark may move so that no transaction still open can write below it.

`max(cursor)` as the next watermark loses rows that commit late: 89 of 359 in the measured run, 0
with hold-back (docs/protocol.md). A transaction stamps its rows with its start time, or draws a
sequence number, long before its rows can be seen; so a transaction that was open when the highest
cursor was read may still write below it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.postgres import EXTRACTOR
from loadsheet.source.table import SourceTable

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_GLANCES = 20

# Extractions only read, so they hold nothing back; autovacuum and WAL senders write no rows of
# ours. A transaction leaves this list for pg_prepared_xacts when it is prepared, so that one is
# asked second. A backend fixes its transaction's now() first and shows itself a moment later: an
# idle one that waits for no other session (it would wait for its client, ClientRead) may be in
# between. 11 of 20,767 backends stopped at random were, and wrote below a value that had been read
# meanwhile; since when can only be told by when it became idle.
_OPEN = """
SELECT since::text,
       format('pid %%s (%%s, %%s)', pid,
              concat_ws(', ', usename, nullif(application_name, ''), state),
              coalesce('open since ' || since,
                       'hides its transactions: track_activities is off')),
       state = 'idle', pid, usename, application_name, state
FROM (
    SELECT pid, usename, application_name, state,
           CASE state WHEN 'disabled' THEN NULL WHEN 'idle' THEN state_change
                ELSE coalesce(xact_start, query_start) END AS since
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND application_name <> %(extractor)s
      AND backend_type NOT IN ('autovacuum worker', 'walsender')
      AND (xact_start IS NOT NULL OR state IN ('active', 'fastpath function call', 'disabled')
           OR (state = 'idle' AND wait_event IS NULL AND backend_type = 'client backend'))
) open WHERE since IS NULL OR since <= %(since)s::timestamptz ORDER BY since NULLS FIRST LIMIT 1
"""
_PREPARED = """
SELECT format('prepared transaction %L (%s, prepared %s)', gid, owner, prepared), owner
    FROM pg_prepared_xacts
WHERE database = current_database() ORDER BY prepared LIMIT 1
"""
_BLINDNESS = """
SELECT pg_is_in_recovery(), pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
    quote_ident(current_user),
       EXISTS (SELECT FROM pg_subscription_rel
               WHERE srrelid = %(oid)s
                   OR srrelid IN (SELECT relid FROM pg_partition_tree(%(oid)s))),
       (SELECT min(usename) FROM pg_stat_activity WHERE datname = current_database()
           AND state = 'disabled'),
       (SELECT min(format('%%s CACHE %%s', seqrelid::regclass, seqcache)) FROM pg_sequence
        WHERE seqcache > 1 AND seqrelid IN (
            SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass
                AND deptype IN ('a', 'i')
            AND refclassid = 'pg_class'::regclass AND refobjid = %(oid)s
                AND refobjsubid = %(attnum)s
            UNION ALL
            SELECT refobjid FROM pg_attrdef d JOIN pg_depend ON classid = 'pg_attrdef'::regclass
                AND objid = d.oid
            WHERE refclassid = 'pg_class'::regclass AND adrelid = %(oid)s AND adnum = %(attnum)s))
"""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who is still open, and since when: `since` is None where that cannot be known (prepared
    transactions)."""

    since: str | None
    who: str
    """In words, with everything below."""
    pid: int | None = None
    user: str | None = None
    application: str | None = None
    state: str | None = None


def sees(
    session: psycopg.Connection[Any], table: SourceTable, cursor: str, required: bool = True
) -> bool:
    """Whether open transactions can be seen here.

    Raises Refused, with the exact remedy, where another session may write below a value of `cursor`
    without being seen and that is `required`.
    """
    *sight, blocks = (
        session.execute(
            _BLINDNESS, {"oid": table.oid, "attnum": table.column(cursor).attnum}
        ).fetchone()
        or (None,) * 6
    )
    blindness = _blindness(*sight)
    if required and (reason := blindness or _blocks(blocks)):
        raise Refused(
            f"{table.relation}: {reason} (or accept an overlap by setting incremental.lookback)"
        )
    return not blindness


def _blindness(
    standby: bool, privileged: bool, role: str, subscribed: bool, hidden: str | None
) -> str:
    """Empty when hold-back can work here, else why it cannot and what to do about it."""
    if standby:
        return (
            "the source is a standby and cannot see its primary's transactions: connect to the"
            " primary"
        )
    if not privileged:
        return (
            f"role {role} cannot see other sessions' transactions: run GRANT pg_read_all_stats TO"
            f" {role};"
        )
    if subscribed:
        return (
            "the table is filled by a subscription, and the transactions of its publisher cannot be"
            " seen here: connect to the publisher"
        )
    if hidden:
        return (
            f"the sessions of {hidden} hide their transactions: set track_activities = on for the"
            " server, its roles and its databases, and reconnect them"
        )
    return ""


def _blocks(found: str | None) -> str:
    """Empty when the cursor's numbers are drawn one by one, else what to do about it."""
    sequence, _, size = (found or "").rpartition(" CACHE ")
    return sequence and (
        f"sessions take numbers from sequence {sequence} in blocks of {size}, and may use one long"
        f" after higher ones were read: run ALTER SEQUENCE {sequence} CACHE 1; and reconnect them"
    )


def now(session: psycopg.Connection[Any]) -> str:
    """The source's clock as text, in UTC."""
    row = session.execute("SELECT clock_timestamp()::text").fetchone()
    assert row
    return str(row[0])


def open_since(session: psycopg.Connection[Any], moment: str) -> Holder | None:
    """The oldest transaction that was open at `moment` and still is, or None."""
    for _ in range(_GLANCES):  # who merely looks idle will soon be seen to be, or to be not
        since, who, looks_idle, *session_of = session.execute(
            _OPEN, {"extractor": EXTRACTOR, "since": moment}
        ).fetchone() or (None, None, False, None, None, None, None)
        if not looks_idle:
            break
        time.sleep(0.001)
    prepared = session.execute(_PREPARED).fetchone()
    if prepared:
        return Holder(since=None, who=prepared[0], user=prepared[1], state="prepared")
    pid, user, application, state = session_of
    return (
        Holder(since=since, who=who, pid=pid, user=user, application=application, state=state)
        if who
        else None
    )


def wait_until_ended(
    session: psycopg.Connection[Any], moment: str, bound: timedelta
) -> Holder | None:
    """Wait until every transaction open at `moment` has ended; after `bound`, the oldest that has
    not."""
    deadline = time.monotonic() + bound.total_seconds()
    waiting = False
    while holder := open_since(session, moment):
        if not waiting:
            _log.info("waiting up to %s for an open transaction: %s", bound, holder.who)
            waiting = True
        if time.monotonic() >= deadline:
            return holder
        time.sleep(_POLL_SECONDS)
    return None
