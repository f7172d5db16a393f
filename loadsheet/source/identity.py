"""The source's identity: is it still the server, the history and the table that the watermark came
from?

A watermark means that everything below it has been read. After a restore, a failover that lost
transactions, or a recreated table, new rows can lie below it, and no increment would read them.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from loadsheet.errors import Refused, SourceChanged, Unavailable
from loadsheet.pinned import PinnedSession
from loadsheet.source.table import SourceTable

_log = logging.getLogger(__name__)
_WAL_POSITION = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")

_DATABASE = """
SELECT datname::text AS database, d.oid::text AS database_oid,
    current_setting('server_version') AS server_version,
       pg_is_in_recovery() AS standby, pg_postmaster_start_time()::text AS started,
    txid_snapshot_xmin(txid_current_snapshot())::text AS oldest_transaction,
    CASE WHEN NOT pg_is_in_recovery()
        THEN txid_snapshot_xmax(txid_current_snapshot())::text END AS next_transaction,
    CASE WHEN pg_is_in_recovery()
        THEN txid_snapshot_xmax(txid_current_snapshot())::text END AS seen_on_standby
FROM pg_database d WHERE datname = current_database()
"""
# The insert position: what is visible under synchronous_commit = off lies below it, but perhaps
# above the flushed one (`wait_until_durable`). Any role can read a primary's timeline from the name
# of its WAL file.
_WAL = """
SELECT lsn::text,
       CASE WHEN NOT pg_is_in_recovery()
           THEN ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::int::text END AS timeline,
       CASE WHEN pg_is_in_recovery() THEN true
           ELSE pg_current_wal_flush_lsn() >= lsn END AS durable
FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
    ELSE pg_current_wal_insert_lsn() END) w (lsn)
"""
# A standby knows its timeline from its primary, from replaying, or from its last restart point: the
# newest of them counts.
_CONTROL = """
SELECT system_identifier::text,
       greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT received_tli FROM pg_stat_wal_receiver))::text AS heard
FROM pg_control_system()
"""
# A standby replays only what it has flushed.
_DURABLE = """
SELECT CASE WHEN pg_is_in_recovery() THEN true
    ELSE pg_current_wal_flush_lsn() >= CAST(%(lsn)s AS pg_lsn) END
"""
# Ends with a commit that waits until the WAL is flushed, as any commit that has written into it: a
# message that nobody reads is the least to write, and a role that only reads may do so. Measured:
# 1 ms, where the WAL writer takes 0.2 to 0.6 s. Under wal_level = logical somebody may read it.
_FLUSH = """
SELECT set_config('synchronous_commit', 'local', true),
       pg_logical_emit_message(true, 'loadsheet', '')
WHERE current_setting('wal_level') IN ('minimal', 'replica')
"""
# Ends with a commit record, which the WAL writer flushes with everything before it within three
# rounds of wal_writer_delay (0.2 s). On a quiet server nothing else may do so for 15 s.
_USE_A_TRANSACTION_ID = "SELECT pg_current_xact_id()"
_DURABLE_SECONDS = 60
_WAL_WRITER_SECONDS = 0.6
_DURABLE_POLL_SECONDS = 0.02
# A role may lack a privilege, and Aurora has no WAL: the source then keeps a fact to itself.
_WITHHELD = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.UndefinedFunction,
)
_RISK = (
    "Rows below the watermark may be new or gone, and an increment would not see them; nothing was"
    " written. Read the table again: `loadsheet run {pipeline} --tables {table} --full-refresh`"
    " (Airflow: full_refresh in the trigger form). Or, only if nothing was lost (a planned"
    " switchover): --accept-source (Airflow: accept_source)"
)
_LAG = (
    "If it only lags behind the server that was read before (a standby, or a primary with a commit"
    " that waits for its standbys), retry when it has caught up. "
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The source as it is now."""

    facts: dict[str, str]
    """As manifests keep them, without those that this role may not read."""
    is_standby: bool
    started: str
    """When the server was started, which tells it from other standbys of the same primary."""
    is_durable: bool
    """Whether a crash can no longer take back what is visible now (`wait_until_durable`)."""

    def since(self, last: Mapping[str, str]) -> Difference:
        """How it differs from the facts of the last load. A fact that either side lacks is not
        compared."""
        changes = _changes(last, self.facts)
        behind = _behind(last, self.facts)
        waiting = _waiting(last, self.facts)
        may_catch_up = self.is_standby or not behind
        return Difference(
            changes=[*changes, *behind, *waiting],
            is_behind=bool(behind or waiting),
            lags=bool(behind or waiting) and not changes and may_catch_up,
        )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How the source differs from that of the last load."""

    changes: list[str]
    """Each as text for the user."""
    is_behind: bool
    """It lacks what the source had at the last load."""
    lags: bool
    """It may just lag behind, and catch up."""


def see(session: psycopg.Connection[Any]) -> Identity:
    """The source's identity. Raises Refused where it is not written as PostgreSQL does."""
    facts = _query(session, (_DATABASE, _WAL, _CONTROL))
    facts["timeline"] = facts.get("timeline") or facts.get("heard")
    names = (
        *("database", "database_oid", "server_version", "lsn", "timeline", "system_identifier"),
        *("oldest_transaction", "next_transaction", "seen_on_standby"),
    )
    if not facts.get("lsn"):
        # Nothing can tell when a crash no longer takes it back (`wait_until_durable`).
        facts.pop("next_transaction", None)
    now = {name: facts[name] for name in names if facts.get(name)}
    _refuse_unreadable(now)
    return Identity(
        facts=now,
        is_standby=bool(facts.get("standby")),
        started=str(facts.get("started")),
        is_durable=bool(facts.get("durable")),
    )


def see_before(session: PinnedSession) -> Identity | None:
    """The source's identity before a snapshot, for `observe`. None, which costs nothing, where the
    session has led to a primary before: only a restart, which ends sessions, makes it a standby."""
    if session.led_to_primary:
        return None
    found = see(session)
    session.led_to_primary = not found.is_standby
    return found


def observe(
    session: psycopg.Connection[Any], last: dict[str, str] | None, before: Identity | None
) -> tuple[Identity, Difference]:
    """The source's identity in the open snapshot, and how it differs from the one of the last load.

    `before` is what `see_before` returned before the snapshot was taken. The identity lacks facts
    that this role may not read. Raises Unavailable where `before` is another server's.
    """
    now = see(session)
    return now, _in_snapshot(now, before).since(last or {})


# Separate, so that a test can show what happens without it.
def _in_snapshot(now: Identity, before: Identity | None) -> Identity:
    """The identity as it was when the snapshot was taken, or before. A standby replays meanwhile:
    the position that it shows now may be above rows of the last load that its snapshot has not."""
    if not now.is_standby:
        return now
    # Through a pooler, a session may lead to a primary first, and to a standby then.
    if before is None or before.started != now.started:
        raise Unavailable(
            "the source is a standby, and this connection has led to two servers within one step;"
            " nothing was written. Connect to one standby, or to the primary"
        )
    return before


def is_another(last: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether the facts of now are of another server, timeline or database than those of the last
    load."""
    return bool(_changes(last, now))


def wait_until_durable(session: psycopg.Connection[Any], found: Mapping[str, str]) -> None:
    """Return when a crash of the source can no longer take back what was visible at the WAL
    position that `observe` has `found`. Call it outside of a transaction, and only where the
    identity was not known to be durable (`is_durable`).

    Without this, a crash soon after an extract moves the WAL position back below the recorded one,
    as a restore from a backup does; and under synchronous_commit = off it takes back rows that were
    read. Measured: of 25 crashes under load the insert position went back in 25, the flushed one in
    none. A server that has no WAL position to compare is not asked.

    Raises Unavailable when the source has not flushed its WAL after 60 s; psycopg errors.
    """
    if "lsn" not in found:
        return
    if _is_durable(session, found["lsn"]):
        return
    _log.debug("the source's WAL is not flushed up to %s yet", found["lsn"])
    if not _flush(session) and not _ask_wal_writer(session):
        # Then a crash in the next moments may be taken for a restore.
        time.sleep(_WAL_WRITER_SECONDS)
        return
    deadline = time.monotonic() + _DURABLE_SECONDS
    while not _is_durable(session, found["lsn"]):
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"the source has not flushed its WAL up to {found['lsn']} for"
                f" {_DURABLE_SECONDS} s, so a crash could take back rows that were read; nothing"
                " was recorded. Check the source's disk, then retry"
            )
        time.sleep(_DURABLE_POLL_SECONDS)


def _flush(session: psycopg.Connection[Any]) -> bool:
    """Have the source flush its WAL now; returns whether it has."""
    try:
        return session.execute(_FLUSH).fetchone() is not None
    except _WITHHELD:
        return False


def _ask_wal_writer(session: psycopg.Connection[Any]) -> bool:
    """Leave the WAL writer something to flush; returns whether this role can."""
    try:
        session.execute(_USE_A_TRANSACTION_ID)
    except _WITHHELD:
        return False
    return True


def _is_durable(session: psycopg.Connection[Any], lsn: str) -> bool:
    try:
        row = session.execute(_DURABLE, {"lsn": lsn}).fetchone()
    except _WITHHELD:
        return True
    return row is None or bool(row[0])


def _query(session: psycopg.Connection[Any], queries: tuple[str, ...]) -> dict[str, Any]:
    """The facts of all queries: in one round trip, or one by one where the source withholds some,
    without those."""
    tables = ", ".join(f"({query}) part_{number}" for number, query in enumerate(queries))
    try:
        with session.transaction(), session.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(f"SELECT * FROM {tables}").fetchone() or {}
    except _WITHHELD as error:
        if len(queries) == 1:
            _log.debug("the source withholds a part of its identity: %s", error)
            return {}
    facts: dict[str, Any] = {}
    for query in queries:
        facts |= _query(session, (query,))
    return facts


def _refuse_unreadable(facts: Mapping[str, str]) -> None:
    """Raises Refused for what is no number: it would be recorded, and fail in each later run."""
    for name in ("oldest_transaction", "next_transaction", "seen_on_standby"):
        if name in facts:
            _transaction(facts[name])
    if "lsn" in facts:
        _place_in_wal(facts["lsn"])


def _is_lower(position: str | None, other: str | None) -> bool:
    """Whether a WAL position, as the server writes it (`16/B374D848`), is below another one; not
    where one is missing."""
    if not position or not other:
        return False
    return _place_in_wal(position) < _place_in_wal(other)


def _place_in_wal(position: str) -> tuple[int, int]:
    found = _WAL_POSITION.fullmatch(position)
    if found is None:
        raise Refused(
            f"the source says that its WAL is at {position!r}, which is no WAL position: check what"
            " the connection leads to"
        )
    return int(found[1], 16), int(found[2], 16)


def _behind(last: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What of a history has gone back, each as text for the user: nothing of it ever does, not by a
    crash either. Files that were put back may have passed one mark and not the other: WAL is
    switched by the clock, and a bulk load or a new index writes much of it in one transaction."""
    if _differs("system_identifier", last, now):
        return []
    behind = []
    if _is_lower(now.get("lsn"), last.get("lsn")):
        behind.append(f"WAL position {last['lsn']} -> {now['lsn']}")
    before, after = last.get("next_transaction"), now.get("next_transaction")
    if before and after and _transaction(after) < _transaction(before):
        behind.append(f"next transaction {before} -> {after}")
    return behind


# Separate, so that a test can show what happens without it.
def _waiting(last: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What a primary may not show yet of what a standby has shown at the last load, as text for the
    user. A commit that waits for synchronous standbys is in the WAL, which any standby replays; on
    the primary its rows are not visible, for as long as it waits."""
    seen, oldest = last.get("seen_on_standby"), now.get("oldest_transaction")
    if not seen or not oldest or "seen_on_standby" in now:
        return []
    if _differs("system_identifier", last, now) or _transaction(oldest) >= _transaction(seen):
        return []
    return [f"transaction {oldest} is still open, and was perhaps read from a standby as committed"]


def _transaction(text: str) -> int:
    if re.fullmatch("[0-9]{1,20}", text) is None:
        raise Refused(
            f"the source gives {text!r} as a transaction, which is no transaction id: check what"
            " the connection leads to"
        )
    return int(text)


def _differs(name: str, last: Mapping[str, str], now: Mapping[str, str]) -> bool:
    return name in last and name in now and last[name] != now[name]


def _changes(last: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    # Another server has a timeline and databases of its own: comparing them means nothing.
    if _differs("system_identifier", last, now):
        return [f"system identifier {last['system_identifier']} -> {now['system_identifier']}"]
    changes = []
    if _differs("timeline", last, now):
        changes.append(f"timeline {last['timeline']} -> {now['timeline']}")
    if _differs("database_oid", last, now) or _differs("database", last, now):
        changes.append(f"database {_database(last)} -> {_database(now)}")
    return changes


def _database(identity: Mapping[str, str]) -> str:
    return f"{identity['database']} (oid {identity.get('database_oid', 'unknown')})"


def table_facts(source: SourceTable) -> dict[str, str]:
    """What manifests keep of a relation, next to the source's identity: its leaves, and which rows
    its views select."""
    facts = {"leaves": " ".join(_leaves(source))}
    if source.beneath.definition:
        facts["definition"] = source.beneath.definition
    return facts


def table_changes(
    source: SourceTable,
    last_oid: int | None,
    last: Mapping[str, str] | None,
    facts: Mapping[str, str],
) -> list[str]:
    """How the relation differs from the one of the last load: another table may have its name, its
    views may select other rows, or its cursor may be stamped in another time zone (`facts` are
    those of this run).

    A view that was created again as it was is no change. New leaves are none either: `new_leaves`.
    """
    changes = _relation_changes(source, last_oid, last)
    zones = [zone for zone in ((last or {}).get("time_zone"), facts.get("time_zone")) if zone]
    if len(set(zones)) > 1:
        changes.append(f"the cursor's time zone {zones[0]} -> {zones[1]}")
    return changes


def _relation_changes(
    source: SourceTable, last_oid: int | None, last: Mapping[str, str] | None
) -> list[str]:
    if source.is_table:
        if last_oid in (None, source.oid):
            return []
        return [f"the table was dropped and recreated, oid {last_oid} -> {source.oid}"]
    before = last or {}
    if source.beneath.definition and "leaves" in before and "definition" not in before:
        return ["a view has taken the place of the table"]
    if before.get("definition") in (None, source.beneath.definition):
        return []
    return ["the view was redefined and may select other rows"]


def new_leaves(
    source: SourceTable, last_oid: int | None, last: dict[str, str] | None
) -> tuple[int, ...]:
    """The leaves that the relation did not have at the last load, for example attached partitions.

    Empty where the last load did not record its leaves, and for another table of the same name.
    """
    before = (last or {}).get("leaves")
    if before is None or (source.is_table and source.oid != last_oid):
        return ()
    known = before.split()
    now = zip(source.beneath.leaves, _leaves(source), strict=True)
    return tuple(oid for oid, leaf in now if leaf not in known)


def _leaves(source: SourceTable) -> list[str]:
    """Each leaf with the transactions that attached it: one that was detached in between may have
    other rows."""
    beneath = source.beneath
    attached = beneath.attached or ("",) * len(beneath.leaves)
    return [f"{oid}{by}" for oid, by in zip(beneath.leaves, attached, strict=True)]


def refuse_behind(source: SourceTable, changes: list[str], lags: bool) -> None:
    """Raises SourceChanged where a person has accepted a source that lacks what the last load had
    seen, and rows that are gone are to be deleted: those that it lacks would be."""
    error = SourceChanged(
        f"{source.relation}: the source was accepted, but it is behind the last load"
        f" ({', '.join(changes)}): rows that it has lost, or not replayed yet, would look deleted;"
        " nothing was written. Retry if it is a standby that is to catch up; else run a full"
        " refresh of this table"
    )
    error.retryable = lags
    raise error


def refuse(source: SourceTable, pipeline: str, changes: list[str], lags: bool) -> None:
    """Raises SourceChanged with the changes, the risk and the two ways to continue. A retry may
    help where the source `lags`."""
    advice = _RISK.format(pipeline=pipeline, table=source.relation.name)
    if lags:
        advice = _LAG + advice
    error = SourceChanged(
        f"{source.relation}: the source changed since the last load: {', '.join(changes)}. {advice}"
    )
    error.retryable = lags
    raise error
