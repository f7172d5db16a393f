"""A source table as its catalogs describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadsheet.errors import Refused
from loadsheet.names import did_you_mean
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column


@dataclass(frozen=True, kw_only=True)
class Nature:
    """What a column's own type is like, where its landing type does not say."""

    element: str
    """The type's internal name, of the element where it is an array."""
    is_enum: bool
    own_text: bool
    """Somebody made a cast to text for the type, which need not show all of a value."""
    collation: str | None
    """By which the column is ordered, where it is; the database's own unless `own_collation`."""
    own_collation: bool
    loose: bool
    """Its collation takes values for equal that are not the same."""


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """A table as its catalog describes it, reduced to the columns the spec carries."""

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

    def column(self, name: str) -> Column:
        """The column called `name`. Raises Refused, with the closest names, when the table has
        none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise Refused(
            f"{self.relation} has no column"
            f" {name!r}{did_you_mean(name, [c.name for c in self.columns])}"
        )
