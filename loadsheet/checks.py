"""What was checked in the rows of a table or mart, and with which result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Assertion = Literal[
    "not_null", "unique", "max_shrink", "matches_manifest", "equals_source", "equals_select"
]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check and its result."""

    assertion: Assertion
    success: bool
    columns: tuple[str, ...] = ()
    """Those that it is about; empty where it is about whole rows, or their number."""
    found: str = ""
    """What was found: counts, and never a value of a row."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The checks of one table or mart."""

    kind: Literal["table", "transform"]
    name: str
    checks: tuple[Check, ...]
    rows: int | None = None
    """How many rows the table or mart has, where the check has counted all of them."""


def passed_key(key: tuple[str, ...]) -> tuple[Check, ...]:
    """The checks that rows with a complete and unique key have passed."""
    return (
        Check(assertion="not_null", success=True, columns=key),
        Check(assertion="unique", success=True, columns=key),
    )
