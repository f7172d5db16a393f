"""The age of a table or mart, and why it is not younger, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from loadsheet.spec.models import FreshWithin
from loadsheet.warehouse.ledger import Kind

Level = Literal["fresh", "warn", "late", "never"]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why something is not younger."""

    key: str
    """The same for all that one incident has made late."""
    text: str
    """One sentence without its full stop. It may quote names of tables and sessions."""
    whole: bool = False
    """Whether it keeps the whole pipeline from being loaded."""
    own: bool = False
    """Whether nothing else that goes wrong in the pipeline can be the reason for it."""


@dataclass(frozen=True, kw_only=True)
class Age:
    """How old a table or mart is that `fresh_within` limits, or its last comparison."""

    kind: Kind
    name: str
    target: str
    """As messages name it; of a comparison another name than that of the rows."""
    limits: FreshWithin
    as_of: datetime | None
    """What the source had committed by then is in the target; None for one that was never loaded or
    built. Of a comparison: when it was, or when the first load was that none has followed."""
    at: datetime
    """The time of the answer, by the warehouse's clock."""
    cause: Cause | None = None
    """Why it is not younger, where the ledger tells."""
    of: Literal["rows", "verify"] = "rows"
    """Whether it is that of the rows, or of their last comparison (`fresh_within.verified`)."""
    differs: bool = False
    """Whether the comparison has found rows that differ, so that it is late at any age."""

    @property
    def age(self) -> timedelta | None:
        """How long ago `as_of` is; None if it was never loaded or built."""
        return None if self.as_of is None else max(self.at - self.as_of, timedelta(0))

    @property
    def level(self) -> Level:
        """`late` from `fail` on, `warn` from `warn` on."""
        if self.differs:
            return "late"
        age = self.age
        if age is None:
            return "never"
        if self.limits.fail is not None and age >= self.limits.fail:
            return "late"
        if self.limits.warn is not None and age >= self.limits.warn:
            return "warn"
        return "fresh"

    @property
    def is_late(self) -> bool:
        """Whether it is late, or was never loaded although it is to be fresh."""
        return self.level == "late" or (self.level == "never" and self.limits.fail is not None)

    @property
    def due(self) -> datetime | None:
        """When it is late, unless a run makes it younger before; None where it never is, and for
        one that was never loaded."""
        if self.as_of is None or self.limits.fail is None:
            return None
        return self.as_of + self.limits.fail
