"""The text that makes a target equal to what arrived: update what differs, insert what is missing, delete what is gone.

Rows are compared with `*<>`, PostgreSQL's comparison of a row's stored image: it needs no equality operator (json,
point and xml have none) and sees what `=` hides (1.0 and 1.00, `1 mon` and `30 days`).
UPDATE and INSERT rather than ON CONFLICT: unchanged rows are neither locked nor written (half the WAL when most rows
were sent unchanged, docs/protocol.md), and each statement's own count is the number of rows it touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadsheet.sql.text import ident, idents
from loadsheet.sql.types import TEXT_TYPES, TIME_TYPES

LOAD_ID = "_load_id"


def same_key(key: Sequence[str]) -> str:
    """The condition that a target row `t` and a new row `s` are the same."""
    return " AND ".join(f"t.{ident(name)} = s.{ident(name)}" for name in key)


def update_changed(
    target: str,
    source: str,
    key: Sequence[str],
    columns: Mapping[str, str],
    guard: str = "",
    load_no: int | None = None,
) -> str:
    """UPDATE of the rows that differ, the key among it: 1.0 and 1.00, `1 mon` and `30 days` are equal, not the same.

    `columns` maps each column to the SQL of its new value (`s."a"`, or a cast of it to the target's type).
    """
    number = f", {LOAD_ID} = {load_no}" if load_no is not None else ""
    settings = ", ".join(f"{ident(name)} = {value}" for name, value in columns.items())
    # Without the casts the parser would compare the rows column by column, by each type's own operator.
    differs = f"CAST(ROW({idents(columns, 't.')}) AS record) *<> CAST(ROW({', '.join(columns.values())}) AS record)"
    return (
        f"UPDATE {target} t SET {settings}{number} FROM {source} s WHERE {same_key(key)} AND {differs}"
        + (f" AND ({guard})" if guard else "")
    )  # fmt: skip


def insert_missing(
    target: str, source: str, key: Sequence[str], columns: Mapping[str, str], load_no: int | None = None
) -> str:
    """INSERT of the rows the target does not have; of all rows when there is no key."""
    names, values = idents(columns), ", ".join(columns.values())
    if load_no is not None:
        names, values = f"{names}, {LOAD_ID}", f"{values}, {load_no}"
    missing = f" WHERE NOT EXISTS (SELECT 1 FROM {target} t WHERE {same_key(key)})" if key else ""
    return f"INSERT INTO {target} ({names}) SELECT {values} FROM {source} s{missing}"


def delete_gone(target: str, source: str, key: Sequence[str]) -> str:
    """DELETE of the rows that are no longer there; of all rows when there is no key to compare them by."""
    gone = f" WHERE NOT EXISTS (SELECT 1 FROM {source} s WHERE {same_key(key)})" if key else ""
    return f"DELETE FROM {target} t{gone}"


def ordered(cursor: str, type_name: str, prefix: str = "") -> str:
    """The cursor as it is compared: text byte by byte, because collations differ between servers."""
    return f"{prefix}{ident(cursor)}" + (' COLLATE "C"' if type_name in TEXT_TYPES else "")


def keep_newest(table: str, key: Sequence[str], cursor: str | None) -> str:
    """DELETE of all but one row per key: the newest by `cursor` (SQL), by arrival where cursors tie."""
    newest = (f"{cursor} DESC NULLS LAST, " if cursor else "") + "ctid DESC"
    ranked = f"SELECT ctid, row_number() OVER (PARTITION BY {idents(key)} ORDER BY {newest}) AS place FROM {table}"
    return f"DELETE FROM {table} t USING ({ranked}) s WHERE t.ctid = s.ctid AND s.place > 1"


def count_null_keys(table: str, key: Sequence[str]) -> str:
    """SELECT of the number of rows without a complete key."""
    return f"SELECT count(*) FROM {table} WHERE " + " OR ".join(f"{ident(name)} IS NULL" for name in key)


def has_duplicates(table: str, key: Sequence[str]) -> str:
    """SELECT of whether any key stands on more than one row."""
    return f"SELECT EXISTS (SELECT FROM {table} GROUP BY {idents(key)} HAVING count(*) > 1)"


def not_older(cursor: str, type_name: str, read_at: str) -> str:
    """The guard that an older version never overwrites a newer one.

    A target's cursor from beyond the moment of reading is no newer version but a mistake (`infinity`, year 9999): it
    must not keep its row from being corrected. `read_at` is SQL, in the cursor's type, for the latest moment at which
    any of the target's rows was read: an increment that arrives late was itself read before the newer rows.
    """
    mine, theirs = ordered(cursor, type_name, "s."), ordered(cursor, type_name, "t.")
    guard = f"{mine} IS NULL OR {theirs} IS NULL OR {mine} >= {theirs}"
    return f"{guard} OR {theirs} > {read_at}" if type_name in TIME_TYPES else guard
