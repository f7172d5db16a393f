"""Ways to make a target equal to the rows of a temporary table; `bench.merging` compares them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadsheet.postgres import Session
from loadsheet.sql.text import Relation, idents
from loadsheet.warehouse import write
from loadsheet.warehouse.lookups import IndexLookup

TARGET, INCOMING = Relation("public", "target"), Relation("pg_temp", "incoming")
LOAD_NO = 2
Counts = tuple[int, int] | None  # inserted and updated, where the way can tell


@dataclass(frozen=True)
class Rows:
    """The shape of a target: its key, all its columns, those that may be NULL or long included."""

    key: tuple[str, ...]
    columns: tuple[str, ...]
    odd: tuple[str, ...] = ()  # columns of which equal values may look different: numeric, jsonb

    def mixed(self, source: str = "s") -> str:
        """The condition that the images differ, by `=` where that says the same (and so not of the
        key)."""
        plain = [
            f"t.{c} IS DISTINCT FROM {source}.{c}"
            for c in self.columns
            if c not in (*self.odd, *self.key)
        ]
        mine, theirs = idents(self.odd, "t."), idents(self.odd, f"{source}.")
        image = (
            [f"CAST(ROW({mine}) AS record) *<> CAST(ROW({theirs}) AS record)"] if self.odd else []
        )
        return f"({' OR '.join(plain + image)})"

    def settings(self, source: str = "s") -> str:
        """The SET list of an UPDATE."""
        return ", ".join(f"{c} = {source}.{c}" for c in self.columns) + f", _load_id = {LOAD_NO}"

    def same_key(self, source: str = "s") -> str:
        """The condition that `t` and the new row are the same."""
        return " AND ".join(f"t.{c} = {source}.{c}" for c in self.key)

    def image(self, source: str = "s") -> str:
        """The condition that the stored images differ."""
        mine, theirs = idents(self.columns, "t."), idents(self.columns, f"{source}.")
        return f"CAST(ROW({mine}) AS record) *<> CAST(ROW({theirs}) AS record)"

    def distinct(self, source: str = "s") -> str:
        """The condition that the values differ, by each type's own equality."""
        return (
            f"({idents(self.columns, 't.')}) IS DISTINCT FROM"
            f" ({idents(self.columns, f'{source}.')})"
        )

    def insert(self, rows: str) -> str:
        """INSERT of what `rows` (the rest of a SELECT, its table named s) holds."""
        names = idents(self.columns)
        return (
            f"INSERT INTO target AS t ({names}, _load_id) SELECT {idents(self.columns, 's.')},"
            f" {LOAD_NO} FROM {rows}"
        )


def _upsert(session: Session, rows: Rows, differs: str) -> Counts:
    do = f"ON CONFLICT ({idents(rows.key)}) DO UPDATE SET {rows.settings('excluded')}"
    session.execute(f"{rows.insert('incoming s')} {do}" + (f" WHERE {differs}" if differs else ""))
    return None


def _merge(session: Session, rows: Rows, differs: str) -> Counts:
    values = f"({idents(rows.columns)}, _load_id) VALUES ({idents(rows.columns, 's.')}, {LOAD_NO})"
    session.execute(
        f"MERGE INTO target t USING incoming s ON {rows.same_key()} WHEN MATCHED AND {differs} "
        f"THEN UPDATE SET {rows.settings()} WHEN NOT MATCHED THEN INSERT {values}"
    )
    return None


def _merge_by_index(session: Session, rows: Rows) -> Counts:
    IndexLookup(session).set(True)
    return _merge(session, rows, rows.mixed())


def _update_insert(session: Session, rows: Rows, differs: str) -> Counts:
    updated = session.execute(
        f"UPDATE target t SET {rows.settings()} FROM incoming s WHERE {rows.same_key()} AND"
        f" {differs}"
    ).rowcount
    missing = f"incoming s WHERE NOT EXISTS (SELECT FROM target t WHERE {rows.same_key()})"
    return session.execute(rows.insert(missing)).rowcount, updated


def _filter_rows(session: Session, rows: Rows, differs: str, at: str) -> Counts:
    """One pass that keeps whole rows that are new or differ; `at` joins them to the target."""
    found = session.execute(
        "CREATE TEMP TABLE changed ON COMMIT DROP AS SELECT s.*, t.ctid AS at FROM incoming s "
        f"LEFT JOIN target t ON {rows.same_key()} WHERE t.ctid IS NULL OR {differs}"
    ).rowcount
    if not found:
        return 0, 0
    updated = session.execute(
        f"UPDATE target t SET {rows.settings()} FROM changed s WHERE {at} AND s.at IS NOT NULL"
    ).rowcount
    return (
        session.execute(rows.insert("changed s WHERE at IS NULL")).rowcount
        if updated < found
        else 0
    ), updated


def _filter_ids(session: Session, rows: Rows, differs: str, at: str) -> Counts:
    """The same, but it keeps only where the rows are."""
    found = session.execute(
        "CREATE TEMP TABLE changed ON COMMIT DROP AS SELECT s.ctid AS mine, t.ctid AS at FROM"
        f" incoming s LEFT JOIN target t ON {rows.same_key()} WHERE t.ctid IS NULL OR {differs}"
    ).rowcount
    if not found:
        return 0, 0
    updated = session.execute(
        f"UPDATE target t SET {rows.settings()} FROM changed c JOIN incoming s ON s.ctid = c.mine "
        f"WHERE {at} AND c.at IS NOT NULL"
    ).rowcount
    new = "changed c JOIN incoming s ON s.ctid = c.mine WHERE c.at IS NULL"
    return (session.execute(rows.insert(new)).rowcount if updated < found else 0), updated


def _one_statement(session: Session, rows: Rows) -> Counts:
    """The pre-filter, the UPDATE and the INSERT as one statement of three."""
    row = session.execute(
        "WITH changed AS MATERIALIZED (SELECT s.*, t.ctid AS at FROM incoming s LEFT JOIN target t"
        f" ON {rows.same_key()} WHERE t.ctid IS NULL OR {rows.image()}), updated AS (UPDATE target"
        f" t SET {rows.settings()} FROM changed s WHERE t.ctid = s.at RETURNING 1), inserted AS"
        f" ({rows.insert('changed s WHERE at IS NULL')} RETURNING 1) SELECT (SELECT count(*) FROM"
        " inserted), (SELECT count(*) FROM updated)"
    ).fetchone()
    assert row
    return row[0], row[1]


def _delete_insert(session: Session, rows: Rows) -> Counts:
    session.execute(f"DELETE FROM target t USING incoming s WHERE {rows.same_key()}")
    session.execute(rows.insert("incoming s"))
    return None


def _loadsheet(session: Session, rows: Rows) -> Counts:
    effect = write.merge(session, INCOMING, TARGET, rows.key, LOAD_NO)
    return effect.inserted, effect.updated


def _md5(rows: Rows) -> str:
    mine, theirs = idents(rows.columns, "t."), idents(rows.columns, "s.")
    return f"md5(CAST(ROW({mine}) AS text)) <> md5(CAST(ROW({theirs}) AS text))"


WAYS: dict[str, Callable[[Session, Rows], Counts]] = {
    "upsert, unguarded": lambda s, r: _upsert(s, r, ""),
    "upsert, distinct": lambda s, r: _upsert(s, r, r.distinct("excluded")),
    "upsert, image": lambda s, r: _upsert(s, r, r.image("excluded")),
    "merge, distinct": lambda s, r: _merge(s, r, r.distinct()),
    "merge, image": lambda s, r: _merge(s, r, r.image()),
    "update + insert, image": lambda s, r: _update_insert(s, r, r.image()),
    "update + insert, md5": lambda s, r: _update_insert(s, r, _md5(r)),
    "filter rows, by key": lambda s, r: _filter_rows(s, r, r.image(), r.same_key()),
    "filter rows, by ctid": lambda s, r: _filter_rows(s, r, r.image(), "t.ctid = s.at"),
    "filter ids, by key": lambda s, r: _filter_ids(s, r, r.image(), r.same_key()),
    "filter ids, by ctid": lambda s, r: _filter_ids(s, r, r.image(), "t.ctid = c.at"),
    "one statement": lambda s, r: _one_statement(s, r),
    "merge, mixed": lambda s, r: _merge(s, r, r.mixed()),
    "merge, by index": _merge_by_index,
    "update + insert, mixed": lambda s, r: _update_insert(s, r, r.mixed()),
    "filter rows, mixed": lambda s, r: _filter_rows(s, r, r.mixed(), r.same_key()),
    "filter rows, mixed, ctid": lambda s, r: _filter_rows(s, r, r.mixed(), "t.ctid = s.at"),
    "delete + insert": _delete_insert,
    "loadsheet": _loadsheet,
}
LOOSE = ("upsert, unguarded", "delete + insert")  # write what does not differ, too: not checked
