"""What a comparison of a table with its source has found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from loadsheet.errors import Refused
from loadsheet.spec.models import Mode

State = Literal["equal", "differs", "not proven", "not compared"]
Kind = Literal["missing", "extra", "different"]
KINDS: tuple[Kind, ...] = ("missing", "extra", "different")
MOST_NAMED = 100
"""Rows of each kind whose keys are kept; all are counted."""


class SinceUnfit(Refused):
    """`--since` cannot choose the rows of the table or mart."""


@dataclass(frozen=True, kw_only=True)
class ChangedValue:
    """A column in which a row differs. Both sides' values as text; None is NULL, and of a long one
    it is the length and a hash."""

    column: str
    source: str | None
    target: str | None


@dataclass(kw_only=True)
class Difference:
    """A row that differs for certain."""

    key: dict[str, str]
    """The primary key's columns and their values, as text."""
    changes: list[ChangedValue] = field(default_factory=list)
    """Of a row that is on both sides."""


@dataclass(kw_only=True)
class TableVerdict:
    """How a staging table differs from its source, or a mart from its SELECT."""

    kind: Literal["table", "transform"] = "table"
    table: str
    target: str
    mode: Mode | None = None
    """How a table is loaded; None where it was not compared."""
    state: State = "equal"
    why: str = ""
    """Why it was not compared, or what keeps the verdict from being certain."""
    source_rows: int = 0
    target_rows: int = 0
    """Of the rows that were compared."""
    newer: int = 0
    """Rows that differ and may have been written after the last load."""
    unproven: int = 0
    """Rows of the target that are not in the source, where it cannot be known whether they were
    there at the last load. Of a mart whose SELECT may return other rows each time: all that differ.
    """
    removes_gone: bool = False
    """Whether the table's `deletes` takes such rows out of the target."""
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    named: dict[Kind, list[Difference]] = field(default_factory=lambda: {k: [] for k in KINDS})
    left_out: list[str] = field(default_factory=list)
    """Columns that were not compared, each with the reason."""
    is_whole: bool = True
    """Whether all rows were compared."""
    part: str = ""
    """Which rows were compared; empty for all."""
    at: datetime | None = None
    """When the snapshot of the warehouse was taken, by its clock; None where there was none."""
    through: int = 0
    """The number of the last load that the target had."""
    watermark: str | None = None
    takes_since: bool = True
    """False where `--since` cannot choose its rows, so that it was not compared."""
    is_gone: bool = False
    """Whether the target itself is missing, with all its rows."""
    not_recorded: str = ""
    """Why the ledger does not have the verdict; empty where it has, and where there is none."""

    def lose_target(self) -> None:
        """The verdict on a target that a load or a build has made, and that is not there."""
        self.state = "differs"
        self.is_gone = True
        self.why = f"{self.target} was dropped or renamed in the warehouse"

    @property
    def differences(self) -> int:
        """The number of rows that differ for certain."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The verdicts on a pipeline's tables, and then on its marts, in the order of its file."""

    pipeline: str
    tables: list[TableVerdict]
    marts: list[TableVerdict]
    left_out: list[str] = field(default_factory=list)
    """Transforms that are not compared unless they are named, each with what it is."""

    @property
    def verdicts(self) -> list[TableVerdict]:
        """All of them."""
        return [*self.tables, *self.marts]

    @property
    def not_compared(self) -> list[str]:
        """The tables and marts that could not be compared."""
        return [verdict.table for verdict in self.verdicts if verdict.state == "not compared"]

    @property
    def is_compared(self) -> bool:
        """Whether anything was compared at all."""
        return len(self.not_compared) < len(self.verdicts)

    @property
    def differs(self) -> bool:
        """Whether a table or a mart differs for certain."""
        return any(verdict.state == "differs" for verdict in self.verdicts)

    def with_later(self, later: Verification) -> Verification:
        """These verdicts, with the `later` ones in their places."""
        newer = {(verdict.kind, verdict.table): verdict for verdict in later.verdicts}
        tables = [newer.get((each.kind, each.table), each) for each in self.tables]
        marts = [newer.get((each.kind, each.table), each) for each in self.marts]
        return replace(self, tables=tables, marts=marts)
