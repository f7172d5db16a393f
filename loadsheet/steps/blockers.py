"""Who holds a lock that a step waited for in vain."""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.sql.text import Relation

# A lock on the table itself, or the one that all loads of it take (`ledger.lock`): pg_locks shows its key in halves.
_HOLDERS = """
SELECT DISTINCT format('session %%s (%%s)', pid, concat_ws(', ', usename, nullif(application_name, '')))
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE granted AND pid <> pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (relation = to_regclass(%(table)s)
       OR locktype = 'advisory' AND objsubid = 1
          AND (classid::bigint << 32) | objid::bigint = hashtextextended(%(key)s, 0))
ORDER BY 1 LIMIT 3
"""


def blockers(session: Session, target: Relation) -> str:
    """The sessions that hold a lock on `target` now, as a sentence; empty when there are none any more."""
    found = session.execute(_HOLDERS, {"table": target.sql, "key": f"loadsheet:{target}"}).fetchall()
    return f"A lock on {target} is held by {', '.join(row[0] for row in found)}" if found else ""
