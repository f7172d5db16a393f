"""What the ledger knows of a pipeline's tables that decides what the lake must keep."""

from __future__ import annotations

from collections.abc import Collection

from loadsheet.lake.garbage import Load, Standing
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables

_SCOPE = """
SELECT fence, sealed_manifest, EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname || '.' || c.relname = target
), now()
FROM loadsheet.scope WHERE pipeline = %s AND table_name = %s
"""
_LOADS = """
SELECT load_no, manifest, committed_at, action = 'replace' OR replaced FROM loadsheet.load
WHERE pipeline = %s AND table_name = %s ORDER BY load_no
"""


def tables_known(session: Session, pipeline: str) -> set[str] | None:
    """The tables that were ever extracted for the pipeline; None where the warehouse has no ledger."""
    if tables.kind(session, Relation("loadsheet", "scope")) is None:
        return None
    found = session.execute("SELECT table_name FROM loadsheet.scope WHERE pipeline = %s", (pipeline,))
    return {row[0] for row in found}


def prefixes_known(session: Session, pipeline: str, table: str) -> set[str]:
    """Where committed loads of the table were ever stored, each with a slash at its end: a spec's prefix may change."""
    found = session.execute(
        "SELECT DISTINCT manifest FROM loadsheet.load WHERE pipeline = %s AND table_name = %s", (pipeline, table)
    )
    return {row[0].rsplit("/", 3)[0] + "/" for row in found if row[0].count("/") >= 3}


def standing(session: Session, pipeline: str, table: str, in_spec: Collection[str]) -> Standing | None:
    """What the ledger says of the table, in one snapshot; None when it was never extracted."""
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        scope = session.execute(_SCOPE, (pipeline, table)).fetchone()
        if scope is None:
            return None
        loads = session.execute(_LOADS, (pipeline, table)).fetchall()
    fence, sealed, in_warehouse, now = scope
    return Standing(
        pipeline=pipeline, table=table, fence=fence, sealed=sealed, now=now, wanted=in_warehouse or table in in_spec,
        loads=tuple(
            Load(load_no=no, prefix=name.rpartition("/")[0], committed_at=at, whole=whole)
            for no, name, at, whole in loads
        ),
    )  # fmt: skip
