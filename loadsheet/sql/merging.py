"""The text that makes a target equal to what arrived: keep what differs, update it, insert what is
missing.

The arrived rows are compared with the target in one pass, which leaves the new and the different
ones in a temporary table (not in the WAL); only those are joined again and written. Unchanged rows
are neither locked nor written, and each statement's own count is the number of rows it touched.
Where values are long, new rows are not kept: they are inserted from where they arrived.
docs/performance-merging.md has what upsert, MERGE and UPDATE + INSERT cost instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from loadsheet.sql.text import ident, idents
from loadsheet.sql.types import SAME_WHEN_EQUAL, TEXT_TYPES, TIME_TYPES, without_modifier

LOAD_ID = "_load_id"
# Where the target has the row, in a table of changed rows: the one name that no arrived column has.
PLACE = LOAD_ID


def same_key(key: Sequence[str]) -> str:
    """The condition that a target row `t` and a new row `s` are the same."""
    return " AND ".join(f"t.{ident(name)} = s.{ident(name)}" for name in key)


def differs(values: Mapping[str, str], types: Mapping[str, str]) -> str:
    """The condition that target row `t` is not what the `values` say (SQL by column; `types` are
    the target's).

    Where equal values may look different (1.0 and 1.00, `1 mon` and `30 days`) or have no equality
    (json, point, xml) it takes `*<>`, PostgreSQL's comparison of stored images. Elsewhere `=` says
    the same sooner: comparing 2.4 million rows took 1.9 s instead of 3.2 s. Images come last: often
    the rest has told, and no long value need be fetched.
    """
    exact = {name for name in values if without_modifier(types[name]) in SAME_WHEN_EQUAL}
    tests = [_is_distinct(name, values[name], types[name]) for name in values if name in exact]
    images = {name: value for name, value in values.items() if name not in exact}
    if images:
        # Without the casts the parser would compare the rows column by column, by each type's own
        # operator.
        mine, theirs = f"ROW({idents(images, 't.')})", f"ROW({', '.join(images.values())})"
        tests.append(f"CAST({mine} AS record) *<> CAST({theirs} AS record)")
    return f"({' OR '.join(tests)})"


def _is_distinct(name: str, value: str, type_name: str) -> str:
    # A collation may take different texts for equal; "C" does not.
    collation = ' COLLATE "C"' if without_modifier(type_name) in TEXT_TYPES else ""
    return f"t.{ident(name)}{collation} IS DISTINCT FROM {value}"


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The statements that merge the rows of `source` into `target` by `key`, through the temporary
    table `changed`."""

    target: str
    source: str
    changed: str
    key: Sequence[str]
    values: Mapping[str, str]
    """The SQL of each column's new value: `s."a"`, or a cast of it to the target's type."""
    types: Mapping[str, str]
    """The target's columns and their types."""
    long: Collection[str]
    """Columns of which the target holds values outside its rows (TOAST)."""
    keeps_new: bool
    """Whether `changed` has the new rows, too. It saves a second join; where rows are long, copying
    them costs more."""
    load_no: int | None
    guard: str
    """A condition that a row must also fulfil to be updated; empty: none."""

    def keep_changed(self) -> str:
        """CREATE of `changed`: the rows that differ and pass the guard and, if it `keeps_new`,
        those the target lacks.

        PLACE is where the target has the row, or NULL. The key is compared too: 1.0 and 1.00 are
        equal, not the same.
        """
        columns = ", ".join(f"{value} AS {ident(name)}" for name, value in self.values.items())
        join, lacks = ("LEFT JOIN", "t.ctid IS NULL OR ") if self.keeps_new else ("JOIN", "")
        return (
            f"CREATE TEMPORARY TABLE {self.changed} ON COMMIT DROP AS SELECT {columns}, t.ctid AS"
            f" {PLACE} FROM {self.source} s {join} {self.target} t ON {self._same} WHERE"
            f" {lacks}{self._to_update(self.values)}"
        )

    def update_found(self) -> str:
        """UPDATE of the rows the target has, where it had them: without joining the whole target
        again."""
        return self._update(f"s.{PLACE} IS NOT NULL AND t.ctid = s.{PLACE}")

    def update_moved(self) -> str:
        """UPDATE of those that are there no longer, because another session has written them in the
        meantime."""
        return self._update(self._to_update(self._kept))

    def insert_new(self) -> str:
        """INSERT of the rows the target lacks."""
        if self.keeps_new:
            return insert_rows(
                self.target, self.changed, self._kept, self.load_no, f"s.{PLACE} IS NULL"
            )
        lacks = f"NOT EXISTS (SELECT FROM {self.target} t WHERE {self._same})"
        return insert_rows(self.target, self.source, self.values, self.load_no, lacks)

    @property
    def _same(self) -> str:
        # In the target's type, so that its index can be used.
        return " AND ".join(f"t.{ident(name)} = {self.values[name]}" for name in self.key)

    @property
    def _kept(self) -> dict[str, str]:
        return {name: f"s.{ident(name)}" for name in self.values}

    def _to_update(self, values: Mapping[str, str]) -> str:
        return differs(values, self.types) + (f" AND ({self.guard})" if self.guard else "")

    def _update(self, condition: str) -> str:
        settings = [
            f"{ident(name)} = {self._new(name, value)}" for name, value in self._kept.items()
        ]
        settings += [f"{LOAD_ID} = {self.load_no}"] if self.load_no is not None else []
        # By the key in any case: a place alone may be another row's by now.
        where = f"{same_key(self.key)} AND {condition}"
        return (
            f"UPDATE {self.target} t SET {', '.join(settings)} FROM {self.changed} s WHERE {where}"
        )

    def _new(self, name: str, value: str) -> str:
        """Set to its own copy, a long value would be written again; set to itself, it stays where
        it is."""
        if name not in self.long:
            return value
        return (
            f"CASE WHEN {differs({name: value}, self.types)} THEN {value} ELSE t.{ident(name)} END"
        )


def insert_rows(
    target: str, source: str, values: Mapping[str, str], load_no: int | None, where: str = ""
) -> str:
    """INSERT of the source's rows, those that fulfil `where` if it is given."""
    names, new = idents(values), ", ".join(values.values())
    if load_no is not None:
        names, new = f"{names}, {LOAD_ID}", f"{new}, {load_no}"
    return f"INSERT INTO {target} ({names}) SELECT {new} FROM {source} s" + (
        f" WHERE {where}" if where else ""
    )


def delete_gone(target: str, source: str, key: Sequence[str]) -> str:
    """DELETE of the rows that are no longer there; of all rows when there is no key to compare them
    by."""
    gone = f" WHERE NOT EXISTS (SELECT 1 FROM {source} s WHERE {same_key(key)})" if key else ""
    return f"DELETE FROM {target} t{gone}"


def ordered(cursor: str, type_name: str, prefix: str = "") -> str:
    """The cursor as it is compared: text byte by byte, because collations differ between servers."""
    return f"{prefix}{ident(cursor)}" + (' COLLATE "C"' if type_name in TEXT_TYPES else "")


def keep_newest(table: str, key: Sequence[str], cursor: str | None) -> str:
    """DELETE of all but one row per key: the newest by `cursor` (SQL), by arrival where cursors
    tie."""
    newest = (f"{cursor} DESC NULLS LAST, " if cursor else "") + "ctid DESC"
    ranked = (
        f"SELECT ctid, row_number() OVER (PARTITION BY {idents(key)} ORDER BY {newest}) AS place"
        f" FROM {table}"
    )
    return f"DELETE FROM {table} t USING ({ranked}) s WHERE t.ctid = s.ctid AND s.place > 1"


def count_null_keys(table: str, key: Sequence[str]) -> str:
    """SELECT of the number of rows without a complete key."""
    return f"SELECT count(*) FROM {table} WHERE " + " OR ".join(
        f"{ident(name)} IS NULL" for name in key
    )


def has_duplicates(table: str, key: Sequence[str]) -> str:
    """SELECT of whether any key stands on more than one row."""
    return f"SELECT EXISTS (SELECT FROM {table} GROUP BY {idents(key)} HAVING count(*) > 1)"


def not_older(cursor: str, type_name: str, read_at: str) -> str:
    """The guard that an older version never overwrites a newer one.

    A target's cursor from beyond the moment of reading is no newer version but a mistake
    (`infinity`, year 9999): it must not keep its row from being corrected. `read_at` is SQL, in the
    cursor's type, for the latest moment at which any of the target's rows was read: an increment
    that arrives late was itself read before the newer rows.
    """
    mine, theirs = ordered(cursor, type_name, "s."), ordered(cursor, type_name, "t.")
    guard = f"{mine} IS NULL OR {theirs} IS NULL OR {mine} >= {theirs}"
    return f"{guard} OR {theirs} > {read_at}" if type_name in TIME_TYPES else guard
