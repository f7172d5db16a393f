"""The status of a pipeline, its tables and its transforms, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from loadsheet.source.holdback import Holder

State = Literal["failed", "never", "gone", "held_back", "behind", "due", "current", "loaded"]


@dataclass(frozen=True, kw_only=True)
class Lag:
    """The newest cursor in the source beside the watermark."""

    newest: str | None
    """As the server writes it; None in an empty table. One from the future is not counted."""
    ahead: bool
    """There is something above the watermark."""
    seconds: float | None = None
    """Between the two, for a cursor that is a time; 0 when nothing is ahead."""
    distance: float | None = None
    """The same for a cursor that is a number; None where one of the two is infinite or no number.
    """


@dataclass(frozen=True, kw_only=True)
class Work:
    """The last committed load of a table, or build of a transform; `extracted` and `bytes` are a
    load's."""

    name: str
    target: str
    at: datetime
    run_id: str
    number: int
    how: str
    """`replace`, `merge` or `append`; of a transform `full` or `increment`."""
    extracted: int | None
    inserted: int
    updated: int
    deleted: int
    bytes: int | None
    seconds: float
    held_by: str
    """The source session that kept this load from reading everything; empty when none did."""


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
    """None: it has not worked since."""


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """How far a table has come; both None for one without a watermark."""

    value: str | None
    cursor: str | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many rows a target has: None for a view, for what is not there, not to be read by this
    role, locked, or was never estimated. `exact` when they were counted."""

    number: int | None
    exact: bool = False
    is_there: bool = True
    """False: there is no table or view of this name."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the ledger knows of one pipeline, by the names of tables and transforms; empty before
    the first run."""

    watermarks: dict[str, Watermark]
    loads: dict[str, Work]
    builds: dict[str, Work]
    failures: dict[tuple[str, str], Failure]
    """By `table` or `transform` and name."""


@dataclass(kw_only=True)
class TargetStatus:
    """What tables and transforms have in common. `failure` is the last one, until a run succeeds."""

    name: str
    target: str
    rows: Rows
    last: Work | None
    failure: Failure | None


@dataclass(kw_only=True)
class TableStatus(TargetStatus):
    """Where a table stands; `lag` is None where it is not known, and `lag_unknown` says why."""

    in_spec: bool
    """False for one that the ledger remembers from an earlier spec."""
    watermark: str | None
    cursor: str | None
    lag: Lag | None = None
    lag_unknown: str = ""
    held_back_by: Holder | None = None
    """The oldest transaction open in the source now, while rows wait there."""

    @property
    def state(self) -> State:
        """The worst that is known of it; `loaded` when the source could not say whether there is
        more."""
        if self.failure:
            return "failed"
        if self.last is None:
            return "never"
        if not self.rows.is_there:
            return "gone"
        if self.lag is None:
            return "loaded"
        if self.lag.ahead:
            return "held_back" if self.held_back_by else "behind"
        return "current"


@dataclass(kw_only=True)
class TransformStatus(TargetStatus):
    """Where a transform stands; `due` says why the next run will build it, empty when it will not."""

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
    """Where a pipeline stood `at` a moment of the warehouse's clock."""

    pipeline: str
    at: datetime
    tables: list[TableStatus]
    transforms: list[TransformStatus]
    source_clock: datetime | None = None
    source_unknown: str = ""
    """Why the source could not be asked; empty when it was."""
