"""The SQL that makes a target equal to the rows that arrived: keep those that differ, update them,
insert those that are missing.

The arrived rows are compared with the target in one pass, which leaves the new and the different
ones in a temporary table (not in the WAL); only those are joined again and written. Unchanged rows
are neither locked nor written, and each statement's own count is the number of rows it touched.
Where values are long, new rows are not kept: they are inserted from where they arrived.

Where the target's rows are looked up by index and nothing hangs on it, one MERGE does all of that.
docs/performance-merging.md shows what each way costs, and what upsert and UPDATE + INSERT would.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from loadsheet.sql.text import ident, idents
from loadsheet.sql.types import SAME_WHEN_EQUAL, TEXT_TYPES, TIME_TYPES, without_modifier

LOAD_ID = "_load_id"
DELETED_AT = "_deleted_at"
"""The column of a target that keeps the rows that are gone from the source: NULL in all others."""
TOMBSTONES = "__deleted"
"""The end of the name of the table with the keys of rows that were deleted from a target."""


def same_key(key: Sequence[str]) -> str:
    """The condition that a target row `t` and a new row `s` are the same."""
    return " AND ".join(f"t.{ident(name)} = s.{ident(name)}" for name in key)


def differs(values: Mapping[str, str], types: Mapping[str, str]) -> str:
    """The condition that target row `t` differs from `values` (SQL by column; `types` are the
    target's).

    Where equal values may look different (1.0 and 1.00, `1 mon` and `30 days`) or have no equality
    (json, point, xml) it takes `*<>`, PostgreSQL's comparison of stored images. Elsewhere `=` gives
    the same answer faster: comparing 2.4 million rows took 1.9 s instead of 3.2 s. Images come
    last: often another column has decided, and no long value need be fetched.
    """
    tests = []
    images = {}
    for name, value in values.items():
        plain_type = without_modifier(types[name])
        if plain_type not in SAME_WHEN_EQUAL:
            images[name] = value
            continue
        # A collation may take different texts for equal; "C" does not.
        collation = ' COLLATE "C"' if plain_type in TEXT_TYPES else ""
        tests.append(f"t.{ident(name)}{collation} IS DISTINCT FROM {value}")
    if images:
        # Without the casts the parser would compare the rows column by column, by each type's own
        # operator.
        old = f"ROW({idents(images, 't.')})"
        new = f"ROW({', '.join(images.values())})"
        tests.append(f"CAST({old} AS record) *<> CAST({new} AS record)")
    return f"({' OR '.join(tests)})"


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The statements that merge the rows of `source` into `target` by `key`, through the temporary
    table `changed`."""

    target: str
    source: str
    changed: str
    key: Sequence[str]
    """In the order of the target's primary key, where it has this one."""
    values: Mapping[str, str]
    """The SQL of each column's new value: `s."a"`, or a cast of it to the target's type."""
    types: Mapping[str, str]
    """The target's columns and their types."""
    long: Collection[str]
    """Columns of which the target holds values outside its rows (TOAST)."""
    keeps_new: bool
    """Whether `changed` has the new rows, too. It saves a second join; where rows are long, copying
    them costs more."""
    adds_rows: bool
    """Whether rows that the target lacks are inserted; where not, it does not keep them either."""
    load_no: int | None
    guard: str
    """A condition that a row must also fulfil to be updated; empty: none."""

    def in_one_statement(self, in_order: bool) -> str:
        """MERGE: UPDATE of the rows that differ and INSERT of those that the target lacks,
        `in_order` of the key if so. It looks at each row of the target a second time, which costs
        little right after an index has found it.

        PostgreSQL refuses it where two arrived rows are the same row of the target.
        """
        statement = (
            f"MERGE INTO {self.target} t USING {self._rows(in_order)} s ON {self._same}"
            f" WHEN MATCHED AND {self._to_update(self.values)}"
            f" THEN UPDATE SET {self._settings(self.values)}"
        )
        if self.adds_rows:
            names, new = _with_load_id(self.values, self.load_no)
            statement += (
                f" WHEN NOT MATCHED THEN INSERT ({names}) OVERRIDING SYSTEM VALUE VALUES ({new})"
            )
        return statement

    def keep_changed(self, in_order: bool) -> str:
        """CREATE of `changed`: the rows that differ and pass the guard and, if it `keeps_new`,
        those the target lacks; `in_order` of the key if so.

        `place` is where the target has the row, or NULL. The key is compared too: 1.0 and 1.00 are
        equal, not the same.
        """
        columns = ", ".join(f"{value} AS {ident(name)}" for name, value in self.values.items())
        join = "JOIN"
        condition = self._to_update(self.values)
        if self.keeps_new:
            join = "LEFT JOIN"
            condition = f"t.ctid IS NULL OR {condition}"
        return (
            f"CREATE TEMPORARY TABLE {self.changed} ON COMMIT DROP AS"
            f" SELECT {columns}, t.ctid AS {self.place}"
            f" FROM {self._rows(in_order)} s {join} {self.target} t ON {self._same}"
            f" WHERE {condition}"
        )

    def update_found(self, in_order: bool) -> str:
        """UPDATE of the rows the target has, where it had them: without joining the whole target
        again. `in_order` of their places, where a hash join has left them in any order: then each
        page is read and written once. Of a million rows, in a target that does not fit into shared
        buffers, that took 3.9 instead of 6.6 s."""
        rows = f"SELECT * FROM {self.changed} WHERE {self.place} IS NOT NULL"
        if in_order:
            rows += f" ORDER BY {self.place}"
        return self._update(f"t.ctid = s.{self.place}", f"({rows})")

    def update_moved(self) -> str:
        """UPDATE of those that are there no longer, because another session has written them in the
        meantime."""
        return self._update(self._to_update(self._kept), self.changed)

    def insert_gone(self) -> str:
        """INSERT of those that are nowhere any more, because another session has deleted them or
        changed their keys in the meantime."""
        had_it = f"s.{self.place} IS NOT NULL"
        has_none = f"NOT EXISTS (SELECT FROM {self.target} t WHERE {same_key(self.key)})"
        condition = f"{had_it} AND {has_none}"
        return insert_rows(self.target, self.changed, self._kept, self.load_no, condition)

    def keep_exchanged(self, exchanged: str, own: Sequence[str]) -> str:
        """CREATE of the temporary table `exchanged`: the rows to update, with the values of the
        target's `own` columns, which do not arrive."""
        columns = ", ".join(["s.*", *(f"t.{ident(name)}" for name in own)])
        return (
            f"CREATE TEMPORARY TABLE {exchanged} ON COMMIT DROP AS SELECT {columns}"
            f" FROM {self.changed} s JOIN {self.target} t ON {same_key(self.key)}"
            f" WHERE {self._to_update(self._kept)} FOR UPDATE OF t"
        )

    def delete_exchanged(self, exchanged: str) -> str:
        """DELETE of the target's rows that are in `exchanged`."""
        return delete_same(self.target, exchanged, self.key)

    def insert_exchanged(self, exchanged: str, own: Sequence[str]) -> str:
        """INSERT of the rows of `exchanged`, once all of them are deleted."""
        values = self._kept | {name: f"s.{ident(name)}" for name in own}
        return insert_rows(self.target, exchanged, values, self.load_no)

    def insert_new(self) -> str:
        """INSERT of the rows the target lacks."""
        if self.keeps_new:
            is_new = f"s.{self.place} IS NULL"
            return insert_rows(self.target, self.changed, self._kept, self.load_no, is_new)
        return insert_rows(self.target, self.source, self.values, self.load_no, self._lacks)

    @property
    def lacking(self) -> str:
        """What to select FROM: the arrived rows that the target lacks."""
        return f"{self.source} s WHERE {self._lacks}"

    @property
    def place(self) -> str:
        """The column of `changed` for the place of the target's row: no arrived column has its
        name."""
        name = "_place"
        while name in self.values:
            name += "_"
        return name

    @property
    def order(self) -> list[str]:
        """What to sort the arrived rows by (`key_order`)."""
        return key_order({name: self.values[name] for name in self.key}, self.types)

    def _rows(self, in_order: bool) -> str:
        return in_key_order(self.source, self.order) if in_order else self.source

    @property
    def _same(self) -> str:
        # In the target's type, so that its index can be used.
        return " AND ".join(f"t.{ident(name)} = {self.values[name]}" for name in self.key)

    @property
    def _lacks(self) -> str:
        return f"NOT EXISTS (SELECT FROM {self.target} t WHERE {self._same})"

    @property
    def _kept(self) -> dict[str, str]:
        return {name: f"s.{ident(name)}" for name in self.values}

    def _to_update(self, values: Mapping[str, str]) -> str:
        condition = differs(values, self.types)
        if self.guard:
            condition += f" AND ({self.guard})"
        return condition

    def _update(self, condition: str, rows: str) -> str:
        # By the key in any case: a place alone may be another row's by now.
        return (
            f"UPDATE {self.target} t SET {self._settings(self._kept)}"
            f" FROM {rows} s WHERE {same_key(self.key)} AND {condition}"
        )

    def _settings(self, values: Mapping[str, str]) -> str:
        settings = []
        for name, value in values.items():
            new = value
            if name in self.long:
                # Set to its own copy, a long value would be written again; set to itself, it stays
                # where it is.
                is_changed = differs({name: value}, self.types)
                new = f"CASE WHEN {is_changed} THEN {value} ELSE t.{ident(name)} END"
            settings.append(f"{ident(name)} = {new}")
        if self.load_no is not None:
            settings.append(f"{LOAD_ID} = {self.load_no}")
        return ", ".join(settings)


def key_order(values: Mapping[str, str], types: Mapping[str, str]) -> list[str]:
    """What to sort by a key: its `values` (SQL by column) and their types.

    A text's order is byte by byte: nearly that of any collation, and much faster.
    """
    order = []
    for name, value in values.items():
        is_text = without_modifier(types[name]) in TEXT_TYPES
        order.append(f'{value} COLLATE "C"' if is_text else value)
    return order


def in_key_order(source: str, order: Sequence[str]) -> str:
    """A subquery of the source's rows in the order of their key (`key_order`). Where an index looks
    them up, it goes from page to page: of 1.5 M rows, a tenth that arrive in any order took 0.7
    instead of 1.4 s."""
    return f"(SELECT * FROM {source} s ORDER BY {', '.join(order)})"


def arrives_in_order(source: str, value: str, share: float) -> str:
    """SELECT of whether the source's rows lie in the order of a value (SQL), by a sample of its
    pages (`share` per cent). In any order, half of the neighbours would be the wrong way round."""
    sampled = f"SELECT {value} AS value FROM {source} s TABLESAMPLE SYSTEM ({share:f})"
    pairs = f"SELECT value, lag(value) OVER () AS before FROM ({sampled}) sampled"
    return (
        "SELECT coalesce(avg(CAST(value >= before AS int)) >= 0.9, true)"
        f" FROM ({pairs}) pairs WHERE before IS NOT NULL"
    )


def insert_rows(
    target: str, source: str, values: Mapping[str, str], load_no: int | None, where: str = ""
) -> str:
    """INSERT of the source's rows, those that fulfil `where` if it is given."""
    names, new = _with_load_id(values, load_no)
    # An identity column that is named takes the given value, too.
    insert = f"INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE SELECT {new} FROM {source} s"
    if where:
        insert += f" WHERE {where}"
    return insert


def _with_load_id(values: Mapping[str, str], load_no: int | None) -> tuple[str, str]:
    """The columns that an INSERT names and their values; `_load_id` too, where it has a number."""
    if load_no is not None:
        values = {**values, LOAD_ID: str(load_no)}
    return idents(values), ", ".join(values.values())


def update_values(
    target: str,
    source: str,
    key: Sequence[str],
    values: Mapping[str, str],
    types: Mapping[str, str],
    load_no: int,
) -> str:
    """UPDATE of the target's rows whose keys are in the source and whose other `values` differ (SQL
    by column; `types` are the target's). The key stays as it is written."""
    same = " AND ".join(f"t.{ident(name)} = {values[name]}" for name in key)
    others = {name: value for name, value in values.items() if name not in key}
    settings = [f"{ident(name)} = {value}" for name, value in others.items()]
    return (
        f"UPDATE {target} t SET {', '.join(settings)}, {LOAD_ID} = {load_no}"
        f" FROM {source} s WHERE {same} AND {differs(others, types)}"
    )


def delete_same(target: str, source: str, key: Sequence[str]) -> str:
    """DELETE of the target's rows whose keys are in the source."""
    return f"DELETE FROM {target} t USING {source} s WHERE {same_key(key)}"


def mark_same(target: str, source: str, key: Sequence[str], deleted_at: str, load_no: int) -> str:
    """UPDATE of the target's rows whose keys are in the source: they are deleted since the time
    `deleted_at` (SQL)."""
    return (
        f"UPDATE {target} t SET {DELETED_AT} = {deleted_at}, {LOAD_ID} = {load_no}"
        f" FROM {source} s WHERE {same_key(key)} AND t.{DELETED_AT} IS NULL"
    )


def mark_gone(target: str, source: str, key: Sequence[str], deleted_at: str, load_no: int) -> str:
    """The same UPDATE of the rows that are no longer in the source."""
    return (
        f"UPDATE {target} t SET {DELETED_AT} = {deleted_at}, {LOAD_ID} = {load_no}"
        f" WHERE t.{DELETED_AT} IS NULL"
        f" AND NOT EXISTS (SELECT 1 FROM {source} s WHERE {same_key(key)})"
    )


def count_same(target: str, source: str, key: Sequence[str]) -> str:
    """SELECT of the number of the target's rows whose keys are in the source."""
    return f"SELECT count(*) FROM {target} t JOIN {source} s ON {same_key(key)}"


def delete_gone(target: str, source: str, key: Sequence[str]) -> str:
    """DELETE of the rows that are no longer in the source; of all rows without a key to compare
    them by."""
    delete = f"DELETE FROM {target} t"
    if key:
        delete += f" WHERE NOT EXISTS (SELECT 1 FROM {source} s WHERE {same_key(key)})"
    return delete


def ordered(cursor: str, type_name: str, prefix: str = "") -> str:
    """The cursor as it is compared: text byte by byte, because servers' collations differ."""
    column = f"{prefix}{ident(cursor)}"
    if type_name in TEXT_TYPES:
        column += ' COLLATE "C"'
    return column


def keep_newest(table: str, key: Sequence[str], cursor: str | None) -> str:
    """DELETE of all but one row per key: the newest by `cursor` (SQL), by arrival where cursors
    tie."""
    newest = "ctid DESC"
    if cursor:
        newest = f"{cursor} DESC NULLS LAST, {newest}"
    ranked = (
        f"SELECT ctid, row_number() OVER (PARTITION BY {idents(key)} ORDER BY {newest}) AS place"
        f" FROM {table}"
    )
    return f"DELETE FROM {table} t USING ({ranked}) s WHERE t.ctid = s.ctid AND s.place > 1"


def count_null_keys(table: str, key: Sequence[str]) -> str:
    """SELECT of the number of rows without a complete key."""
    is_null = " OR ".join(f"{ident(name)} IS NULL" for name in key)
    return f"SELECT count(*) FROM {table} WHERE {is_null}"


def has_duplicates(table: str, key: Sequence[str]) -> str:
    """SELECT of whether more than one row has the same key."""
    return f"SELECT EXISTS (SELECT FROM {table} GROUP BY {idents(key)} HAVING count(*) > 1)"


def count_guarded(target: str, source: str, key: Sequence[str], guard: str) -> str:
    """SELECT of the number of rows that the guard of a merge leaves out."""
    return (
        f"SELECT count(*) FROM {source} s JOIN {target} t ON {same_key(key)}"
        f" WHERE NOT coalesce({guard}, false)"
    )


def not_older(cursor: str, type_name: str, read_at: str) -> str:
    """The guard that an older version never overwrites a newer one.

    A target's cursor that is later than the moment of reading is not a newer version but a mistake
    (`infinity`, year 9999): it must not keep its row from being corrected. `read_at` is SQL, in the
    cursor's type, for the latest moment at which any of the target's rows was read: an increment
    that arrives late was itself read before the newer rows.
    """
    new = ordered(cursor, type_name, "s.")
    old = ordered(cursor, type_name, "t.")
    guard = f"{new} IS NULL OR {old} IS NULL OR {new} >= {old}"
    if type_name in TIME_TYPES:
        guard += f" OR {old} > {read_at}"
    return guard
