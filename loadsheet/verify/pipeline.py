"""Compares a pipeline's staging tables with their sources, and its marts with their SELECTs:
`loadsheet verify`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.engine.diagnosis import named
from loadsheet.engine.due import Due
from loadsheet.engine.lock_holders import Locks, holders, holders_named, of_table
from loadsheet.engine.resolve import with_matched_tables
from loadsheet.engine.sessions import Servers
from loadsheet.engine.transform import relations_read
from loadsheet.errors import InputError, Refused
from loadsheet.names import did_you_mean
from loadsheet.pinned import PinnedSession, about
from loadsheet.postgres import WAREHOUSE_SETTINGS
from loadsheet.redact import message
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.verify.look import ALL_ROWS, Look
from loadsheet.verify.mart import COMPARED, verify_mart
from loadsheet.verify.models import TableVerdict, Verification
from loadsheet.verify.table import verify_table
from loadsheet.warehouse import ledger, verified
from loadsheet.warehouse.scope import extracted_tables

# The session on the warehouse is idle while the source is still reading.
_WAREHOUSE_SETTINGS = {"idle_in_transaction_session_timeout": "0"}
# Another session that changes the table's structure may take hours.
_SOURCE_SETTINGS = {"lock_timeout": WAREHOUSE_SETTINGS["lock_timeout"]}

_log = logging.getLogger(__name__)


def verify_pipeline(
    pipeline: Pipeline,
    connections: Connections,
    names: Sequence[str],
    report: Callable[[TableVerdict], object],
    look: Look = ALL_ROWS,
    due: Due | None = None,
    servers: Servers | None = None,
) -> Verification:
    """Compare the tables and marts `names` (empty: all), or those that are `due`, one after the
    other; `report` gets each verdict. `servers` may have sessions to use.

    Each verdict is recorded in the ledger, in a transaction of its own; where that is not possible,
    it says why. Nothing else is written. Raises InputError for a name that the pipeline does not
    have, and for a `since` that chooses the rows of none of them; Refused for a ledger of a newer
    version; Unavailable where a table is locked for too long; psycopg errors, which end the
    comparison.
    """
    _refuse_unknown(pipeline, names)
    tables: list[TableVerdict] = []
    marts: list[TableVerdict] = []
    servers = servers or Servers(pipeline, connections)
    with (
        servers.warehouse() as warehouse,
        servers.source() as source,
        # No later step gets sessions with these settings.
        closing(warehouse),
        closing(source),
    ):
        warehouse.pin(_WAREHOUSE_SETTINGS)
        source.pin(_SOURCE_SETTINGS, read_only=True)
        ledger.refuse_newer(ledger.version(warehouse))
        loaded = extracted_tables(warehouse, pipeline.name) or set()
        pipeline = with_matched_tables(pipeline, source, loaded)
        _refuse_unknown(pipeline, names)
        for table in pipeline.tables:
            if table.name not in due.tables if due else names and table.name not in names:
                continue
            _log.info("comparing %s", table.name)
            waits = _waits(pipeline, table.name)
            with holders_named(connections, waits), about(table.name):
                tables.append(verify_table(pipeline, table, look, source, warehouse))
            _record(warehouse, pipeline, tables[-1], connections)
            report(tables[-1])
        for transform in _chosen_marts(pipeline, names, look, due):
            _log.info("comparing %s with its SELECT", transform.name)
            waits = _mart_waits(pipeline, transform)
            with holders_named(connections, waits), about(transform.name):
                marts.append(verify_mart(pipeline, transform, look, warehouse))
            _record(warehouse, pipeline, marts[-1], connections)
            report(marts[-1])
    _refuse_since(look, [*tables, *marts])
    return Verification(
        pipeline=pipeline.name,
        tables=tables,
        marts=marts,
        left_out=[] if names or due else _left_out(pipeline, look),
    )


def _waits(pipeline: Pipeline, table: str) -> dict[str, list[Locks]]:
    """The locks that the comparison of a table may wait for, by connection."""
    return {
        pipeline.warehouse.conn_id: [of_table(Relation(pipeline.warehouse.schema, table))],
        pipeline.source.conn_id: [of_table(Relation(pipeline.source.schema, table))],
    }


def _mart_waits(pipeline: Pipeline, transform: Transform) -> dict[str, list[Locks]]:
    mart = Relation(pipeline.warehouse.mart_schema, transform.name)
    relations = [mart, *relations_read(pipeline, transform)]
    return {pipeline.warehouse.conn_id: [of_table(relation) for relation in relations]}


def _record(
    session: PinnedSession, pipeline: Pipeline, verdict: TableVerdict, connections: Connections
) -> None:
    """Write the verdict into the ledger, or into the verdict why that is not possible."""
    if verdict.at is None or verdict.state == "not compared":
        return
    row = verified.Verified(
        kind=verdict.kind,
        name=verdict.table,
        target=verdict.target,
        is_whole=verdict.is_whole,
        part=verdict.part,
        verdict=verdict.state,
        source_rows=verdict.source_rows,
        target_rows=verdict.target_rows,
        newer=verdict.newer,
        unproven=verdict.unproven,
        through=verdict.through,
        watermark=verdict.watermark,
        verified_at=verdict.at,
        **verdict.counts,
    )
    try:
        verified.record(session, pipeline.name, row)
    except (Refused, psycopg.Error) as error:
        # What was found is worth more than its record: a role that only reads may compare, too.
        verdict.not_recorded = str(error)
        if isinstance(error, psycopg.Error):
            verdict.not_recorded = f"{named(error)}{message(error)}"
        if isinstance(error, psycopg.errors.LockNotAvailable):
            written = [of_table(Relation("loadsheet", "verified"))]
            who = holders(connections, pipeline.warehouse.conn_id, written)
            verdict.not_recorded += f". {who}" if who else ""
        _log.info("the verdict on %s is not recorded: %s", verdict.target, verdict.not_recorded)


def _refuse_unknown(pipeline: Pipeline, names: Sequence[str]) -> None:
    known = [table.name for table in pipeline.tables]
    known += [transform.name for transform in pipeline.transforms]
    for name in names:
        # The tables of a pattern are known only to the source and the ledger.
        if name not in known and not pipeline.pattern_of(name):
            raise InputError(
                f"{pipeline.name} has no table or transform {name!r}{did_you_mean(name, known)}"
            )


def _refuse_since(look: Look, verdicts: Sequence[TableVerdict]) -> None:
    """Raises InputError where `since` is why nothing at all was compared."""
    unfit = [verdict.why for verdict in verdicts if not verdict.takes_since]
    if unfit and all(verdict.state == "not compared" for verdict in verdicts):
        raise InputError(f"--since {look.since}: nothing was compared. {unfit[0]}")


def _chosen_marts(
    pipeline: Pipeline, names: Sequence[str], look: Look, due: Due | None
) -> list[Transform]:
    """Those that are named or due; of all, those that can be compared."""
    if due:
        return [transform for transform in pipeline.transforms if transform.name in due.marts]
    if names:
        return [transform for transform in pipeline.transforms if transform.name in names]
    return [transform for transform in pipeline.transforms if _is_compared(transform, look)]


def _is_compared(transform: Transform, look: Look) -> bool:
    return transform.materialized in COMPARED and look.since is None


def _left_out(pipeline: Pipeline, look: Look) -> list[str]:
    left_out = []
    for transform in pipeline.transforms:
        if not _is_compared(transform, look):
            kind = transform.materialized if transform.materialized not in COMPARED else "mart"
            left_out.append(f"{transform.name} (a {kind})")
    return left_out
