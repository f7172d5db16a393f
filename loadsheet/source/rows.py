"""The rows that an extraction reads, and where the last one ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from loadsheet.source.table import SourceTable

INITIAL_VALUE = "initial_value"
UNIQUE = "unique"
WATERMARK_PLACE = "watermark_place"
"""The fact that tells the Place of the watermark's column."""
LOOKBACK = "lookback"
"""The fact that tells how far below the watermark rows may still come."""
OLDEST_TRANSACTION = "oldest_transaction"
"""The fact that tells the oldest transaction that was open when rows were read."""
SEEN_FACTS = ("leaves", OLDEST_TRANSACTION)
"""Facts of a load that tell which rows it has seen."""
WATERMARK_FACTS = (*SEEN_FACTS, "ties", INITIAL_VALUE, UNIQUE, LOOKBACK)
"""Facts of a load that belong to its watermark: a load of an interval leaves them as they were."""
INTERVAL_TRANSACTION = "interval_transaction"
"""The fact that tells the oldest transaction that was open when an interval was last read, and with
it the rows without a cursor."""
INTERVAL_CURSOR = "interval_cursor"
"""The fact that names the column by which the recorded intervals were read."""
INTERVAL_PLACE = "interval_place"
"""The fact that tells the Place of that column."""


class Place(NamedTuple):
    """Which column increments were read by: another one may get its name later."""

    oid: int
    """The relation."""
    attnum: int
    type: str

    @classmethod
    def of(cls, source: SourceTable, name: str) -> Place:
        """The place of the column `name` now."""
        column = source.column(name)
        return cls(source.oid, column.attnum, column.type)

    @classmethod
    def read(cls, text: str) -> Place:
        """The place that `str` has written."""
        oid, attnum, type_name = text.split(" ", 2)
        return cls(int(oid), int(attnum), type_name)

    def __str__(self) -> str:
        return f"{self.oid} {self.attnum} {self.type}"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows to read from one table, and what to do with them in the target. Cursor values are
    text as the source writes them."""

    action: Literal["replace", "merge", "append"]
    where: str = ""
    """SQL condition on the source table; empty reads all."""
    sample: str = ""
    """SQL condition of a sample run; empty reads all."""
    keys: str = ""
    """The part of `where` that names rows by their keys: row data, which what a step shows leaves
    out."""
    lower: str | None = None
    """The watermark, the initial value or the start of the interval that rows are read from."""
    upper: str | None = None
    """The watermark once the rows are committed, where `moves_watermark`."""
    moves_watermark: bool = False
    complete_until: str | None = None
    """For a table that is read by data interval: up to here, no row can be missing among those
    read. None where that is not known."""
    clock: str | None = None
    """For a cursor without a time zone: the lowest value it can be stamped with from now on."""
    held_by: str = ""
    """The open transaction that keeps the watermark from moving further; empty: none does."""
    waiting: str = ""
    """The rows that are not read yet although no transaction holds them back; empty: none are."""
    repeats: bool = False
    """Whether rows with the last watermark's value, which were read before, may be among them."""
    compares: bool = False
    """Whether later rows may share the watermark's value, and only a comparison of the rows that
    have it (`compare_ties`) shows whether there are some."""
    tied: str = ""
    """SQL condition on the rows that have the last watermark's value, which `where` includes;
    empty: there are none to compare."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the next run must know about this one: it is kept in the manifest, next to the source's
    identity."""

    @property
    def are_all(self) -> bool:
        """Whether no condition leaves a row of the table out."""
        return self.where in ("", "TRUE") and not self.sample


@dataclass(frozen=True, kw_only=True)
class Last:
    """The last load of a table: its watermark, and the source's columns at that time."""

    watermark: str | None
    cursor: str | None
    """The column the watermark belongs to; None where an older ledger does not record it."""
    source_oid: int | None
    places: Mapping[str, int]
    """Each column's attnum."""
    types: Mapping[str, str]
    source: dict[str, str] | None = None
    """The source, as `identity` saw it; None where an older ledger does not record it."""
    started_from: str | None = None
    """The lowest cursor that rows were read from, where only the first load tells; empty for all
    rows. None where it need not be asked, or its record is gone."""

    @property
    def start(self) -> str | None:
        """The lowest cursor that rows were read from; empty for all rows. None where no record
        tells."""
        return self.facts.get(INITIAL_VALUE, self.started_from)

    @property
    def facts(self) -> Mapping[str, str]:
        """What is recorded of the source and of what was read; empty in an older ledger."""
        return self.source or {}

    def place(self, fact: str, name: str) -> Place | None:
        """The place of the column `name` when increments were last read by it, as `fact` tells, or
        in an older ledger the last load. None where no record tells."""
        recorded = self.facts.get(fact)
        if recorded is not None:
            return Place.read(recorded)
        if self.source_oid is None or name not in self.places:
            return None
        return Place(self.source_oid, self.places[name], self.types[name])

    @property
    def of_watermark(self) -> dict[str, str]:
        """What a run that leaves the watermark as it is must keep of its column."""
        if self.watermark is None or self.cursor is None:
            return {}
        place = self.place(WATERMARK_PLACE, self.cursor)
        return {WATERMARK_PLACE: str(place)} if place else {}

    @property
    def of_intervals(self) -> dict[str, str]:
        """What a run that reads by another column must keep of the recorded intervals' column."""
        name = self.facts.get(INTERVAL_CURSOR)
        if name is None:
            return {}
        place = self.place(INTERVAL_PLACE, name)
        return {INTERVAL_CURSOR: name} | ({INTERVAL_PLACE: str(place)} if place else {})
