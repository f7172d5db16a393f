"""Who holds the lock that a session has waited for in vain, asked in a session of its own: the one
that has failed knows only that it has waited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.engine.diagnosis import Diagnosis, connection_of, diagnose, named
from loadsheet.errors import Unavailable
from loadsheet.postgres import connect
from loadsheet.sql.text import Relation

LOCK_TIMEOUT = "SQLSTATE 55P03"
_LONGEST_QUESTION = timedelta(seconds=10)

# Locks on a table or its partitions, and advisory locks (`ledger.lock_target` and others): pg_locks
# shows the key of one in halves. The strongest lock first: a reader is seldom who was waited for.
_HOLDERS = """
WITH RECURSIVE tree (oid) AS (
    SELECT CAST(to_regclass(%(table)s) AS oid)
    UNION ALL SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
)
SELECT format('session %%s (%%s)', pid, concat_ws(', ', usename, nullif(application_name, ''),
    state, 'since ' || to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')))
FROM pg_stat_activity JOIN (
    SELECT pid, max(array_position(%(modes)s::text[], mode)) AS strength FROM pg_locks
    WHERE granted AND pid <> pg_backend_pid()
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (relation IN (SELECT oid FROM tree)
           OR locktype = 'advisory' AND objsubid = 1
              AND (classid::bigint << 32) | objid::bigint
                  IN (SELECT hashtextextended(key, 0) FROM unnest(%(keys)s::text[]) key))
    GROUP BY pid) held USING (pid)
ORDER BY strength DESC, xact_start LIMIT 3
"""
_MODES = [
    *("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"),
    *("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"),
]


@dataclass(frozen=True, kw_only=True)
class Locks:
    """What a session waits for under one name."""

    what: str
    """For messages: `staging.orders`."""
    table: Relation | None = None
    keys: Sequence[str] = ()
    """The texts whose hashes are the keys of advisory locks."""


def of_target(target: Relation, *keys: str) -> Locks:
    """The locks on a table of the warehouse, the one that all its writers take, and those of
    further `keys`."""
    return Locks(what=str(target), table=target, keys=(f"loadsheet:{target}", *keys))


def of_loads(pipeline: str) -> Locks:
    """The lock on a pipeline's loads in the lake (`ledger.lock_loads`)."""
    return Locks(what=f"the loads of {pipeline} in the lake", keys=(f"loadsheet:lake:{pipeline}",))


def of_table(relation: Relation) -> Locks:
    """The locks on any table."""
    return Locks(what=str(relation), table=relation)


def holders(connections: Connections, conn_id: str, waited_for: Sequence[Locks]) -> str:
    """A sentence that names who holds one of the locks on that server; empty where nobody does any
    more, and where the server does not answer."""
    with (
        suppress(Exception),
        limited("asking who holds the lock", _LONGEST_QUESTION),
        closing(connect(connections(conn_id), "loadsheet", {})) as session,
    ):
        for locks in waited_for:
            names = {
                "table": locks.table.sql if locks.table else None,
                "keys": list(locks.keys),
                "modes": _MODES,
            }
            found = ", ".join(row[0] for row in session.execute(_HOLDERS, names))
            if found:
                return f"A lock on {locks.what} is held by {found}"
    return ""


def explained(error: Exception, diagnosis: Diagnosis, who: str) -> str:
    """The message about `error`, with the sentence that says `who` holds the lock."""
    sentences = [f"{named(error)}{diagnosis.text_with_code}", who, diagnosis.advice]
    return ". ".join(filter(None, sentences))


@contextmanager
def holders_named(
    connections: Connections, waits: Mapping[str, Sequence[Locks]], before: str = ""
) -> Iterator[None]:
    """Within the block, a session that has waited too long raises Unavailable, which names who
    holds the lock: one of `waits`, by connection. The message begins with `before`."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        conn_ids = [connection_of(error)] if connection_of(error) else list(waits)
        found = (holders(connections, conn_id, waits.get(conn_id, ())) for conn_id in conn_ids)
        diagnosis = diagnose(error)
        assert diagnosis
        raise Unavailable(
            before + explained(error, diagnosis, next(filter(None, found), ""))
        ) from error
