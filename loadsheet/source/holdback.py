"""Hold-back: how far the watermark may move so that no transaction still open can write below it.

`max(cursor)` as the next watermark loses rows that commit late: 89 of 359 in the measured run, 0 with hold-back
(docs/protocol.md). A transaction stamps its rows with its start time, or draws a sequence number, long before its
rows can be seen; so whoever was open when the highest cursor was read may yet write below it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.postgres import EXTRACTOR
from loadsheet.source.catalog import SourceTable

_POLL_SECONDS = 0.05

# A backend that has just begun shows its query's start before its transaction's. Extractions only read, so they hold
# nothing back; autovacuum and WAL senders write no rows of ours. A transaction leaves this list for
# pg_prepared_xacts when it is prepared, so that one is asked second.
_OPEN = """
SELECT min(coalesce(xact_start, query_start))::text,
       (array_agg(format('pid %%s (%%s, %%s, open since %%s)', pid, usename, state, xact_start)
                  ORDER BY coalesce(xact_start, query_start)))[1]
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> %(extractor)s
  AND backend_type NOT IN ('autovacuum worker', 'walsender')
  AND (xact_start IS NOT NULL OR state = 'active') AND coalesce(xact_start, query_start) <= %(since)s::timestamptz
"""
_PREPARED = """
SELECT format('prepared transaction %%L (%%s, prepared %%s)', gid, owner, prepared) FROM pg_prepared_xacts
WHERE database = current_database() ORDER BY prepared LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who is still open, and since when: `since` is None where that cannot be known (prepared transactions)."""

    since: str | None
    who: str


def _blindness(session: psycopg.Connection[Any]) -> str:
    """Empty when hold-back can work here, else why it cannot and what to do about it."""
    row = session.execute(
        "SELECT pg_is_in_recovery(), pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), quote_ident(current_user)"
    ).fetchone()
    assert row
    standby, privileged, role = row
    if standby:
        return "the source is a standby and cannot see its primary's transactions: connect to the primary"
    if not privileged:
        return f"role {role} cannot see other sessions' transactions: run GRANT pg_read_all_stats TO {role};"
    return ""


def sees(session: psycopg.Connection[Any], table: SourceTable, required: bool = True) -> bool:
    """Whether open transactions can be seen here. Raises Refused, with the exact remedy, where that is `required`."""
    reason = _blindness(session)
    if reason and required:
        raise Refused(f"{table.relation}: {reason} (or accept an overlap by setting incremental.lookback)")
    return not reason


def now(session: psycopg.Connection[Any]) -> str:
    """The source's clock as text, in UTC."""
    row = session.execute("SELECT clock_timestamp()::text").fetchone()
    assert row
    return str(row[0])


def open_since(session: psycopg.Connection[Any], moment: str) -> Holder | None:
    """The oldest transaction that was open at `moment` and still is, or None."""
    since, who = session.execute(_OPEN, {"extractor": EXTRACTOR, "since": moment}).fetchone() or (None, None)
    prepared = session.execute(_PREPARED).fetchone()
    if prepared:
        return Holder(since=None, who=prepared[0])
    return Holder(since=since, who=who) if who else None


def wait_until_ended(session: psycopg.Connection[Any], moment: str, bound: timedelta) -> Holder | None:
    """Wait until every transaction open at `moment` has ended; after `bound`, the oldest that has not."""
    deadline = time.monotonic() + bound.total_seconds()
    while holder := open_since(session, moment):
        if time.monotonic() >= deadline:
            return holder
        time.sleep(_POLL_SECONDS)
    return None
