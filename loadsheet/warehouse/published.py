"""What the ledger tells of a change of a table or mart, for those who wait for it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from loadsheet.postgres import Session
from loadsheet.warehouse.ledger import Effect, Kind

_VERIFIED = """
    SELECT through FROM loadsheet.verified v
    WHERE (v.pipeline, v.kind, v.name, v.target) = (%(pipeline)s, %(kind)s, %(name)s, %(target)s)
        AND v.is_whole AND v.verdict = 'equal'
"""
_LOAD = f"""
SELECT load_no AS number, inserted, updated, deleted, replaced, bytes,
    extract_seconds + load_seconds AS seconds,
    (SELECT watermark FROM loadsheet.scope s
     WHERE (s.pipeline, s.table_name, s.target) = (l.pipeline, l.table_name, l.target)),
    ({_VERIFIED}) AS verified_through
FROM loadsheet.load l
WHERE (pipeline, table_name, target, run_id) = (%(pipeline)s, %(name)s, %(target)s, %(run_id)s)
ORDER BY load_no DESC LIMIT 1
"""
_BUILD = f"""
SELECT run_no AS number, inserted, updated, deleted, replaced, NULL AS bytes, seconds,
    NULL AS watermark,
    ({_VERIFIED}) AS verified_through
FROM loadsheet.transform_run
WHERE (pipeline, transform, target, run_id) = (%(pipeline)s, %(name)s, %(target)s, %(run_id)s)
ORDER BY run_no DESC LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class Published(Effect):
    """A committed load of a table, or a build of a mart."""

    number: int
    bytes: int | None
    """As stored in the lake; None for a mart."""
    seconds: float
    watermark: str | None
    """The table's; None for a mart and a table without a cursor."""
    verified_through: int | None
    """The number of the last load, or of the mart's last build, that the last comparison of all
    rows has seen; None where none has found them equal."""


def last_published(
    session: Session, pipeline: str, kind: Kind, name: str, target: str, run_id: str
) -> Published | None:
    """The last load or build of the target that the run has committed; None if there is none.

    Raises psycopg errors when the warehouse fails.
    """
    values = {
        "pipeline": pipeline,
        "kind": kind,
        "name": name,
        "target": target,
        "run_id": run_id,
    }
    with session.cursor(row_factory=class_row(Published)) as cursor:
        return cursor.execute(_LOAD if kind == "table" else _BUILD, values).fetchone()
