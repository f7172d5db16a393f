"""A test file as frozen values: what is given, what is expected, and where in the file each row stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """Values by column as written, and `file:line:column` of the row."""

    values: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Declared:
    """What a test file says of a table: types by column, and the columns of its key."""

    columns: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run: rows that arrive, then what the marts must be. Tables are named `schema.table`."""

    where: str
    given: Mapping[str, tuple[Row, ...]]
    expect: Mapping[str, tuple[Row, ...]]
    full_refresh: bool = False
    interval: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test. `as_of` is the moment that its SQL takes for now."""

    name: str
    where: str
    steps: tuple[Step, ...]
    as_of: str | None = None

    @property
    def given(self) -> set[str]:
        """The tables of which any step gives rows."""
        return {name for step in self.steps for name in step.given}
