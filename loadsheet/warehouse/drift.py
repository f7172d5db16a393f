"""Drift: the source's columns are not what the target was made from. Applied by policy, or refused before any write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident
from loadsheet.sql.types import Column, widens
from loadsheet.warehouse.fence import Scope


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the arriving columns differ from the target's. Dropped columns are kept in the target, as `kept`."""

    renamed: dict[str, str]
    added: tuple[Column, ...]
    widened: tuple[Column, ...]
    incompatible: dict[str, str]
    """Column -> what does not fit, for people."""
    kept: dict[str, str]
    """Columns only the target has, with their types."""

    @property
    def notes(self) -> list[str]:
        """What changed, for people."""
        return (
            [f"renamed {old} to {new}" for old, new in self.renamed.items()]
            + [f"added {c.name} {c.type} (older rows have NULL until a full refresh)" for c in self.added]
            + [f"widened {c.name} to {c.type}" for c in self.widened]
        )


def compare(arriving: Sequence[Column], source_oid: int, existing: dict[str, str], scope: Scope) -> Drift:
    """The drift between the columns that arrive and the target's (`existing`: name to type).

    A rename is seen by the column's attnum, which the last load remembered, while the source table is the same.
    """
    before = {c["attnum"]: c["name"] for c in scope.columns or ()} if scope.source_oid == source_oid else {}
    names = {column.name for column in arriving}
    renamed = {
        before[c.attnum]: c.name
        for c in arriving
        if c.name not in existing and before.get(c.attnum, c.name) in existing.keys() - names
    }
    types = {renamed.get(name, name): type_name for name, type_name in existing.items() if name != LOAD_ID}
    differing = [c for c in arriving if c.name in types and types[c.name] != c.type]
    return Drift(
        renamed=renamed,
        added=tuple(c for c in arriving if c.name not in types),
        widened=tuple(c for c in differing if widens(types[c.name], c.type)),
        incompatible={
            c.name: f"is {types[c.name]} in the target and {c.type} in the source"
            for c in differing
            if not widens(types[c.name], c.type) and not widens(c.type, types[c.name])
        },
        kept={name: type_name for name, type_name in types.items() if name not in names},
    )


def refuse_if_frozen(target: Relation, drift: Drift) -> None:
    """Raises Refused when a frozen table's columns changed."""
    changes = drift.notes + [f"{name} {what}" for name, what in drift.incompatible.items()]
    if changes:
        raise Refused(f"{target}: schema_contract.columns is freeze, but the source changed: {'; '.join(changes)}")


def alter(session: psycopg.Connection[Any], target: Relation, drift: Drift, remedy: str) -> None:
    """Bring the target's columns up to date in place. Raises Refused, with the `remedy`, where PostgreSQL cannot."""
    for name, what in drift.incompatible.items():
        raise Refused(f"{target}: column {name} {what}; {remedy}")
    clauses = [f"RENAME COLUMN {ident(old)} TO {ident(new)}" for old, new in drift.renamed.items()]
    clauses += [f"ADD COLUMN {ident(c.name)} {c.type}" for c in drift.added]
    clauses += [f"ALTER COLUMN {ident(c.name)} TYPE {c.type}" for c in drift.widened]
    for clause in clauses:
        try:
            session.execute(f"ALTER TABLE {target.sql} {clause}")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.DependentObjectsStillExist) as error:
            raise Refused(
                f"{target}: cannot {clause}: {error.diag.message_primary}; drop what uses it first"
            ) from error
