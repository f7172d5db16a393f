"""End the older tries of a load. One whose process was stopped keeps the target's lock for as long as it sleeps.

A load names its transaction after its table and its fence, so that a later one finds it in pg_stat_activity.
"""

from __future__ import annotations

import hashlib
import json

from loadsheet.lake.manifest import Manifest
from loadsheet.names import slug
from loadsheet.postgres import Session

# Who holds an older fence can no longer commit (`fence.advance`). Who holds the same one is another try of the same
# load: of two, only the one that connected first is ended, so that they never end each other, and one that wakes up
# never ends the try that has taken over. One's own role's sessions need no further right.
_END_OLDER = """
WITH try AS (
    SELECT pid, backend_start AS since, substring(application_name FROM %s)::bigint AS fence FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
)
SELECT pg_terminate_backend(old.pid) FROM try old, try me
WHERE me.pid = pg_backend_pid() AND (old.fence < me.fence OR old.fence = me.fence AND old.since < me.since)
"""
_LONGEST_NAME = 63  # the server cuts application_name there


def end_older_tries(session: Session, manifest: Manifest) -> None:
    """Name the open transaction after the load; end the sessions of its older tries and of the table's older loads.

    Call it before the first lock is taken. Whoever is ended meets a lost session, and asks the ledger.
    """
    table = hashlib.sha256(json.dumps([manifest.pipeline, manifest.table]).encode()).hexdigest()[:16]
    prefix = f"loadsheet:load:{table}:"
    name = f"{prefix}{manifest.fence}:{slug(manifest.table)}"[:_LONGEST_NAME]
    session.execute("SELECT set_config('application_name', %s, true)", (name,))
    session.execute(_END_OLDER, (f"^{prefix}([0-9]{{1,18}}):",))
