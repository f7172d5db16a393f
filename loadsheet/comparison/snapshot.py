"""The warehouse's side of a comparison: one snapshot, in which tables are neither swapped nor
truncated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from loadsheet.errors import Refused
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger, tables

STAY_IDLE = "SET LOCAL idle_in_transaction_session_timeout = 0"
"""For the transaction of a comparison, which is idle while the source is still reading. It holds no
lock that another load waits for, except one that swaps the table. Takes no snapshot."""


@contextmanager
def locked_snapshot(warehouse: PinnedSession, relations: Sequence[Relation]) -> Iterator[datetime]:
    """A snapshot of these tables, which are locked in this order; yields when it was taken.

    Raises Refused where one does not exist.
    """
    for relation in relations:
        if tables.kind(warehouse, relation) is None:
            raise Refused(f"{relation} does not exist: the next run makes it")
    with warehouse.snapshot():
        # Before the snapshot: a table that was swapped in after it would show other rows.
        for relation in relations:
            warehouse.execute(f"LOCK TABLE {relation.sql} IN ACCESS SHARE MODE")
        warehouse.fix_snapshot()
        row = warehouse.execute("SELECT now()").fetchone()
        assert row
        yield row[0]


def refuse_without_ledger(session: Session) -> None:
    """Raises Refused where nothing tells what was loaded."""
    if not ledger.is_readable(ledger.version(session)):
        raise Refused("the warehouse has no ledger, or one of version 1: run the pipeline first")
