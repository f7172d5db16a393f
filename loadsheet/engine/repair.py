"""Which rows of a table a repair reads: those that are missing or different in the target.

`loadsheet verify --repair` begins a run whose extractions read only such rows. What verify has
found tells which tables to look at, never which rows: the rows are found again, in the snapshot
that they are read in, so that no older version can overwrite a newer one.

    source                            warehouse
    snapshot, identity, table locked
                                      snapshot: the scope is the one that was observed
    digests of all rows    ------     digests of all rows           `comparison`
    rows that differ       ------     rows that differ
    the missing and different ones: COPY, as in any extraction; keys that only the target has are
    listed as gone, if the table's `deletes` allows it

Rows that may have been written since the last load are no differences: the next run reads them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from loadsheet.comparison import compare
from loadsheet.comparison.compare import Sides
from loadsheet.comparison.digest import Side
from loadsheet.comparison.pairs import table_sides
from loadsheet.comparison.snapshot import STAY_IDLE, locked_snapshot
from loadsheet.engine import key_search
from loadsheet.engine.attempt import Attempt
from loadsheet.engine.deletes import Found, Keys, refuse_copying
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.pinned import PinnedSession
from loadsheet.source import selection
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Deletes, Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import apply, drift, fence, gone, ledger
from loadsheet.warehouse.foreseeing import FULL_REFRESH_REMEDY
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

# One statement names as many keys: the source plans it in 0.3 s and needs 60 MB. Of more rows, the
# buckets are read whole: they are most of the table then.
_MOST_KEYS = 50_000
_MOST_KEY_BYTES = 4 << 20


def decide(table: Table, source: SourceTable, attempt: Attempt) -> Selection:
    """The rows as far as they are known before the snapshot: any, and they are merged.

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
    return Selection(action="merge")


def find(
    attempt: Attempt, source: PinnedSession, described: SourceTable, origin: dict[str, str]
) -> tuple[Selection, Found]:
    """The rows that are missing or different in the target, and the keys that have to leave it, in
    the open snapshot of `source`. `origin` is what `identity.observe` has seen.

    Raises Fenced where another run has loaded the table since it was observed. Raises Refused where
    another pipeline has, the key cannot be compared, or more rows are gone than the spec allows;
    psycopg errors.
    """
    if _removing(attempt.table):
        assert attempt.last
        refuse_copying(source, described)
        key_search.refuse_unknown_history(described, attempt.last, origin)
    found = attempt.warehouse.use(lambda session: _compare(attempt, source, described, session))
    reach("repair.compared")
    return found


def _removing(table: Table) -> Deletes | None:
    """How rows that are gone from the source leave the target; None where they stay."""
    if table.deletes is None or not table.deletes.removes:
        return None
    return table.deletes


def _compare(
    attempt: Attempt, source: PinnedSession, described: SourceTable, warehouse: PinnedSession
) -> tuple[Selection, Found]:
    name, table, target = attempt.pipeline.name, attempt.table, attempt.target
    removing = _removing(table)
    assert attempt.last
    with locked_snapshot(warehouse, [target]):
        warehouse.execute(STAY_IDLE)
        fence.refuse_overtaken(warehouse, name, table.name, target, attempt.seen)
        if ledger.has_loads_of_others(warehouse, target, name):
            raise Refused(
                f"{target}: another pipeline has loaded it, too, so a row that differs may be its;"
                " nothing was repaired"
            )
        sides = table_sides(
            table, described, target, attempt.seen, attempt.last, source, warehouse
        ).sides
        _refuse_lost(target, sides.target, warehouse)
        totals = compare.by_buckets(sides)
        # More are refused below.
        most = apply.most_of(totals.target_rows, removing.max_delete) if removing else 0
        wanted = _Wanted()
        keys_gone = Keys()
        extra = 0
        for one in compare.differing_rows(sides, totals.buckets) if totals.buckets else ():
            assert one.key
            key_hash, key = one.key
            if one.kind == "extra":
                extra += 1
                if extra <= most:
                    keys_gone.add(key)
            elif one.kind != "newer":
                wanted.add(key_hash, key)
    if removing:
        gone.refuse_many(target, extra, totals.target_rows, removing.max_delete, name)
        key_search.refuse_present(source, described, keys_gone)
    _log.info("%s: %d rows to read, %d to remove", target, wanted.count, keys_gone.count)
    found = Found(gone=keys_gone)
    if extra and not removing:
        found.remarks.append(
            f"{counted(extra, 'row is', 'rows are')} gone from the source and kept, because the"
            " table's `deletes` is neither hard nor soft"
        )
    return wanted.selection(sides), found


def _refuse_lost(target: Relation, side: Side, warehouse: PinnedSession) -> None:
    """Raises Refused where the target has lost its primary key or a column, so that no load can
    write the rows that differ."""
    key = tuple(side.values[place].name for place in side.key)
    drift.refuse_changed_key(warehouse, target, key, FULL_REFRESH_REMEDY)
    for value in side.values:
        if value.is_lost:
            raise Refused(f"{target}: column {value.name} {drift.LOST}; {FULL_REFRESH_REMEDY}")


@dataclass
class _Wanted:
    """The rows to read: by their keys, or by their buckets where they are many, so that memory does
    not grow with them."""

    count: int = 0
    key_bytes: int = 0
    keys: Keys = field(default_factory=Keys)
    buckets: set[int] = field(default_factory=set)

    @property
    def are_many(self) -> bool:
        return self.count > _MOST_KEYS or self.key_bytes > _MOST_KEY_BYTES

    def add(self, key_hash: int, key: str) -> None:
        self.count += 1
        self.key_bytes += len(key)
        self.buckets.add(Side.bucket_of(key_hash))
        if not self.are_many:
            self.keys.add(key)

    def selection(self, sides: Sides) -> Selection:
        if self.are_many:
            # Rows that no load has to have read, such as those below an initial value, stay out.
            where = f"{sides.source.within(sorted(self.buckets))} AND ({sides.settled})"
            return Selection(action="merge", where=where)
        keys = sides.source.with_keys(self.keys)
        return Selection(action="merge", where=keys, keys=keys)
