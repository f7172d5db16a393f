"""Ends the sessions in which older tries of a load still work, so that none is waited for."""

from __future__ import annotations

import hashlib
import json
import logging

from loadsheet.lake.manifest import Manifest
from loadsheet.names import slug
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation

_log = logging.getLogger(__name__)

# A session with an older fence can no longer commit (`fence.advance_watermark`). One with the same
# fence is another try of the same load: of two, only the one that connected first is ended, so that
# they never end each other, and one that wakes up never ends the try that has taken over. A role
# may end its sessions without a further privilege.
_END = """
WITH try AS (
    SELECT pid, backend_start AS since, substring(application_name FROM %s)::bigint AS fence
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
)
SELECT pg_terminate_backend(old.pid) FROM try old, try me
WHERE me.pid = pg_backend_pid()
  AND (old.fence < me.fence OR old.fence = me.fence AND old.since < me.since)
"""
_LONGEST_NAME = 63  # the server truncates application_name there


def end(session: Session, manifest: Manifest, target: Relation) -> None:
    """End the sessions of this load's older tries and of the table's older loads into the target.

    Names the open transaction (`name`). Call it before the first lock is taken. A session that is
    ended meets a lost connection, and its process asks the ledger whether the load is committed.
    """
    prefix = name(session, manifest.pipeline, manifest.table, target, manifest.fence)
    ended = session.execute(_END, (f"^{prefix}([0-9]{{1,18}}):",)).rowcount
    if ended:
        _log.info("%s: ended %s older sessions of its loads", manifest.table, ended)


def name(session: Session, pipeline: str, table: str, target: Relation, fence: int) -> str:
    """Name the open transaction after the table and the fence, so that a later load finds it in
    pg_stat_activity. Returns what the names of all loads of the table begin with."""
    identity = json.dumps([pipeline, table, str(target)])
    prefix = f"loadsheet:load:{hashlib.sha256(identity.encode()).hexdigest()[:16]}:"
    full = f"{prefix}{fence}:{slug(table)}"[:_LONGEST_NAME]
    session.execute("SELECT set_config('application_name', %s, true)", (full,))
    return prefix
