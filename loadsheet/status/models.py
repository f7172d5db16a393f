"""The status of a pipeline, its tables and its transforms, as values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from loadsheet.freshness.models import Age
from loadsheet.plan.gaps import Gap, Interval
from loadsheet.source.holdback import Holder
from loadsheet.warehouse.verified import Verified

State = Literal["failed", "never", "gone", "held_back", "behind", "due", "current", "loaded"]

# Why a table has no lag although nothing is wrong.
NOT_IN_SPEC = "it is not in the spec"
NO_CURSOR = "it is copied whole, without a cursor"
BY_DATA_INTERVAL = "it is read by data interval, without a watermark"
NO_WATERMARK = "it has no watermark yet"


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How far the newest cursor in the source is above the watermark."""

    newest: str | None
    """As the server writes it; None in an empty table. A cursor in the future is not counted."""
    ahead: bool
    """Whether it is above the watermark."""
    seconds: float | None = None
    """The difference, if the cursor is a time; 0 when nothing is ahead."""
    distance: float | None = None
    """The difference, if the cursor is a number; None if one of the two is infinite or NaN."""


@dataclass(frozen=True, kw_only=True)
class LastCommit:
    """The last committed load of a table, or build of a transform.

    Only a load has `extracted` and `bytes`.
    """

    name: str
    target: str
    at: datetime
    run_id: str
    number: int
    how: str
    """`replace`, `merge` or `append` for a load; `full` or `increment` for a build."""
    extracted: int | None
    inserted: int
    updated: int
    deleted: int
    bytes: int | None
    seconds: float
    held_by: str
    """The source session that kept this load from reading everything; empty if there was none."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The last failure of a table or transform."""

    kind: str
    name: str
    step: str
    run_id: str
    code: str
    message: str
    since: datetime
    """The first failure since it last worked."""
    at: datetime
    worked_at: datetime | None
    """When it worked again; None: it has not."""


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """The highest cursor value committed for a table; both None for a table without a watermark."""

    value: str | None
    cursor: str | None
    interval_cursor: str | None = None
    """The column by which the intervals were read; None where none were, or an older ledger does
    not tell."""
    intervals: tuple[Interval, ...] = ()
    """The data intervals that were read, for a table that has these in its place."""


@dataclass(frozen=True, kw_only=True)
class RowCount:
    """How many rows a target has.

    `number` is None for a view, and for a table that does not exist, is locked, was never
    estimated or may not be read by this role.
    """

    number: int | None
    exact: bool = False
    """True: counted. False: the server's estimate."""
    target_exists: bool = True


@dataclass(frozen=True, kw_only=True)
class Search:
    """The last search for rows that were deleted from the source."""

    at: datetime
    """By the source's clock."""
    gone: int | None
    """How many of the target's rows were gone: they have left it, or were marked. With `deletes:
    report` they have stayed. None where an older version has searched and did not record it."""


@dataclass(frozen=True, kw_only=True)
class LedgerState:
    """The ledger's entries for one pipeline, by table or transform; empty before the first run."""

    watermarks: dict[str, Watermark]
    unfilled: dict[str, list[str]]
    """By table, the columns that its older rows have no values in."""
    searches: dict[str, Search]
    """By table, the last search for deleted rows."""
    loads: dict[str, LastCommit]
    builds: dict[str, LastCommit]
    failures: dict[tuple[str, str], Failure]
    """By kind (`table` or `transform`) and name."""
    verified: dict[tuple[str, str, bool], Verified] = field(default_factory=dict)
    """By kind, name, and whether all rows were compared."""

    def open_failure(self, kind: str, name: str) -> Failure | None:
        """The last failure of the table or transform, if it has not worked since."""
        failure = self.failures.get((kind, name))
        if failure is None or failure.worked_at is not None:
            return None
        return failure


@dataclass(frozen=True, kw_only=True)
class MissingInterval:
    """A data interval that no run has read, and the commands that read it."""

    gap: Gap
    airflow: str | None
    """None for a pipeline without a schedule."""
    command_line: str


@dataclass(kw_only=True)
class TargetStatus(ABC):
    """The part that tables and transforms share. `failure` is the last one, if it is still open."""

    name: str
    target: str
    rows: RowCount
    last: LastCommit | None
    failure: Failure | None
    age: Age | None = None
    """How old it is, where `fresh_within` limits that."""
    proof: Age | None = None
    """How old its last comparison is, where `fresh_within` limits that."""
    verified: Verified | None = None
    """The last verdict of a comparison of all rows."""
    verified_in_part: Verified | None = None
    """The last of a comparison of some rows, where it is newer."""

    @property
    def is_late(self) -> bool:
        """Whether it, or its last comparison, is older than `fresh_within` allows."""
        return any(one is not None and one.is_late for one in (self.age, self.proof))

    @property
    @abstractmethod
    def state(self) -> State:
        """The worst that is known of it."""

    @property
    def verdict(self) -> Verified | None:
        """The verdict that counts: on all rows, unless there is none or a part of them differs."""
        part = self.verified_in_part
        if part and (self.verified is None or part.verdict == "differs"):
            return part
        return self.verified

    def is_loaded_since(self, verified: Verified) -> bool:
        """Whether a load, or a build, has come after the verdict."""
        return self.last is not None and self.last.number > verified.through


@dataclass(kw_only=True)
class TableStatus(TargetStatus):
    """The status of a table. `lag` is None if it is not known; `lag_unknown` gives the reason."""

    in_spec: bool
    """False for a table that the ledger remembers from an earlier spec."""
    watermark: str | None
    cursor: str | None
    lag: Lag | None = None
    lag_unknown: str = ""
    gaps: list[MissingInterval] = field(default_factory=list)
    """The data intervals that no run has read."""
    unfilled: list[str] = field(default_factory=list)
    """The columns that older rows have no values in, because the source has added them since."""
    search: Search | None = None
    """The last search for deleted rows."""
    held_back_by: Holder | None = None
    """The oldest transaction open in the source now, while rows wait there."""

    @property
    def state(self) -> State:
        """The worst that is known of it; `loaded` if the source could not tell whether there is
        more."""
        if self.failure:
            return "failed"
        if self.last is None:
            return "never"
        if not self.rows.target_exists:
            return "gone"
        if self.lag is None:
            return "loaded"
        if not self.lag.ahead:
            return "current"
        return "held_back" if self.held_back_by else "behind"


@dataclass(kw_only=True)
class TransformStatus(TargetStatus):
    """The status of a transform. `due` is why the next run will build it; empty if it will not."""

    materialized: str
    due: str = ""

    @property
    def state(self) -> State:
        """The worst that is known of it."""
        if self.failure:
            return "failed"
        if self.last is None:
            return "never"
        return "due" if self.due else "current"


@dataclass(kw_only=True)
class PipelineStatus:
    """The status of a pipeline `at` a moment of the warehouse's clock."""

    pipeline: str
    at: datetime
    tables: list[TableStatus]
    transforms: list[TransformStatus]
    source_clock: datetime | None = None
    source_unknown: str = ""
    """Why the source could not be asked; empty if it was."""
    gap_notes: list[str] = field(default_factory=list)
    """A sentence for each data interval that no run has read, with its tables and the commands."""
