"""The load step: the attempt that the ledger has sealed, from the lake into staging."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg

from loadsheet.engine import details
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import LONGEST_MANIFEST, read_manifest
from loadsheet.lake.parts import Progress
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence, ledger
from loadsheet.warehouse.committing import LoadResult, find_committed, load_manifest

_log = logging.getLogger(__name__)
Warehouse = Callable[[], AbstractContextManager[Session]]


def load(
    pipeline: Pipeline,
    table: Table,
    load_id: str,
    lake: Lake,
    warehouse: Warehouse,
    progress: Progress,
) -> Outcome:
    """Commit what the extract step stored under `load_id`. A load that is already committed is
    successful.

    `warehouse` opens a session. When the first is lost during COMMIT, a second one asks the ledger
    whether the load was committed.

    Raises Superseded where a newer extraction owns the table, Corrupt where the lake does not hold
    what was sealed, Refused where the rows do not fit the target; psycopg and minio errors for
    trouble with the servers.
    """
    target = Relation(pipeline.warehouse.schema, table.name)
    with warehouse() as session:
        try:
            result = _commit(pipeline, table, load_id, lake, session, target, progress)
        except psycopg.Error:
            if not session.broken:
                raise
            _log.info("the session of load %s was lost: asking whether it is committed", load_id)
            committed = _find_after_lost_session(pipeline, table, load_id, warehouse, target)
            if committed is None:
                raise
            result = committed
    effect = result.effect
    counts = {
        "extracted": result.extracted,
        "inserted": effect.inserted,
        "updated": effect.updated,
        "deleted": effect.deleted,
    }
    message = "; ".join([str(effect), *result.notes])
    return Outcome(
        status="done", message=message, load_id=load_id, counts=counts, remarks=result.notes
    )


def _commit(
    pipeline: Pipeline,
    table: Table,
    load_id: str,
    lake: Lake,
    session: Session,
    target: Relation,
    progress: Progress,
) -> LoadResult:
    ledger.ensure(session)
    committed = find_committed(session, load_id)
    if committed:  # an earlier try of this step got that far
        _log.debug("load %s is already committed", load_id)
        ledger.clear_failure(session, pipeline.name, "table", target)
        return committed
    # The ledger decides which attempt is valid: the lake may hold manifests of earlier ones.
    sealed = fence.sealed_attempt(session, pipeline.name, table.name, target, load_id)
    stored = lake.get(sealed.manifest, LONGEST_MANIFEST)
    manifest = read_manifest(stored, sealed.manifest, sealed.sha256)
    reach("load.manifest_read")
    started = time.monotonic()
    result = load_manifest(session, lake, manifest, sealed, target, table, progress)
    details.show(
        f"Loaded into {target}",
        {
            "load id": load_id,
            "manifest": f"{lake.bucket}/{sealed.manifest}",
            "mode": manifest.action,
            "effect": result.effect,
            "watermark": manifest.upper if manifest.moves_watermark else "",
            "held back by": manifest.held_by,
            **details.amount(manifest.rows, manifest.size, started),
        },
    )
    return result


def _find_after_lost_session(
    pipeline: Pipeline, table: Table, load_id: str, warehouse: Warehouse, target: Relation
) -> LoadResult | None:
    """The load, if it was committed although its session was lost; None if a retry can load it.

    Raises Superseded when a newer extraction owns the table.
    """
    with warehouse() as session, session.transaction():
        # The lost session's server process may still be committing. It holds this lock until that
        # is decided.
        ledger.lock_target(session, target)
        committed = find_committed(session, load_id)
        if committed is None:
            fence.sealed_attempt(session, pipeline.name, table.name, target, load_id)
        return committed
