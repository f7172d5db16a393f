"""Which rows of a table a repair reads: those that are missing or different in the target.

`loadsheet verify --repair` begins a run whose extractions read only such rows. What verify has
found tells which tables to look at, never which rows: the rows are found again, in the snapshot
that they are read in, so that no older version can overwrite a newer one.

    source                            warehouse
    snapshot, identity, table locked
                                      snapshot: the scope is the one that was observed
    digests of all rows    ------     digests of all rows           `comparison`
    rows that differ       ------     rows that differ
    the missing and different ones: COPY, as in any extraction

Rows that may have been written since the last load are no differences: the next run reads them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from loadsheet.comparison import compare
from loadsheet.comparison.compare import Sides
from loadsheet.comparison.digest import BUCKETS, Side, shared_hash
from loadsheet.comparison.pairs import comparable
from loadsheet.comparison.settled import settled_rows
from loadsheet.engine.attempt import Attempt
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.pinned import PinnedSession
from loadsheet.source import selection
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Table
from loadsheet.warehouse import fence, ledger, tables

_log = logging.getLogger(__name__)

# As many keys are named in one statement, which the source plans in half a second. Of more rows,
# the buckets are read whole: they are most of the table then.
_MOST_KEYS = 50_000
_MOST_KEY_BYTES = 4 << 20
# The session is idle while the source is still reading. A setting takes no snapshot.
_PATIENT = "SET LOCAL idle_in_transaction_session_timeout = 0"


def decide(table: Table, source: SourceTable, attempt: Attempt) -> Selection:
    """The rows as far as they are known before the snapshot: none, merged into the target.

    Raises Refused where the table is not merged, or was read by another cursor.
    """
    mode = selection.refuse_mode(table, source)
    if mode != "merge":
        raise Refused(
            f"{source.relation} has mode: {mode}, and only the rows of a merged table can be"
            f" repaired; run `loadsheet run {attempt.pipeline.name} --tables {table.name}"
            " --full-refresh`"
        )
    if table.incremental:
        selection.refuse_changed_cursor(source, table.incremental, attempt.last)
    return Selection(action="merge", where="FALSE")


def find(attempt: Attempt, source: PinnedSession, described: SourceTable) -> Selection:
    """The rows that are missing or different in the target, in the open snapshot of `source`.

    Raises Fenced where another run has loaded the table since it was observed, Refused where
    another pipeline has, or the key cannot be compared; psycopg errors.
    """
    wanted = attempt.warehouse.use(lambda session: _compare(attempt, source, described, session))
    reach("repair.compared")
    return wanted


def _compare(
    attempt: Attempt, source: PinnedSession, described: SourceTable, warehouse: PinnedSession
) -> Selection:
    name, table, target = attempt.pipeline.name, attempt.table, attempt.target
    assert attempt.last
    with warehouse.snapshot():
        warehouse.execute(_PATIENT)
        warehouse.execute(f"LOCK TABLE {target.sql} IN ACCESS SHARE MODE")
        warehouse.fix_snapshot()
        fence.refuse_overtaken(warehouse, name, table.name, target, attempt.seen)
        if ledger.has_loads_of_others(warehouse, target, name):
            raise Refused(
                f"{target}: another pipeline has loaded it, too, so a row that differs may be its;"
                " nothing was repaired"
            )
        in_target = tables.columns_of(warehouse, target)
        pairs, left_out = comparable(described, attempt.seen, in_target, "merge")
        names = [theirs.name for theirs, _ in pairs]
        if not set(described.key) <= set(names):
            why = "; ".join(left_out)
            raise Refused(f"{described.relation}: its primary key cannot be compared: {why}")
        places = tuple(names.index(name) for name in described.key)
        common = shared_hash(source, warehouse)
        sides = Sides(
            source_session=source,
            source=Side(described.relation, tuple(theirs for theirs, _ in pairs), places, common),
            warehouse_session=warehouse,
            target=Side(target, tuple(ours for _, ours in pairs), places, common),
            settled=settled_rows(source, table, described, attempt.seen, attempt.last),
        )
        return _wanted(sides)


def _wanted(sides: Sides) -> Selection:
    """The rows that are missing or different."""
    wanted = _Wanted()
    buckets = compare.totals(sides).buckets
    for found in compare.differing_rows(sides, buckets) if buckets else ():
        if found.key and found.kind in ("missing", "different"):
            wanted.add(*found.key)
    _log.info("%s: %d rows to repair", sides.target.relation, wanted.count)
    return Selection(action="merge", where="TRUE", keys=wanted.condition(sides))


@dataclass
class _Wanted:
    """The rows to read: by their keys, or by their buckets where they are many, so that memory does
    not grow with them."""

    count: int = 0
    key_bytes: int = 0
    keys: list[str] = field(default_factory=list)
    buckets: set[int] = field(default_factory=set)

    @property
    def are_many(self) -> bool:
        return self.count > _MOST_KEYS or self.key_bytes > _MOST_KEY_BYTES

    def add(self, key_hash: int, key: str) -> None:
        self.count += 1
        self.key_bytes += len(key)
        self.buckets.add(key_hash & (BUCKETS - 1))
        if self.are_many:
            self.keys.clear()
        else:
            self.keys.append(key)

    def condition(self, sides: Sides) -> str:
        """SQL condition on the source's rows."""
        if self.are_many:
            return f"{sides.source.within(sorted(self.buckets))} AND ({sides.settled})"
        return sides.source.with_keys(self.keys)
