"""One load: from verified parts in the lake to committed rows, in one warehouse transaction
(docs/protocol.md)."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import psycopg

from loadsheet.checks import Check, passed_key
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Manifest
from loadsheet.lake.parts import Progress
from loadsheet.lake.store import Lake
from loadsheet.postgres import Session, ask_together
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence, gone, ledger, older_sessions, tables
from loadsheet.warehouse.arrival import Begun, NotAsForeseen
from loadsheet.warehouse.fence import SealedAttempt
from loadsheet.warehouse.ledger import Effect
from loadsheet.warehouse.load_transaction import LoadTransaction
from loadsheet.warehouse.scope import read_scope

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What a load did."""

    effect: Effect
    extracted: int
    notes: tuple[str, ...] = ()
    """Remarks for the step's message, such as drift and duplicate keys."""
    drift: tuple[str, ...] = ()
    """Those of them that tell what schema drift has changed."""
    checks: tuple[Check, ...] = ()
    """What the loaded rows have passed; empty for a load that was committed already."""


def load_manifest(
    session: Session,
    lake: Lake,
    manifest: Manifest,
    sealed: SealedAttempt,
    target: Relation,
    table: Table,
    progress: Progress,
    begun: Begun | None = None,
) -> LoadResult:
    """Commit the manifest's rows to `target`, or nothing. `sealed` is where the manifest is. A load
    that has `begun` in the session goes on in its transaction.

    Loading the same manifest twice changes nothing. Raises Corrupt when the lake's bytes are not
    those of the manifest, Superseded when a newer extraction owns the table or the spec's `deletes`
    was changed, TargetLost when the target is not what the rows were read for, Refused when the
    rows contradict the spec, psycopg's errors when the warehouse fails, and NotAsForeseen where the
    load has to begin again, without what has `begun`.
    """
    started = time.monotonic()
    # What builds on the target's rows has a schema.
    if not begun and not manifest.builds_on_target:
        # Not in the load's transaction: its lock would keep others from creating schemas until the
        # end.
        tables.ensure_schema(session, target.schema)
    with begun.transaction if begun else session.transaction():
        # Before the lock, which an older session may hold.
        older_sessions.end(session, manifest, target)
        ledger.lock_target(session, target)
        reach("load.locked")
        # Under the lock, because an older try may have committed while this one waited for it.
        committed = find_committed(session, manifest.load_id)
        if committed:
            if begun:
                raise NotAsForeseen("the load was committed already")  # the table must not stay
            _log.info("%s: load %s was committed already", target, manifest.load_id)
            return committed
        fence.check_fence(session, manifest, target)
        gone.refuse_changed_spec(manifest, table)
        reach("load.fence_checked")
        load_no = ledger.draw_number(session)
        scope = read_scope(session, manifest.pipeline, manifest.table, target)
        transaction = LoadTransaction(
            session,
            lake,
            manifest,
            target,
            table,
            progress,
            scope,
            load_no,
            begun.arrival if begun else None,
        )
        effect = transaction.write()
        reach("load.applied")
        ledger.record_load(
            session,
            manifest,
            sealed.manifest,
            sealed.sha256,
            target,
            transaction.load_no,
            effect,
            transaction.duplicates,
            transaction.gone_rows,
            transaction.count_unknown_rows(),
            time.monotonic() - started,
        )
        reach("load.recorded")
        # Last, because the UPDATE that checks the fence locks the scope's row: a newer extraction
        # waits for it until the commit.
        left = {} if effect.replaced else transaction.drift.left
        lacking = transaction.unfilled_columns()
        if manifest.action == "fill":
            fence.record_fill(session, manifest, target, transaction.load_no, lacking)
        else:
            fence.advance_watermark(
                session, manifest, target, table, transaction.load_no, left, lacking
            )
        ledger.clear_failure(session, manifest.pipeline, "table", target)
        reach("load.advanced")
    reach("load.committed")
    return LoadResult(
        effect=effect,
        extracted=manifest.rows,
        notes=tuple(transaction.notes),
        drift=tuple(transaction.drifted),
        checks=_passed(manifest),
    )


def _passed(manifest: Manifest) -> tuple[Check, ...]:
    """What refuses rows, and has not refused these."""
    checks = [Check(assertion="matches_manifest", success=True)]
    if manifest.key:
        checks += passed_key(manifest.key)
    if manifest.action == "replace":
        checks.append(Check(assertion="max_shrink", success=True))
    return tuple(checks)


def find_attempt(
    session: Session, pipeline: str, table: str, target: Relation, load_id: str
) -> LoadResult | SealedAttempt:
    """What the load did, if it is committed already; else the attempt that it must read. Creates
    the ledger, or brings it up to date, where that is needed.

    Raises Superseded as `fence.sealed_attempt`.
    """
    try:
        # In one statement: each by itself is four, in a transaction for it alone.
        version, committed, sealed = ask_together(
            session,
            ledger.version_question(),
            ledger.committed_question(load_id),
            fence.sealed_question(pipeline, table, target, load_id),
        )
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        version = []  # there is no ledger yet, or an older one
    if ledger.as_version(version) != ledger.VERSION:
        ledger.ensure(session)
        return find_committed(session, load_id) or fence.sealed_attempt(
            session, pipeline, table, target, load_id
        )
    return _as_committed(ledger.as_committed(committed)) or fence.as_sealed(pipeline, table, sealed)


def find_committed(session: Session, load_id: str) -> LoadResult | None:
    """What the load did, if it is committed already.

    An earlier try may have committed it, or this one, when its COMMIT got no answer.
    """
    return _as_committed(ledger.committed_load(session, load_id))


def _as_committed(committed: tuple[Effect, int] | None) -> LoadResult | None:
    if committed is None:
        return None
    effect, extracted = committed
    return LoadResult(effect=effect, extracted=extracted, notes=("was committed already",))
