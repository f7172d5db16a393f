"""Whether each row of a SELECT is one row of one table, known by that table's primary key."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.sql.parsing import Node, Statement
from loadsheet.sql.text import Relation

# What makes of several rows one, or of one several, or leaves rows out that others decide about.
_OTHER_ROWS = (
    *("distinctClause", "groupClause", "havingClause", "windowClause", "withClause"),
    *("limitCount", "limitOffset", "valuesLists"),
)


def plain_columns(
    statements: Sequence[Statement],
    table: Relation,
    key: tuple[str, ...],
    unique_key: tuple[str, ...],
) -> tuple[tuple[str, str], ...] | None:
    """Pairs of each column of `unique_key` in the SELECT's result and the column of the table's
    primary `key` that it plainly is.

    None unless the SELECT reads only `table`, without a subquery, and `unique_key` is the whole
    key.
    """
    (statement,) = statements
    body = statement.body
    if statement.kind != "SelectStmt" or body.get("op") != "SETOP_NONE":
        return None
    if any(clause in body for clause in _OTHER_ROWS) or len(statement.queries) != 1:
        return None
    sources = body.get("fromClause", [])
    if len(sources) != 1 or not _is_table(sources[0].get("RangeVar"), table):
        return None
    columns = {}
    for target in body["targetList"]:
        columns.update(_plain_column(target["ResTarget"], key))
    pairs = tuple((name, columns.get(name, "")) for name in unique_key)
    if sorted(column for _, column in pairs) != sorted(key):
        return None
    return pairs


def _is_table(source: Node | None, table: Relation) -> bool:
    if source is None or source["relname"] != table.name:
        return False
    return bool(source.get("schemaname", table.schema) == table.schema)


def _plain_column(item: Node, key: tuple[str, ...]) -> dict[str, str]:
    """The columns of the result that are columns of the key: name to name."""
    fields = item["val"].get("ColumnRef", {}).get("fields", [])
    if not fields:
        return {}
    if "A_Star" in fields[-1]:
        return {name: name for name in key}
    name = fields[-1]["String"]["sval"]
    return {item.get("name", name): name} if name in key else {}
