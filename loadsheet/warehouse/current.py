"""Through when a target is known to have all that its source has committed: what its age is told
from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadsheet.lake.manifest import Manifest
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation

# A source whose clock is ahead must not make its rows younger than they are, and of two looks at
# once the later one counts.
_LATEST = "greatest(current_at, least(CAST(%(read_at)s AS timestamptz), clock_timestamp()))"
ADVANCED = f"CASE WHEN %(complete)s THEN {_LATEST} ELSE current_at END"
"""SQL: `current_at` after a load."""
_SEEN = f"""
UPDATE loadsheet.scope SET waits_for = seen.held_by,
    current_at = CASE WHEN seen.held_by = '' THEN {_LATEST} ELSE current_at END
FROM unnest(CAST(%(names)s AS text[]), CAST(%(targets)s AS text[]), CAST(%(held_by)s AS text[]))
    AS seen (table_name, target, held_by)
WHERE scope.pipeline = %(pipeline)s AND scope.table_name = seen.table_name
    AND scope.target = seen.target
"""


def advanced(manifest: Manifest) -> dict[str, Any]:
    """The values that ADVANCED and the column `waits_for` need for a load of the manifest.

    Rows by their keys, of a fill and of an interval do not show that nothing is missing. Where the
    watermark is held back, a table that is merged by its key has all rows that are visible in the
    source all the same: only rows that are appended wait.
    """
    reads_all_news = manifest.moves_watermark or (
        manifest.cursor is None and manifest.action == "replace"
    )
    held_by = "" if manifest.key else manifest.held_by
    return {
        "complete": reads_all_news and not manifest.repairs and not held_by,
        "read_at": manifest.read_at,
        "held_by": held_by,
    }


def record_looks(
    session: Session, pipeline: str, held_by: Mapping[Relation, str], read_at: str
) -> None:
    """Record that extractions have found nothing new for the targets at `read_at`, the source's
    clock: for each what keeps visible rows from being read, empty where nothing does."""
    targets = list(held_by)
    session.execute(
        _SEEN,
        {
            "pipeline": pipeline,
            "read_at": read_at,
            "names": [target.name for target in targets],
            "targets": [str(target) for target in targets],
            "held_by": [held_by[target] for target in targets],
        },
    )
