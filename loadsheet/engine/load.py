"""The load step: the attempt that the ledger has sealed, from the lake into staging."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import psycopg

from loadsheet.checks import Checked
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
from loadsheet.warehouse.arrival import Begun, NotAsForeseen
from loadsheet.warehouse.committing import (
    LoadResult,
    find_attempt,
    find_committed,
    load_manifest,
)
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.engine.early import EarlyLoads

_log = logging.getLogger(__name__)
Warehouse = Callable[[], AbstractContextManager[Session]]


def load(
    pipeline: Pipeline,
    table: Table,
    load_id: str,
    lake: Lake,
    warehouse: Warehouse,
    progress: Progress,
    early: EarlyLoads | None = None,
) -> Outcome:
    """Commit what the extract step stored under `load_id`. A load that is already committed is
    successful. One of the `early` loads is continued.

    `warehouse` opens a session. When the first is lost during COMMIT, a second one asks the ledger
    whether the load was committed.

    Raises Superseded where a newer extraction owns the table, Corrupt where the lake does not hold
    what was sealed, Refused where the rows do not fit the target; psycopg and minio errors for
    trouble with the servers.
    """
    step = _Load(pipeline, table, load_id, lake, warehouse, progress)
    result = None
    begun = early.take(load_id) if early else None
    if begun:
        try:
            with begun.going_on() as (session, opened):
                result = step.commit(session, opened)
        except NotAsForeseen as error:
            _log.info("load %s begins again: %s", load_id, error)
    if result is None:
        with warehouse() as session:
            result = step.commit(session)
    effect = result.effect
    counts = {
        "extracted": result.extracted,
        "inserted": effect.inserted,
        "updated": effect.updated,
        "deleted": effect.deleted,
    }
    message = "; ".join([str(effect), *result.notes])
    return Outcome(
        status="done",
        message=message,
        load_id=load_id,
        counts=counts,
        changed=effect.changed,
        remarks=result.notes,
        drift=result.drift,
        checked=(Checked(kind="table", name=table.name, checks=result.checks),),
    )


class _Load:
    """One try of a load step."""

    def __init__(
        self,
        pipeline: Pipeline,
        table: Table,
        load_id: str,
        lake: Lake,
        warehouse: Warehouse,
        progress: Progress,
    ):
        self._pipeline = pipeline
        self._table = table
        self._load_id = load_id
        self._lake = lake
        self._warehouse = warehouse
        self._progress = progress
        self._target = Relation(pipeline.warehouse.schema, table.name)

    def commit(self, session: Session, begun: Begun | None = None) -> LoadResult:
        """Commit the load; where the session is lost, find out whether it is committed. Raises
        NotAsForeseen where what has `begun` in the session is of no use."""
        try:
            return self._commit(session, begun)
        except psycopg.Error:
            if not session.broken:
                raise
            _log.info(
                "the session of load %s was lost: asking whether it is committed", self._load_id
            )
            committed = self._find_after_lost_session()
            if committed is None:
                raise
            return committed

    def _commit(self, session: Session, begun: Begun | None) -> LoadResult:
        load_id, lake, target = self._load_id, self._lake, self._target
        names = (self._pipeline.name, self._table.name, target)
        # The ledger decides which attempt is valid: the lake may hold manifests of earlier ones.
        if begun:
            sealed = fence.sealed_attempt(session, *names, load_id)
        else:
            found = find_attempt(session, *names, load_id)
            if isinstance(found, LoadResult):  # an earlier try of this step got that far
                _log.debug("load %s is already committed", load_id)
                ledger.clear_failure(session, self._pipeline.name, "table", target)
                return found
            sealed = found
        stored = lake.get(sealed.manifest, LONGEST_MANIFEST)
        manifest = read_manifest(stored, sealed.manifest, sealed.sha256)
        reach("load.manifest_read")
        started = time.monotonic()
        result = load_manifest(
            session, lake, manifest, sealed, target, self._table, self._progress, begun
        )
        details.show(
            f"Loaded into {target}",
            {
                "load id": load_id,
                "manifest": f"{lake.bucket}/{sealed.manifest}",
                "mode": manifest.action,
                "effect": result.effect,
                "watermark": manifest.upper if manifest.moves_watermark else "",
                "held back by": manifest.held_by,
                "loaded early": counted(len(begun.arrival.early), "part") if begun else "",
                **details.amount(manifest.rows, manifest.size, started),
            },
        )
        return result

    def _find_after_lost_session(self) -> LoadResult | None:
        """The load, if it was committed although its session was lost; None if a retry can load it.

        Raises Superseded when a newer extraction owns the table.
        """
        with self._warehouse() as session, session.transaction():
            # The lost session's server process may still be committing. It holds this lock until
            # that is decided.
            ledger.lock_target(session, self._target)
            committed = find_committed(session, self._load_id)
            if committed is None:
                names = (self._pipeline.name, self._table.name, self._target)
                fence.sealed_attempt(session, *names, self._load_id)
            return committed
