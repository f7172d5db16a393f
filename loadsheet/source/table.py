"""A source table as its catalogs describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadsheet.errors import Refused
from loadsheet.names import did_you_mean
from loadsheet.source.beneath import Beneath
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column


@dataclass(frozen=True, kw_only=True)
class Nature:
    """Properties of a column's type in the source that its type in the target does not show."""

    element: str
    """The type's internal name; for an array, that of its elements."""
    base_type: str
    """The type with its modifier, and without domains."""
    is_enum: bool
    own_text: bool
    """The type has a user-defined cast to text, which need not show the whole value."""
    extension: str | None
    """The extension that the type is of."""
    loose: bool
    """The collation is nondeterministic: it treats different values as equal."""


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """A table as its catalog describes it, with the columns that the spec selects."""

    relation: Relation
    oid: int
    columns: tuple[Column, ...]
    natures: Mapping[str, Nature]
    not_null: frozenset[str]
    key: tuple[str, ...]
    """The spec's primary key, else the catalog's; empty when there is none."""
    key_is_enforced: bool
    """The source itself keeps the key unique and without NULLs."""
    is_table: bool
    """False for views and foreign tables."""
    beneath: Beneath

    def column(self, name: str) -> Column:
        """The column called `name`. Raises Refused, with the closest names, when the table has
        none."""
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise Refused(f"{self.relation} has no column {name!r}{did_you_mean(name, names)}")
