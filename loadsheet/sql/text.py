"""Identifiers and literals as PostgreSQL reads them. Pure text: no driver."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def ident(name: str) -> str:
    """`name` as a quoted identifier, safe for any table or column name: `we"ird` -> `"we""ird"`."""
    return '"' + name.replace('"', '""') + '"'


def idents(names: Iterable[str], prefix: str = "") -> str:
    """Comma-separated quoted identifiers, each behind `prefix` (`t.`) where one is given."""
    return ", ".join(prefix + ident(name) for name in names)


def literal(value: str) -> str:
    """`value` as a string literal; needs `standard_conforming_strings = on`, which our sessions
    pin."""
    return "'" + value.replace("'", "''") + "'"


def typed(value: str, type_name: str) -> str:
    """`value`, in the server's own text form, as a literal of `type_name`."""
    return f"CAST({literal(value)} AS {type_name})"


@dataclass(frozen=True)
class Relation:
    """A table by schema and name."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """The quoted, qualified name."""
        return f"{ident(self.schema)}.{ident(self.name)}"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"
