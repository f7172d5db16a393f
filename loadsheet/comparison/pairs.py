"""Which columns of a source table and its target can be compared."""

from __future__ import annotations

from loadsheet.comparison.digest import Value
from loadsheet.source.table import SourceTable
from loadsheet.warehouse.fence import Scope


def comparable(
    described: SourceTable, scope: Scope, in_target: dict[str, str], mode: str
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
        elif loaded[name]["type"] != column.type:
            left_out.append(f"{column.name}: was {loaded[name]['type']}, is {column.type} now")
        elif mode == "replace" and set(loaded[name].get("labels", ())) - set(column.labels):
            # That changes rows without writing them. The next load reads all of them; an increment
            # does not, so in other modes they differ.
            left_out.append(f"{column.name}: had a label renamed since the last load")
        elif in_target.get(name) != column.type:
            left_out.append(f"{name}: is {in_target.get(name, 'missing')} in the target")
        else:
            theirs = Value(column.name, column.type, is_cast=column.cast)
            pairs.append((theirs, Value(name, column.type)))
    return pairs, left_out
