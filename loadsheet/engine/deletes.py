"""`deletes` in a pipeline file: which tables it fits, when to search, and what a search has found.

The search itself is in `key_search`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from loadsheet.comparison.storable import storable
from loadsheet.engine.attempt import Attempt
from loadsheet.errors import Refused, Unavailable
from loadsheet.postgres import Session
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Deletes, Table
from loadsheet.sql.merging import DELETED_AT
from loadsheet.sql.types import has_one_form
from loadsheet.warehouse import gone
from loadsheet.warehouse.gone import keeps_deleted

# In the states of a table that a subscription has yet to copy (init, data). The copy and the end of
# that state are one transaction, and so is this snapshot.
_IS_COPIED = """
SELECT EXISTS (
    SELECT FROM pg_subscription_rel, unnest(%(leaves)s::oid[]) leaf
    WHERE srsubstate IN ('i', 'd')
        AND (srrelid = leaf OR srrelid IN (SELECT relid FROM pg_partition_ancestors(leaf))))
"""
# Their keys become part of a statement.
_MOST_MARKED = 10_000
# Daily runs begin a little earlier on some days than on others.
_EARLY = 0.9


class Keys:
    """Primary keys, each as the texts of its columns; packed, because there may be a million."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []
        self.count = 0

    def add(self, key: str) -> None:
        """Keep one key: a JSON array of texts, as a `Side` shows it."""
        packed = self._packer.compress(f"{key}\n".encode())
        if packed:
            self._packed.append(packed)
        self.count += 1

    def __iter__(self) -> Iterator[list[str]]:
        unpacker = zlib.decompressobj()
        rest = b""
        for packed in (*self._packed, self._packer.copy().flush()):
            *keys, rest = (rest + unpacker.decompress(packed)).split(b"\n")
            yield from map(json.loads, keys)


@dataclass(kw_only=True)
class Found:
    """What a search for deleted rows has found."""

    gone: Keys = field(default_factory=Keys)
    """The keys to remove from the target; empty where the spec only asks for a report."""
    gone_rows: int = 0
    """How many are gone, also for a report."""
    missing: list[list[str]] = field(default_factory=list)
    """The keys of rows that the target must have, and has not: an increment reads them."""
    lacks_rows: bool = False
    """The target lacks rows of a table that is read whole, though its content may be as before."""
    may_have_moved: list[list[str]] = field(default_factory=list)
    """The keys of rows that may have had another key, and have that of a deleted row now."""
    lacks_objects: bool = False
    """The target lacks what transforms read of its deleted rows (`gone.lacks_objects`)."""
    remarks: list[str] = field(default_factory=list)
    """What the step's message adds."""
    checked_at: str | None = None
    """The source's clock at the search; None where there was none."""

    @property
    def is_news(self) -> bool:
        """Whether there is something to load, also without any row."""
        return bool(self.gone.count) or self.lacks_rows or self.lacks_objects


def refuse_unfit(table: Table, described: SourceTable) -> None:
    """Raises Refused where the spec asks for deletes, and it cannot be known which rows of the
    table are gone. A table that is replaced has none."""
    mode = table.mode_with_key(bool(described.key))
    if table.deletes is None or (mode == "replace" and not keeps_deleted(table)):
        return
    why = _why_unfit(table.deletes, mode, described)
    if keeps_deleted(table) and DELETED_AT in described.natures:
        why = f"it has a column {DELETED_AT}, which `deletes: soft` needs for itself"
    if why:
        raise Refused(
            f"{described.relation}: deleted rows cannot be found, because {why}. Cancel this for"
            " the table (deletes: null), or read it whole on each run (mode: replace, without"
            " incremental)"
        )


def refuse_copying(source: Session, described: SourceTable) -> None:
    """Raises Unavailable while a subscription copies the table, in the open snapshot of `source`:
    rows that are not there yet would look deleted."""
    values = {"leaves": list(described.beneath.leaves)}
    if source.execute(_IS_COPIED, values).fetchone() == (True,):
        raise Unavailable(
            f"{described.relation}: a subscription has not copied its rows yet, so they would look"
            " deleted; nothing was loaded or deleted. Run this again when the copy has ended"
        )


def _why_unfit(deletes: Deletes, mode: str, described: SourceTable) -> str:
    if mode != "merge":
        return f"its mode is {mode}, and only a merged table has its rows by primary key"
    if not described.is_table:
        return "it is not a table: rows of a view may come and go without being written"
    if described.beneath.why_untrusted:
        return f"it is not a plain table: {described.beneath.why_untrusted}"
    if described.beneath.unlogged and deletes.removes:
        return f"{described.beneath.unlogged} is unlogged: a crash of the server would empty it"
    if not described.key_is_enforced:
        return f"the source does not enforce the key ({', '.join(described.key)}) for all rows"
    for name in described.key:
        column = described.column(name)
        nature = described.natures[name]
        if not has_one_form(column.type) or nature.loose or nature.own_text:
            return f"equal values of the key column {name} may be written in several ways"
    return ""


def is_due(attempt: Attempt, rows: Selection, read_at: str) -> bool:
    """Whether this extraction has to search for deleted rows; `read_at` is the source's clock."""
    deletes = attempt.table.deletes
    # Where all rows are read again, those that are gone do not come. A sample lacks most rows.
    if deletes is None or attempt.is_first or rows.action != "merge" or attempt.request.sample:
        return False
    before = attempt.seen.deletes_checked_at
    if deletes.every is None or before is None:
        return True
    elapsed = datetime.fromisoformat(read_at) - before
    # The source's clock was set back, and may need years to get there again.
    return elapsed < timedelta(0) or elapsed >= deletes.every * _EARLY


def marked_before(attempt: Attempt, described: SourceTable, source: Session) -> list[list[str]]:
    """The keys of rows that were marked as deleted while the spec said `soft`. A search by another
    setting takes them for rows like any other. So they are read with the increment: one that has
    come back loses its mark, whatever its cursor is."""
    if keeps_deleted(attempt.table):
        return []  # the search takes them for gone
    key = {name: described.column(name).type for name in described.key}
    keys = attempt.warehouse.use(
        lambda session: gone.marked_keys(session, attempt.target, key, _MOST_MARKED)
    )
    return storable(source, keys)
