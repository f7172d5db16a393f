"""Whether a transform is due, and whether it must be built in full: asked of the ledger, not of upstream tasks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger, tables

_LAST_RUN = """
SELECT sql_sha256, seen_load FROM loadsheet.transform_run
WHERE pipeline = %s AND transform = %s ORDER BY run_no DESC LIMIT 1
"""
# Loads and builds of the inputs that changed something after `since`; whether one may have taken rows away.
_CHANGES = """
SELECT count(*), coalesce(bool_or(replaced OR deleted > 0), false) FROM (
    SELECT load_no AS number, target, inserted, updated, deleted, replaced FROM loadsheet.load
    UNION ALL
    SELECT run_no, target, inserted, updated, deleted, replaced FROM loadsheet.transform_run
) change
WHERE target = ANY(%(inputs)s) AND number > %(since)s AND (inserted + updated + deleted > 0 OR replaced)
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Why and how a transform runs: in full, or from the loads after `since_load`."""

    full: bool
    since_load: int
    reason: str


def numbers_seen(session: Session, inputs: list[Relation]) -> int:
    """A number below which every load of the inputs is committed and visible from now on.

    Loads draw their number under their target's lock; while all inputs are locked (shared, in one order for all), no
    load of them is under way, so whatever comes later has a higher number.
    """
    with session.transaction():
        for target in sorted(inputs, key=str):
            ledger.lock(session, target, shared=True)
        row = session.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM loadsheet.load_no").fetchone()
    return int(row[0]) if row else 0


def seen(session: Session, pipeline: Pipeline, transform: Transform) -> int:
    """The number up to which the transform has seen its inputs; 0 before its first run."""
    last = session.execute(_LAST_RUN, (pipeline.name, transform.name)).fetchone()
    return int(last[1]) if last else 0


def decide(
    session: Session, pipeline: Pipeline, transform: Transform, target: Relation, inputs: list[Relation], full: bool
) -> Job | None:
    """What there is to do; None when nothing changed since the transform last succeeded."""
    last = session.execute(_LAST_RUN, (pipeline.name, transform.name)).fetchone()
    if full or last is None:
        return Job(full=True, since_load=0, reason="full refresh" if full and last else "first run")
    if last[0] != fingerprint(transform):
        return Job(full=True, since_load=0, reason="its SQL changed")
    if transform.materialized != "script" and tables.kind(session, target) is None:
        return Job(full=True, since_load=0, reason="its table is gone")
    count, shrank = session.execute(
        _CHANGES, {"inputs": [str(i) for i in inputs], "since": last[1]}
    ).fetchone() or (0, False)  # fmt: skip
    if not count:
        return None
    return Job(full=shrank, since_load=0 if shrank else last[1], reason="inputs were rebuilt" if shrank else "new rows")


def fingerprint(transform: Transform) -> str:
    """Changes when the transform's SQL, materialization or key does."""
    return hashlib.sha256(repr((transform.sql, transform.materialized, transform.unique_key)).encode()).hexdigest()
