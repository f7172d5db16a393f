"""Compares a pipeline's staging tables with their sources: `loadsheet verify`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.engine import garbage
from loadsheet.engine.resolve import with_matched_tables
from loadsheet.engine.sessions import Servers
from loadsheet.errors import InputError, Refused
from loadsheet.names import did_you_mean
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import WAREHOUSE_SETTINGS
from loadsheet.redact import message
from loadsheet.spec.models import Pipeline, Table
from loadsheet.verify.look import ALL_ROWS, Look
from loadsheet.verify.models import TableVerdict, Verification
from loadsheet.verify.table import verify_table
from loadsheet.warehouse import ledger, verified

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
) -> Verification:
    """Compare the tables `names` (empty: all) one after the other; `report` gets each verdict.

    Each verdict is recorded in the ledger, in a transaction of its own; where that is not possible,
    it says why. Nothing else is written. Raises InputError for a name that is no table of the
    pipeline, Refused for a ledger of a newer version; psycopg errors, which end the comparison.
    """
    verdicts = []
    servers = Servers(pipeline, connections)
    with servers.warehouse() as warehouse, servers.source() as source:
        warehouse.pin(_WAREHOUSE_SETTINGS)
        source.pin(_SOURCE_SETTINGS, read_only=True)
        ledger.refuse_newer(ledger.version(warehouse))
        loaded = garbage.extracted_tables(warehouse, pipeline.name) or set()
        pipeline = with_matched_tables(pipeline, source, loaded)
        for table in _chosen(pipeline, names):
            _log.info("comparing %s", table.name)
            verdict = verify_table(pipeline, table, look, source, warehouse)
            _record(warehouse, pipeline, verdict)
            verdicts.append(verdict)
            report(verdict)
    return Verification(pipeline=pipeline.name, tables=verdicts)


def _record(session: PinnedSession, pipeline: Pipeline, verdict: TableVerdict) -> None:
    """Write the verdict into the ledger, or into the verdict why that is not possible."""
    if verdict.at is None or verdict.state == "not compared":
        return
    row = verified.Verified(
        kind="table",
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
        verdict.not_recorded = str(error) if isinstance(error, Refused) else message(error)
        _log.info("the verdict on %s is not recorded: %s", verdict.target, verdict.not_recorded)


def _chosen(pipeline: Pipeline, names: Sequence[str]) -> list[Table]:
    known = {table.name: table for table in pipeline.tables}
    for name in names:
        if name not in known:
            raise InputError(f"{pipeline.name} has no table {name!r}{did_you_mean(name, known)}")
    if not names:
        return list(pipeline.tables)
    return [known[name] for name in known if name in names]
