"""Hold-back: which open transactions can still write below the next watermark.

A transaction stamps its rows with its start time, or draws a sequence number, long before other
sessions see these rows. So a transaction that was open when the highest cursor was read may still
write below it. With `max(cursor)` as the next watermark, rows that commit late are lost: 89 of 359
in the measured run, 0 with hold-back (docs/protocol.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from loadsheet.errors import HeldBack, Refused
from loadsheet.postgres import EXTRACTOR, EXTRACTOR_LOCK
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental
from loadsheet.wording import shortened

_log = logging.getLogger(__name__)

_OVERLAP = "(or accept an overlap by setting incremental.lookback)"
_WITHOUT_INTERVAL = "(or run without an interval: incremental.lookback makes up for it there)"
_BY_WATERMARK = "(or read it by: watermark, with an overlap: incremental.lookback)"

_POLL_SECONDS = 0.05
_IDLE_CHECKS = 20
_never_waits: ContextVar[bool] = ContextVar("loadsheet_never_waits", default=False)

# Autovacuum writes no rows of ours. A WAL sender does if its client runs SQL: it shows
# no start of its transaction, but a transaction id, or that it is idle in one. A prepared
# transaction moves from this list to pg_prepared_xacts, which is therefore queried second.
# A backend fixes its transaction's now() first and shows itself as active a moment later. A backend
# that shows as idle, but does not wait for its client (ClientRead), may be in between: 11 of 20,767
# backends stopped at random were, and wrote below a value that had been read meanwhile. The best
# known start of such a transaction is the moment at which its backend became idle.
_OPEN = """
SELECT since::text,
       format('pid %%s (%%s, %%s)', pid,
              concat_ws(', ', usename, nullif(application_name, ''), state),
              coalesce('open since ' || since,
                       CASE backend_type WHEN 'walsender' THEN 'of a replication connection'
                           ELSE 'hides its transactions: track_activities is off' END)),
       state = 'idle', pid, usename, application_name, state, backend_xid IS NULL
FROM (
    SELECT pid, usename, application_name, state, backend_type, backend_xid,
        CASE WHEN backend_type = 'walsender' OR state = 'disabled' THEN NULL
            WHEN state = 'idle' THEN state_change
            ELSE coalesce(xact_start, query_start) END AS since
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type <> 'autovacuum worker'
        AND CASE WHEN backend_type = 'walsender'
            THEN backend_xid IS NOT NULL OR state LIKE 'idle in transaction%%'
            ELSE xact_start IS NOT NULL OR state IN ('active', 'fastpath function call', 'disabled')
                OR (state = 'idle' AND wait_event IS NULL AND backend_type = 'client backend')
            END
) open WHERE since IS NULL OR since <= %(since)s::timestamptz ORDER BY since NULLS FIRST
"""
# Extractions only read, so they hold nothing back. Their application_name proves nothing: behind a
# pooler, others inherit it. What proves it is the lock in a transaction without a transaction id.
# Asked after _OPEN: a session may have been another's a moment ago, and the lock shows that this
# transaction has ended by now. In the other order, a writer would be taken for an extraction.
_EXTRACTORS = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND (classid, objid, objsubid) = (%s, %s, 2)
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_PREPARED = """
SELECT format('prepared transaction %L (%s, prepared %s)', gid, owner, prepared), owner
    FROM pg_prepared_xacts
WHERE database = current_database() ORDER BY prepared LIMIT 1
"""
_VISIBILITY = """
SELECT pg_is_in_recovery(), pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
    quote_ident(current_user),
       EXISTS (SELECT FROM pg_subscription_rel, unnest(%(leaves)s::oid[]) leaf
               WHERE srrelid = leaf OR srrelid IN (SELECT relid FROM pg_partition_ancestors(leaf))),
       (SELECT min(usename) FROM pg_stat_activity WHERE datname = current_database()
           AND state = 'disabled')
"""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """An open transaction that holds the watermark back."""

    since: str | None
    """When it began; None where that cannot be known (prepared transactions)."""
    who: str
    """A description for messages, with all that the fields below hold."""
    pid: int | None = None
    user: str | None = None
    application: str | None = None
    state: str | None = None


def way_on(spec: Incremental) -> str:
    """The end of each message about rows that may come late: what makes up for not knowing."""
    if spec.by == "data_interval":
        return _BY_WATERMARK
    # With a lookback, only a run of an interval is refused.
    return _OVERLAP if spec.lookback is None else _WITHOUT_INTERVAL


def refuse_unseen_transactions(
    session: psycopg.Connection[Any], table: SourceTable, spec: Incremental
) -> None:
    """Raises Refused, with the exact remedy, unless this session sees all open transactions that
    may write into `table`."""
    why_blind = _why_blind_to(session, table)
    if why_blind:
        raise Refused(f"{table.relation}: {why_blind} {way_on(spec)}")


def sees_open_transactions(session: psycopg.Connection[Any], table: SourceTable) -> bool:
    """Whether this session sees all open transactions that may write into `table`."""
    return not _why_blind_to(session, table)


def sees_writers_of(session: psycopg.Connection[Any], oids: Sequence[int]) -> bool:
    """Whether this session sees all open transactions that may write into these plain tables."""
    return not _why_blind_to_leaves(session, oids)


def _why_blind_to(session: psycopg.Connection[Any], table: SourceTable) -> str:
    why = _why_blind_to_leaves(session, table.beneath.leaves)
    if table.beneath.why_untrusted:
        return f"its writers cannot all be seen, because {table.beneath.why_untrusted}"
    return why


def _why_blind_to_leaves(session: psycopg.Connection[Any], leaves: Sequence[int]) -> str:
    row = session.execute(_VISIBILITY, {"leaves": list(leaves)}).fetchone()
    assert row
    return _why_blind(*row)


def _why_blind(
    standby: bool, privileged: bool, role: str, subscribed: bool, hidden: str | None
) -> str:
    """Why open transactions cannot be seen here and what to do about it; empty when they can."""
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
            "a subscription fills the table, and the source cannot see its publisher's"
            " transactions: connect to the publisher"
        )
    if hidden:
        return (
            f"the sessions of {hidden} hide their transactions: set track_activities = on for the"
            " server, its roles and its databases, and reconnect them"
        )
    return ""


def now(session: psycopg.Connection[Any]) -> str:
    """The source's clock as text, in UTC. Raises Refused for a text that is no time."""
    row = session.execute("SELECT clock_timestamp()::text").fetchone()
    assert row
    return _as_time(row[0])


def _as_time(text: str) -> str:
    """The text, which is recorded and read again by later runs: a time, or Refused is raised."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            f"the source gives {shortened(text)!r} as a time: check what the connection leads to"
        ) from None
    return text


def open_now(session: psycopg.Connection[Any]) -> Holder | None:
    """The oldest transaction that is open now, or None. As `open_since`, in one transaction where a
    single look is enough. To call outside of a transaction."""
    # A second look needs another one: within one, the server shows its sessions as they were at
    # the first look.
    with session.transaction():
        moment = now(session)
        oldest = _oldest(session, moment)
        if oldest is None or not oldest.may_pass:
            return _first_of(session, oldest)
    return open_since(session, moment)


def open_since(session: psycopg.Connection[Any], moment: str) -> Holder | None:
    """The oldest transaction that was open at `moment` and still is, or None."""
    oldest = None
    for _ in range(_IDLE_CHECKS):
        oldest = _oldest(session, moment)
        if oldest is None or not oldest.may_pass:
            break
        # Within some milliseconds it shows as active, as waiting for its client, or with its lock.
        time.sleep(0.001)
    return _first_of(session, oldest)


def _first_of(session: psycopg.Connection[Any], oldest: _Open | None) -> Holder | None:
    """A prepared transaction where there is one, else the session."""
    prepared = session.execute(_PREPARED).fetchone()
    if prepared:
        who, user = prepared
        return Holder(since=None, who=who, user=user, state="prepared")
    if oldest is None:
        return None
    return Holder(
        since=_as_time(oldest.since) if oldest.since else None,
        who=oldest.who,
        pid=oldest.pid,
        user=oldest.user,
        application=oldest.application,
        state=oldest.state,
    )


@dataclass(frozen=True)
class _Open:
    """A session that is in a transaction, or about to be: a row of _OPEN."""

    since: str | None
    who: str
    is_idle: bool
    pid: int
    user: str | None
    application: str | None
    state: str | None
    has_no_id: bool

    @property
    def may_pass(self) -> bool:
        """Whether another look may show that it holds nothing back."""
        return self.is_idle or (self.has_no_id and self.application == EXTRACTOR)


def _oldest(session: psycopg.Connection[Any], moment: str) -> _Open | None:
    """The session that is longest in a transaction and is no extraction."""
    found = [_Open(*row) for row in session.execute(_OPEN, {"since": moment})]
    extractors: set[int] = set()
    if any(one.has_no_id for one in found):
        extractors = {row[0] for row in session.execute(_EXTRACTORS, EXTRACTOR_LOCK)}
    for one in found:
        if not (one.has_no_id and one.pid in extractors):
            return one
    return None


@contextmanager
def never_waiting() -> Iterator[None]:
    """Within the block, HeldBack is raised instead of any wait for the source's writers."""
    token = _never_waits.set(True)
    try:
        yield
    finally:
        _never_waits.reset(token)


def refuse_to_wait(what_for: str) -> None:
    """Raises HeldBack where the caller must not wait (`never_waiting`)."""
    if _never_waits.get():
        raise HeldBack(f"it would wait for {what_for}")


def wait_until_ended(
    session: psycopg.Connection[Any], moment: str, bound: timedelta
) -> Holder | None:
    """Wait until every transaction open at `moment` has ended, at most `bound`. Returns the oldest
    one that is still open then, else None. Raises HeldBack where it must not wait."""
    deadline = time.monotonic() + bound.total_seconds()
    holder = open_since(session, moment)
    if holder and bound:
        refuse_to_wait(holder.who)
    if holder:
        _log.info("waiting up to %s for an open transaction: %s", bound, holder.who)
    while holder:
        if time.monotonic() >= deadline:
            _log.info("still open after %s: %s", bound, holder.who)
            break
        time.sleep(_POLL_SECONDS)
        holder = open_since(session, moment)
    return holder
