"""The two sides of a staging table: which of its columns can be compared, and which rows of the
source it must have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from loadsheet.comparison.compare import Sides
from loadsheet.comparison.digest import Side, Value, shared_hash
from loadsheet.comparison.settled import quickly_unsettled, settled_rows
from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.source.rows import Last
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column, changed_text, shows_names, widens
from loadsheet.warehouse import drift, gone, tables
from loadsheet.warehouse.scope import Scope


class TableSides(NamedTuple):
    """A table on both servers, as far as it can be compared."""

    sides: Sides
    left_out: list[str]
    """The columns that are not compared, each with the reason."""
    misfits: list[str]
    """What to do about those of them to which another user gave a type in the target that does not
    hold every value of the source: whether their values are the same is not known."""


def table_sides(
    table: Table,
    described: SourceTable,
    target: Relation,
    scope: Scope,
    last: Last,
    source: Session,
    warehouse: Session,
) -> TableSides:
    """The table on both servers, in the snapshots that the sessions have open.

    Raises Refused where the primary key has one of them.
    """
    mode = table.mode_with_key(bool(described.key))
    key = described.key if mode != "append" else ()
    domains = tables.domains_of(warehouse, target)
    in_target = tables.columns_of(warehouse, target) | domains
    filling: list[str] = []
    if table.fill == "auto" and scope.unfilled:
        filling = scope.unfilled.names(scope.columns or ())
    pairs, left_out, misfits = _comparable(described, scope, in_target, domains, mode, key, filling)
    names = [theirs.name for theirs, _ in pairs]
    if not set(key) <= set(names):
        why = "; ".join(left_out)
        raise Refused(f"{described.relation}: its primary key cannot be compared: {why}")
    places = tuple(names.index(name) for name in key)
    common = shared_hash(source, warehouse)
    live = gone.live_rows(warehouse, target) if gone.keeps_deleted(table) else "TRUE"
    settled = settled_rows(source, table, described, scope, last)
    sides = Sides(
        source_session=source,
        source=Side(described.relation, tuple(theirs for theirs, _ in pairs), places, common),
        warehouse_session=warehouse,
        target=Side(target, tuple(ours for _, ours in pairs), places, common, live=live),
        settled=settled,
        unsettled=quickly_unsettled(table, described, last, settled),
    )
    texts = [drift.misfit(target, column, in_target[name]) for name, column in misfits.items()]
    return TableSides(sides, left_out, texts)


def _comparable(
    described: SourceTable,
    scope: Scope,
    in_target: dict[str, str],
    domains: Collection[str],
    mode: str,
    key: tuple[str, ...],
    filling: list[str],
) -> tuple[list[tuple[Value, Value]], list[str], dict[str, Column]]:
    """The columns that can be compared, each as both sides have it; why others cannot; and those
    that cannot because of their type in the target. `in_target` has the types below domains."""
    loaded = {column["name"]: column for column in scope.columns or ()}
    names = {column["attnum"]: name for name, column in loaded.items()}
    pairs = []
    left_out = []
    misfits = {}
    for column in described.columns:
        name = column.name
        if described.is_table and described.oid == scope.source_oid:
            name = names.get(column.attnum, "")  # as it was called when it was loaded
        if name not in loaded:
            left_out.append(f"{column.name}: not loaded yet")
        elif name in filling:
            left_out.append(f"{name}: the next run goes on filling it in older rows")
        elif loaded[name]["type"] != column.type:
            left_out.append(f"{column.name}: was {loaded[name]['type']}, is {column.type} now")
        # These change rows without writing them. The next load reads all of them; an increment does
        # not, so in other modes they differ.
        elif mode == "replace" and (why := changed_text(loaded[name], column)):
            left_out.append(f"{column.name}: {why} since the last load")
        elif mode == "replace" and shows_names(column):
            left_out.append(
                f"{column.name}: shows names, which may have changed since the last load"
            )
        elif name not in in_target and column.name in key:
            left_out.append(f"{name}: is missing in the target")
        elif not _holds(in_target.get(name, column.type), column.type):
            left_out.append(f"{name}: is {in_target[name]} in the target")
            misfits[name] = replace(column, name=name)
        else:
            pairs.append(_pair(column, name, in_target.get(name), name in domains))
    return pairs, left_out, misfits


def _holds(in_target: str, in_source: str) -> bool:
    return in_target == in_source or widens(in_source, in_target)


def _pair(column: Column, name: str, in_target: str | None, is_domain: bool) -> tuple[Value, Value]:
    """The column on both sides. Where the target's type is wider (a source that was narrowed, or
    another user's ALTER), the values are compared as a load casts them."""
    landed = in_target or column.type
    theirs = Value(column.name, landed, is_cast=column.cast or landed != column.type)
    return theirs, Value(name, landed, is_cast=is_domain, is_lost=in_target is None)
