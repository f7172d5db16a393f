"""What the ledger tells of a change of a table or mart, for those who wait for it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from loadsheet.postgres import Session
from loadsheet.warehouse.ledger import Effect, Kind
from loadsheet.wording import counted

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
_RUN_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
# The ledger has no index for this: the last entries are looked through, in some milliseconds.
_OF_RUN = """
SELECT {of}, inserted, updated, deleted FROM loadsheet.{table}
WHERE pipeline = %(pipeline)s AND run_id = %(run_id)s
    AND {number} > (SELECT max({number}) - 10000 FROM loadsheet.{table})
"""
_RUN = f"""
SELECT count(DISTINCT name) FILTER (WHERE is_table),
    count(DISTINCT name) FILTER (WHERE NOT is_table),
    coalesce(sum(inserted), 0)::bigint, coalesce(sum(updated), 0)::bigint,
    coalesce(sum(deleted), 0)::bigint
FROM (
    {_OF_RUN.format(of="true AS is_table, table_name AS name", table="load", number="load_no")}
    UNION ALL
    {_OF_RUN.format(of="false, transform", table="transform_run", number="run_no")}
) done
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


def run_summary(session: Session, pipeline: str, run_id: str) -> str:
    """What the run has loaded and built so far, in one line.

    To call in a transaction: others that ask for the same run wait for its end, so that what is
    told last is complete.
    """
    session.execute(_RUN_LOCK, (f"loadsheet run: {pipeline} {run_id}",))
    row = session.execute(_RUN, {"pipeline": pipeline, "run_id": run_id}).fetchone()
    assert row
    tables, marts, inserted, updated, deleted = row
    done = [f"{counted(tables, 'table')} loaded"] if tables else []
    done += [f"{counted(marts, 'mart')} built"] if marts else []
    rows = f"{inserted:,} inserted, {updated:,} updated, {deleted:,} deleted"
    return f"{', '.join(done)}. Rows: {rows}"
