"""The ledger's last verdict on each table and mart: when it was compared, through which load, and
what differed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from psycopg.rows import class_row

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.warehouse import ledger
from loadsheet.warehouse.ledger import Kind

_KEY = ("pipeline", "kind", "name", "target", "is_whole")
# An older look that took longer does not replace a newer one. And a look at a part does not hide
# what another part differs in: only a look at the whole shows that nothing does any more.
_RECORD = """
INSERT INTO loadsheet.verified AS v ({names}) VALUES ({values})
ON CONFLICT ({key}) DO UPDATE SET {changes}
WHERE v.verified_at <= excluded.verified_at
    AND (v.is_whole OR v.verdict <> 'differs' OR excluded.verdict = 'differs')
"""
_DROP_PART = """
DELETE FROM loadsheet.verified
WHERE pipeline = %(pipeline)s AND kind = %(kind)s AND name = %(name)s AND target = %(target)s
    AND NOT is_whole AND %(is_whole)s AND verified_at <= %(verified_at)s
"""
_READ = """
SELECT kind, name, target, is_whole, part, verdict, source_rows, target_rows, missing, extra,
    different, newer, unproven, through, watermark, verified_at
FROM loadsheet.verified
WHERE pipeline = %(pipeline)s
    AND target = CASE kind WHEN 'table' THEN %(schema)s ELSE %(mart_schema)s END || '.' || name
"""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A verdict that is worth keeping: `equal`, `differs` or `not proven`."""

    kind: Kind
    name: str
    target: str
    is_whole: bool
    """Whether all rows were compared."""
    part: str
    """Which rows were compared, for messages; empty for all of them."""
    verdict: str
    source_rows: int
    """Of a mart: the rows of its SELECT."""
    target_rows: int
    missing: int
    extra: int
    different: int
    newer: int
    unproven: int
    through: int
    """The number of the last load, or of the mart's last build, that the comparison saw."""
    watermark: str | None
    """The table's at that time."""
    verified_at: datetime
    """When the comparison's snapshot of the warehouse was taken, by the warehouse's clock."""


def record(session: Session, pipeline: str, verified: Verified) -> None:
    """Write the verdict, in a transaction of its own.

    Raises Refused where the ledger has another version, because a comparison upgrades nothing;
    psycopg errors where the role may not write the ledger.
    """
    found = ledger.version(session)
    if found != ledger.VERSION:
        raise Refused(
            f"the ledger has version {found}, not {ledger.VERSION}: the pipeline's next run brings"
            " it up to date"
        )
    row = {"pipeline": pipeline, **asdict(verified)}
    statement = _RECORD.format(
        names=", ".join(row),
        values=", ".join(f"%({name})s" for name in row),
        key=", ".join(_KEY),
        changes=", ".join(f"{name} = excluded.{name}" for name in row if name not in _KEY),
    )
    with session.transaction():
        session.execute(statement, row)
        session.execute(_DROP_PART, row)


def read(session: Session, pipeline: str, schema: str, mart_schema: str) -> list[Verified]:
    """The verdicts on the pipeline's tables and marts in these schemas: of each at most one on all
    rows, and one on a part of them that is newer."""
    names = {"pipeline": pipeline, "schema": schema, "mart_schema": mart_schema}
    with session.cursor(row_factory=class_row(Verified)) as cursor:
        return cursor.execute(_READ, names).fetchall()
