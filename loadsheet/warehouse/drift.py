"""Drift: the source's columns are not what the target was made from. Applied by policy, or refused
before any write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident
from loadsheet.sql.types import Column, widens
from loadsheet.warehouse import tables
from loadsheet.warehouse.fence import Scope


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the arriving columns differ from the target's. Dropped columns are kept in the target, as
    `kept`."""

    renamed: dict[str, str]
    added: tuple[Column, ...]
    widened: tuple[Column, ...]
    narrowed: dict[str, str]
    """Column -> its new, narrower type; the target keeps the wider one."""
    dropped: tuple[str, ...]
    """Columns that arrived last time and no longer do."""
    replaced: dict[str, str]
    """Column -> why the target's older rows do not hold its values, for people."""
    incompatible: dict[str, str]
    """Column -> what does not fit, for people."""
    kept: dict[str, str]
    """Columns only the target has, with their types."""

    @property
    def notes(self) -> list[str]:
        """What changed, for people."""
        return (
            [f"renamed {old} to {new}" for old, new in self.renamed.items()]
            + [
                f"added {c.name} {c.type} (older rows have NULL until a full refresh)"
                for c in self.added
            ]
            + [f"widened {c.name} to {c.type}" for c in self.widened]
            + [
                f"{name} is now {type_name} in the source"
                for name, type_name in self.narrowed.items()
            ]
            + [f"{name} is no longer read from the source" for name in self.dropped]
        )


def compare(
    arriving: Sequence[Column], source_oid: int, existing: dict[str, str], scope: Scope
) -> Drift:
    """The drift between the columns that arrive and the target's (`existing`: name to type).

    A column is known by its attnum, which the last load remembered, while the source table is the
    same: a rename keeps it, a column dropped and added again under the same name has another.
    """
    before = {c["attnum"]: c for c in scope.columns or ()} if scope.source_oid == source_oid else {}
    names = {column.name for column in arriving}
    existing = {name: type_name for name, type_name in existing.items() if name != LOAD_ID}
    renamed = _renames(arriving, before, existing)
    types = {renamed.get(name, name): type_name for name, type_name in existing.items()}
    place = {renamed.get(c["name"], c["name"]): attnum for attnum, c in before.items()}
    differing = [c for c in arriving if c.name in types and types[c.name] != c.type]
    return Drift(
        renamed=renamed,
        added=tuple(c for c in arriving if c.name not in types),
        widened=tuple(c for c in differing if widens(types[c.name], c.type)),
        narrowed={
            c.name: c.type
            for c in differing
            if widens(c.type, types[c.name])
            and c.attnum in before
            and before[c.attnum]["type"] != c.type
        },
        dropped=tuple(
            c["name"] for attnum, c in before.items() if attnum not in {a.attnum for a in arriving}
        ),
        replaced={
            c.name: "is not the column that older rows were loaded from (dropped and added, or left out for a while)"
            for c in arriving
            if before and c.name in types and place.get(c.name) != c.attnum
        }
        | {
            c.name: f"had its label {sorted(lost)[0]!r} renamed, which older rows still show"
            for c in arriving
            if c.name in types
            and c.labels
            and (lost := _labels(before.get(c.attnum)) - set(c.labels))
        },
        incompatible={
            c.name: f"is {types[c.name]} in the target and {c.type} in the source"
            for c in differing
            if not widens(types[c.name], c.type) and not widens(c.type, types[c.name])
        },
        kept={name: type_name for name, type_name in types.items() if name not in names},
    )


def _labels(column: dict[str, Any] | None) -> set[str]:
    return set(column.get("labels", ())) if column else set()


def _renames(
    arriving: Sequence[Column], before: dict[int, dict[str, Any]], existing: dict[str, str]
) -> dict[str, str]:
    """Old name -> new name, as far as the target can follow: it may still hold a dropped column of
    the new name."""
    names = {before[c.attnum]["name"]: c.name for c in arriving if c.attnum in before}
    renamed = {old: new for old, new in names.items() if old != new and old in existing}
    while blocked := [
        old for old, new in renamed.items() if new in existing and new not in renamed
    ]:
        for old in blocked:
            del renamed[old]
    return renamed


def refuse_if_frozen(target: Relation, drift: Drift) -> None:
    """Raises Refused when a frozen table's columns changed."""
    changes = drift.notes + [
        f"{name} {what}" for name, what in (drift.replaced | drift.incompatible).items()
    ]
    if changes:
        raise Refused(
            f"{target}: schema_contract.columns is freeze, but the source changed: {'; '.join(changes)}"
        )


def refuse_changed_key(
    session: Session,
    target: Relation,
    key: tuple[str, ...],
    remedy: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raises Refused, with the `remedy`, when the target's rows are kept apart by another key than
    the arriving ones.

    Rows matched by a key the target does not keep unique would be doubled, or overwrite each other.
    `renamed` are the columns that are yet to get their new names.
    """
    found = tables.key_of(session, target)
    held = tuple(renamed.get(name, name) for name in found[1]) if found else ()
    if set(held) != set(key):
        was, now = (f"({', '.join(names)})" if names else "none" for names in (held, key))
        raise Refused(
            f"{target}: the primary key is {was} in the target and {now} in the source or spec; {remedy}"
        )


def refuse_replaced(target: Relation, drift: Drift, remedy: str) -> None:
    """Raises Refused, with the `remedy`, when rows that do not arrive would keep values of another
    column."""
    _refuse(target, drift.replaced, remedy)


def refuse_incompatible(target: Relation, drift: Drift, remedy: str) -> None:
    """Raises Refused, with the `remedy`, when a column cannot be brought up to date where it is."""
    _refuse(target, drift.incompatible, remedy)


def _refuse(target: Relation, columns: dict[str, str], remedy: str) -> None:
    for name, what in columns.items():
        raise Refused(f"{target}: column {name} {what}; {remedy}")


def alter(session: psycopg.Connection[Any], target: Relation, drift: Drift, remedy: str) -> None:
    """Bring the target's columns up to date in place. Raises Refused, with the `remedy`, where
    PostgreSQL cannot."""
    refuse_incompatible(target, drift, remedy)
    rename(session, target, drift)
    for clause in clauses(drift):
        try:
            session.execute(f"ALTER TABLE {target.sql} {clause}")
        except (
            psycopg.errors.FeatureNotSupported,
            psycopg.errors.DependentObjectsStillExist,
        ) as error:
            raise Refused(
                f"{target}: cannot {clause}: {error.diag.message_primary}; drop what uses it first"
            ) from error
        reach("load.altered")


def clauses(drift: Drift) -> list[str]:
    """What ALTER TABLE must do to the target's columns, but for renames."""
    added = [f"ADD COLUMN {ident(c.name)} {c.type}" for c in drift.added]
    return added + [f"ALTER COLUMN {ident(c.name)} TYPE {c.type}" for c in drift.widened]


def renames(drift: Drift) -> list[str]:
    """What ALTER TABLE must do to name the target's columns as the source's were: by way of other
    names where one takes the name that another gives up."""
    pairs = list(drift.renamed.items())
    if drift.renamed.keys() & set(drift.renamed.values()):
        steps = [(old, f"_loadsheet_{n}", new) for n, (old, new) in enumerate(pairs)]
        pairs = [(old, aside) for old, aside, _ in steps] + [
            (aside, new) for _, aside, new in steps
        ]
    return [f"RENAME COLUMN {ident(old)} TO {ident(new)}" for old, new in pairs]


def rename(session: Session, target: Relation, drift: Drift) -> None:
    """Rename the target's columns as the source's were."""
    for clause in renames(drift):
        session.execute(f"ALTER TABLE {target.sql} {clause}")
