"""The load step: the attempt that the ledger has sealed, from the lake into staging."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg

from loadsheet.failpoints import reach
from loadsheet.lake.manifest import read_manifest
from loadsheet.lake.parts import Progress
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence, ledger
from loadsheet.warehouse.load_transaction import LoadResult, find_committed, load_manifest

Warehouse = Callable[[], AbstractContextManager[Session]]


def load(
    pipeline: Pipeline,
    table: Table,
    load_id: str,
    lake: Lake,
    warehouse: Warehouse,
    progress: Progress,
) -> Outcome:
    """Commit what the extract step stored under `load_id`.

    `warehouse` opens a session: a second one is needed when the first is lost during COMMIT, to ask
    whether it held.
    """
    target = Relation(pipeline.warehouse.schema, table.name)
    with warehouse() as session:
        try:
            done = _load(pipeline, table, load_id, lake, session, target, progress)
        except psycopg.Error:
            confirmed = (
                _confirmed(pipeline, table, load_id, warehouse, target) if session.broken else None
            )
            if confirmed is None:
                raise
            done = confirmed
    return _outcome(done, load_id)


def _load(
    pipeline: Pipeline,
    table: Table,
    load_id: str,
    lake: Lake,
    session: Session,
    target: Relation,
    progress: Progress,
) -> LoadResult:
    ledger.ensure(session)
    if done := find_committed(session, load_id):
        ledger.clear_failure(session, pipeline.name, "table", table.name)
        return done
    sealed = fence.sealed_attempt(session, pipeline.name, table.name, load_id)
    manifest = read_manifest(lake.get(sealed.manifest), sealed.manifest, sealed.sha256)
    reach("load.manifest_read")
    return load_manifest(session, lake, manifest, sealed.manifest, target, table, progress)


def _confirmed(
    pipeline: Pipeline, table: Table, load_id: str, warehouse: Warehouse, target: Relation
) -> LoadResult | None:
    """Whether the load is committed although its session was lost: asked under the target's lock,
    so it is final.

    None when a retry can load it still; raises Superseded when a newer extraction owns the table.
    """
    with warehouse() as session, session.transaction():
        ledger.lock_target(session, target)
        if done := find_committed(session, load_id):
            return done
        fence.sealed_attempt(session, pipeline.name, table.name, load_id)
    return None


def _outcome(done: LoadResult, load_id: str) -> Outcome:
    effect = done.effect
    counts = {
        "extracted": done.extracted,
        "inserted": effect.inserted,
        "updated": effect.updated,
        "deleted": effect.deleted,
    }
    message = "; ".join([str(effect), *done.notes])
    return Outcome(status="done", message=message, load_id=load_id, counts=counts)
