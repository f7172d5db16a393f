"""Sessions of the tests' DBA that are kept from one statement to the next.

A new session takes 5.5 ms of a core on both sides, a kept one 0.3 ms, and a test of the core asks
for 15.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from loadsheet.sqltest.embedded import EmbeddedServer

# Source and warehouse of a test, each as its DBA and as the one who grants.
_MOST = 4
# What these change is in force in the next session.
_FOR_NEW_SESSIONS = re.compile(
    r"\bALTER\s+(DATABASE|ROLE|USER|SYSTEM)\b|pg_reload_conf", re.IGNORECASE
)
_Key = tuple[int, str, tuple[tuple[str, Any], ...]]
_idle: OrderedDict[_Key, psycopg.Connection[Any]] = OrderedDict()
_lock = threading.Lock()


def fetch_kept(uri: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run SQL as in a session of its own, and return the rows, if any. Nothing of it outlives the
    statement: neither settings nor advisory locks nor temporary tables."""
    with kept(uri) as session:
        cursor = session.execute(statement, parameters or None)
        # Not `description`: rows without columns (`SELECT FROM t`) have none, and are rows.
        found = [] if cursor.rownumber is None else cursor.fetchall()
    if _FOR_NEW_SESSIONS.search(statement):
        close_kept()
    return found


@contextmanager
def kept(uri: str, **options: Any) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit session that is as good as new. It is kept for the next call, unless an error
    leaves the block."""
    key = (os.getpid(), uri, tuple(sorted(options.items())))
    session = _take(key)
    if session is None:
        session = psycopg.connect(uri, autocommit=True, prepare_threshold=None, **options)
    try:
        yield session
        is_clean = _clean(session)
    except BaseException:
        session.close()
        raise
    if is_clean:
        _keep(key, session)
    else:
        session.close()


def close_kept(database: str = "") -> None:
    """Close those that are kept, of one URI or of all."""
    with _lock:
        closing = [key for key in _idle if not database or key[1] == database]
        sessions = [_idle.pop(key) for key in closing]
    for session in sessions:
        session.close()


def _take(key: _Key) -> psycopg.Connection[Any] | None:
    with _lock:
        session = _idle.pop(key, None)
    if session is None:
        return None
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:  # it was ended, or its server is away
        session.close()
        return None
    return session


def _keep(key: _Key, session: psycopg.Connection[Any]) -> None:
    with _lock:
        # Two threads may have had one each.
        surplus = [_idle.pop(key)] if key in _idle else []
        _idle[key] = session
        surplus += [_idle.popitem(last=False)[1] for _ in range(len(_idle) - _MOST)]
    for one in surplus:
        one.close()


def _clean(session: psycopg.Connection[Any]) -> bool:
    """Whether nothing of what was done is left in the session, and nobody counts it: a role may
    have so many and no more."""
    is_idle = session.info.transaction_status == TransactionStatus.IDLE
    if not is_idle or session.info.user != EmbeddedServer.user:
        return False
    with suppress(psycopg.Error):
        # As the end of a session does; else its statistics would be seen seconds later.
        session.execute("SELECT pg_catalog.pg_stat_force_next_flush()")
        session.execute("DISCARD ALL")
        return True
    return False
