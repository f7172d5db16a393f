"""What is said of a pipeline, its tables and its transforms: where each stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from loadsheet.source.holdback import Holder
from loadsheet.source.lag import Lag
from loadsheet.warehouse.status import Failure, Rows, Work

State = Literal["failed", "never", "gone", "held_back", "behind", "due", "current", "loaded"]


@dataclass(kw_only=True)
class Standing:
    """What tables and transforms have in common. `failure` is one that has not been mended yet."""

    name: str
    target: str
    rows: Rows
    last: Work | None
    failure: Failure | None


@dataclass(kw_only=True)
class TableStanding(Standing):
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
        """The worst that is known of it; `loaded` when the source could not say whether there is more."""
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
class TransformStanding(Standing):
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
class PipelineStanding:
    """Where a pipeline stood `at` a moment of the warehouse's clock."""

    pipeline: str
    at: datetime
    tables: list[TableStanding]
    transforms: list[TransformStanding]
    source_clock: datetime | None = None
    source_unknown: str = ""
    """Why the source could not be asked; empty when it was."""
