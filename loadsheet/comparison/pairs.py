"""The two sides of a staging table: which of its columns can be compared, and which rows of the
source it must have."""

from __future__ import annotations

from loadsheet.comparison.compare import Sides
from loadsheet.comparison.digest import Side, Value, shared_hash
from loadsheet.comparison.settled import quickly_unsettled, settled_rows
from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.source.rows import Last
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation
from loadsheet.sql.types import changed_text, shows_names
from loadsheet.warehouse import gone, tables
from loadsheet.warehouse.scope import Scope


def table_sides(
    table: Table,
    described: SourceTable,
    target: Relation,
    scope: Scope,
    last: Last,
    source: Session,
    warehouse: Session,
) -> tuple[Sides, list[str]]:
    """The table on both servers, in the snapshots that the sessions have open; and the columns that
    cannot be compared, each with the reason.

    Raises Refused where the primary key has one of them.
    """
    mode = table.mode_with_key(bool(described.key))
    key = described.key if mode != "append" else ()
    in_target = tables.columns_of(warehouse, target)
    filling: list[str] = []
    if table.fill == "auto" and scope.unfilled:
        filling = scope.unfilled.names(scope.columns or ())
    pairs, left_out = _comparable(described, scope, in_target, mode, key, filling)
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
    return sides, left_out


def _comparable(
    described: SourceTable,
    scope: Scope,
    in_target: dict[str, str],
    mode: str,
    key: tuple[str, ...],
    filling: list[str],
) -> tuple[list[tuple[Value, Value]], list[str]]:
    """The columns that can be compared, each as both sides have it, and why others cannot."""
    loaded = {column["name"]: column for column in scope.columns or ()}
    names = {column["attnum"]: name for name, column in loaded.items()}
    pairs = []
    left_out = []
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
        elif in_target.get(name, column.type) != column.type:
            left_out.append(f"{name}: is {in_target[name]} in the target")
        elif name not in in_target and column.name in key:
            left_out.append(f"{name}: is missing in the target")
        else:
            theirs = Value(column.name, column.type, is_cast=column.cast)
            pairs.append((theirs, Value(name, column.type, is_lost=name not in in_target)))
    return pairs, left_out
