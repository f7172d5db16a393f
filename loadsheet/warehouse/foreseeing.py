"""What a load will find in the warehouse, as far as that can be seen before it has its lock."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.errors import Refused
from loadsheet.postgres import Session, ask_together
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column
from loadsheet.warehouse import belongings, drift, tables
from loadsheet.warehouse.belongings import Belonging
from loadsheet.warehouse.drift import Drift
from loadsheet.warehouse.scope import Scope
from loadsheet.warehouse.tables import Shape

FULL_REFRESH_REMEDY = "run a full refresh of this table to rebuild it"


def refuse_too_many_columns(
    session: Session,
    target: Relation,
    columns: Sequence[Column],
    source_oid: int,
    scope: Scope,
    action: str,
) -> None:
    """Raises Refused where a load of these columns with this `action` would give the existing
    target more columns than PostgreSQL allows."""
    existing = tables.columns_of(session, target)
    changed = drift.compare_columns(columns, source_oid, existing, scope)
    remedy = FULL_REFRESH_REMEDY
    in_place = action != "replace"
    if not in_place:
        obstacles = belongings.obstacles(session, target, changed.own)
        if obstacles:
            in_place = True
            remedy = obstacles[0].remedy
    drift.refuse_too_many_columns(session, target, changed, len(columns), in_place, remedy)


def swap_obstacles(
    session: Session, target: Relation, changed: Drift, scope: Scope, key: tuple[str, ...]
) -> list[Belonging]:
    """What keeps a load of all rows from swapping a new table into the existing target's place;
    empty if it can."""
    found = belongings.obstacles(session, target, changed.own, key or None)
    return found + drift.given_by_others(session, target, changed, scope, key)


def arrival_schema(
    session: Session,
    target: Relation,
    columns: Sequence[Column],
    source_oid: int,
    scope: Scope,
    key: tuple[str, ...],
    replaces: bool,
) -> str:
    """The schema of the table that rows will arrive in, by what can be seen now: the target's where
    the table is to become the target, else `pg_temp`. `replaces`: all rows of an existing target
    are replaced, and none is kept."""
    existing = tables.columns_of(session, target)
    if not existing:
        return target.schema
    if not replaces:
        return "pg_temp"
    domains = tables.domains_of(session, target)
    changed = drift.compare_columns(columns, source_oid, existing, scope, domains)
    if swap_obstacles(session, target, changed, scope, key):
        return "pg_temp"
    return target.schema


def existing_columns(session: Session, target: Relation) -> dict[str, str]:
    """The target's columns and types; empty if it does not exist yet.

    Raises Refused when the target was not made by Loadsheet, or cannot be written to safely.
    """
    return existing_shape(session, target).columns


def existing_shape(session: Session, target: Relation) -> Shape:
    """The target's columns and key, in one statement; empty if it does not exist yet. Raises as
    `existing_columns`."""
    unsafe, *shape = ask_together(
        session, belongings.unsafe_question(target), *tables.shape_questions(target)
    )
    found = tables.as_shape(*shape)
    if found.columns and LOAD_ID not in found.columns:
        raise Refused(
            f"{target} exists and was not made by Loadsheet: drop or rename it, or choose another "
            "schema"
        )
    belongings.refuse_found_unsafe(target, unsafe)
    return found
