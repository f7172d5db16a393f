"""What a merge writes: the rows that differ, whatever was sent; measured in WAL and seen in the
rows' own headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from loadsheet.sql.merging import Merge, differs
from loadsheet.sql.text import Relation
from loadsheet.sql.types import SAME_WHEN_EQUAL
from loadsheet.warehouse import write
from tests.project import Project

ROWS = 20_000
CREATE = f"""
CREATE TABLE item (
    id int PRIMARY KEY, name text, price numeric, doc jsonb, at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO item SELECT i, 'name ' || i, i, NULL FROM generate_series(1, {ROWS}) i
"""
# each run sends every row again
EVERYTHING = {"item": {"incremental": {"cursor": "at", "lookback": "1d"}}}
HEADERS = "SELECT id, ctid::text, xmin::text, xmax::text FROM staging.item ORDER BY id"
UPSERT = """
INSERT INTO staging.item SELECT * FROM staging.item ON CONFLICT (id) DO UPDATE SET
name = excluded.name, price = excluded.price, doc = excluded.doc, at = excluded.at,
_load_id = excluded._load_id {}
"""
GUARDED = UPSERT.format("WHERE CAST(item AS record) *<> CAST(excluded AS record)")


def loaded(project: Project) -> Project:
    project.in_source(CREATE)
    project.spec(EVERYTHING)
    project.succeed()
    return project


def wal(project: Project, act: Callable[[], Any]) -> int:
    """The bytes of WAL that the server writes meanwhile."""
    [(before,)] = project.in_warehouse("SELECT pg_current_wal_insert_lsn()::text")
    act()
    [(written,)] = project.in_warehouse(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", before
    )
    return int(written)


def effect(project: Project) -> tuple[Any, ...]:
    return project.in_warehouse(
        "SELECT extracted, inserted, updated FROM loadsheet.load ORDER BY load_no DESC LIMIT 1"
    )[0]


def test_wal_grows_with_the_rows_that_differ_and_not_with_the_rows_sent(project: Project) -> None:
    loaded(project)
    written = {}
    for changed in (0, 200, 2_000):
        project.in_source("UPDATE item SET name = name || '!' WHERE id <= %s", changed)
        written[changed] = wal(project, project.succeed)
        assert effect(project) == (ROWS, 0, changed)
    assert project.differences("item") == 0
    naive = wal(project, lambda: project.in_warehouse(UPSERT.format("")))
    few, many = written[200] - written[0], written[2_000] - written[0]
    # A tenth of the rows should cost about a tenth of what all of them do.
    assert many < naive / 4 and few < naive / 20, (written, naive)
    assert written[0] < naive / 4, (written, naive)
    assert many > few


def test_rows_that_do_not_differ_stay_where_they_are_unlocked(project: Project) -> None:
    loaded(project)
    before = project.in_warehouse(HEADERS)
    project.succeed()
    assert effect(project) == (ROWS, 0, 0)
    assert project.in_warehouse(HEADERS) == before
    project.in_source("UPDATE item SET price = 7.00 WHERE id IN (7, 8)")
    project.succeed()
    assert effect(project) == (ROWS, 0, 2)
    after = project.in_warehouse(HEADERS)
    assert {old[0] for old, new in zip(before, after, strict=True) if old != new} == {7, 8}
    # An upsert locks each row it meets, even if its guard then leaves the row alone.
    project.in_warehouse(GUARDED)
    assert all(old != new for old, new in zip(after, project.in_warehouse(HEADERS), strict=True))


JOIN_IN_BATCHES = """
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET work_mem = ''64kB''', current_database());
END $$
"""
# By no column's order: rows that arrive in the target's order are looked up by its key's index.
SHUFFLE = """
CREATE TABLE shuffled AS SELECT * FROM item ORDER BY md5(id::text);
TRUNCATE item;
INSERT INTO item SELECT * FROM shuffled
"""
KEEP_PLACES = "CREATE TABLE places AS SELECT id, ctid AS place FROM staging.item"
OUT_OF_ORDER = """
SELECT count(*) FROM (
    SELECT place < lag(place) OVER (ORDER BY item.ctid) AS is_out
    FROM staging.item JOIN places USING (id)
) placed WHERE is_out
"""


@pytest.mark.parametrize("in_order", [True, False])
def test_many_changed_rows_are_written_in_the_order_of_the_pages_that_have_them(
    project: Project, monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    """A page is then read and written once, also where the target is larger than the server's
    memory. The control: in the order in which a hash join finds them."""
    if not in_order:
        update = Merge.update_found
        monkeypatch.setattr(Merge, "update_found", lambda self, in_order: update(self, False))
    project.in_warehouse(JOIN_IN_BATCHES)
    project.in_source(CREATE)
    project.in_source(SHUFFLE)
    project.spec(EVERYTHING)
    project.succeed()
    project.in_warehouse(KEEP_PLACES)
    project.in_source("UPDATE item SET name = name || '!'")
    project.succeed()
    assert effect(project) == (ROWS, 0, ROWS) and project.differences("item") == 0
    [(out_of_order,)] = project.in_warehouse(OUT_OF_ORDER)
    # Once for each batch of the join; the last page takes new rows first.
    assert out_of_order <= 1 if in_order else out_of_order > 10, out_of_order


def test_a_long_value_that_is_the_same_is_not_written_again(project: Project) -> None:
    loaded(project)
    project.in_source(
        "UPDATE item SET doc = (SELECT jsonb_agg(md5((item.id + n)::text)) FROM generate_series(1,"
        " 300) n) WHERE id <= 20"
    )
    project.succeed()
    [(toast,)] = project.in_warehouse(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'staging.item'::regclass"
    )
    pieces = f"SELECT chunk_id, chunk_seq, xmin::text, xmax::text FROM {toast} ORDER BY 1, 2"
    before = project.in_warehouse(pieces)
    assert len(before) > 20
    project.in_source("UPDATE item SET name = 'other' WHERE id <= 10")
    project.succeed()
    assert effect(project) == (ROWS, 0, 10)
    assert project.in_warehouse(pieces) == before
    project.in_source(
        "UPDATE item SET doc = doc || '[1]' WHERE id = 5; UPDATE item SET doc = NULL WHERE id = 6"
    )
    project.succeed()
    assert effect(project) == (ROWS, 0, 2)
    assert project.differences("item") == 0
    # Set to a copy of itself, a value is written again.
    project.in_warehouse("UPDATE staging.item SET doc = doc || '[]'")
    assert project.in_warehouse(pieces) != before


def test_new_long_rows_are_merged_beside_changed_ones(project: Project) -> None:
    """They come from where they arrived, by another statement than others; here looked up by key,
    and not."""
    loaded(project)
    project.spec({"item": {"incremental": "at"}})
    document = "(SELECT jsonb_agg(md5(({} + n)::text)) FROM generate_series(1, 100) n)"
    project.in_source(
        f"UPDATE item SET doc = {document.format('item.id')}, at = now() WHERE id <= 2000"
    )
    project.succeed()
    in_and_outside = "pg_relation_size(oid), pg_relation_size(reltoastrelid) FROM pg_class"
    [(inside, outside)] = project.in_warehouse(
        f"SELECT {in_and_outside} WHERE oid = 'staging.item'::regclass"
    )
    assert outside > inside
    for first, new in ((ROWS, 3), (2 * ROWS, ROWS // 4)):
        project.in_source(
            f"INSERT INTO item (id, name, price, doc) SELECT {first} + i, 'new', 1.50,"
            f" {document.format('i')} FROM generate_series(1, {new}) i; UPDATE item SET price ="
            f" {new}, at = now() WHERE id IN (5, 6, 7)"
        )
        project.succeed()
        assert effect(project) == (new + 3, new, 3)
        assert project.differences("item") == 0


WRITTEN_TWICE = {
    "smallint": "'1', '01', '-0', '0'",
    "integer": "'1', '+1'",
    "bigint": "'1', '01'",
    "oid": "'1', '01'",
    "boolean": "'t', 'yes', 'on', '1', 'f'",
    "bytea": r"'\x61', 'a', '\141', ''",
    "text": "'a', 'a ', 'A', ''",
    "character varying": "'a', 'a ', ''",
    "date": "'2026-01-02', '20260102', 'infinity'",
    "uuid": "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc999c0b4ef8bb6d6bb9bd380a11}'",
    "time without time zone": "'24:00', '00:00', '0:00:00.000'",
    "timestamp with time zone": (
        "'2026-01-01 00:00Z', '2026-01-01 01:00+01', '2025-12-31 24:00Z', '-infinity'"
    ),
    "timestamp without time zone": "'2026-01-01', '2025-12-31 24:00', 'infinity'",
}
LOOSE = {
    "numeric": "'1.0', '1.00'",
    "interval": "'1 mon', '30 days'",
    "double precision": "'0', '-0'",
    "bpchar": "'a', 'a '",
    "numeric[]": "'{1.0}', '{1.00}'",
    "jsonb": "'1.0', '1.00'",
}


@pytest.mark.parametrize("kind", [*SAME_WHEN_EQUAL, *LOOSE])
def test_equality_is_trusted_only_where_equal_values_are_the_same(
    connection: psycopg.Connection, kind: str
) -> None:
    values = f"unnest(CAST(ARRAY[{(WRITTEN_TWICE | LOOSE)[kind]}] AS text[])) AS"
    values = f"SELECT CAST(v AS {kind}) AS v FROM {values} x (v)"
    pairs = (
        f"FROM ({values}) t, ({values}) s WHERE t.v = s.v AND CAST(ROW(t.v) AS record) *<>"
        " CAST(ROW(s.v) AS record)"
    )
    hidden = connection.execute(f"SELECT count(*) {pairs}").fetchone()
    assert hidden and bool(hidden[0]) == (kind in LOOSE)
    seen = connection.execute(
        f"SELECT count(*) {pairs} AND {differs({'v': 's.v'}, {'v': kind})}"
    ).fetchone()
    assert seen == hidden


class Meddled:
    """A session before whose statement that starts with `word` somebody else acts."""

    def __init__(self, session: psycopg.Connection, word: str, act: Callable[[], Any]):
        self.session, self.word, self.act = session, word, act

    def execute(self, statement: str, *more: Any) -> psycopg.Cursor:
        if statement.startswith(self.word):
            self.act()
        return self.session.execute(statement, *more)


@contextmanager
def two_rows_arriving(database: str) -> Iterator[psycopg.Connection]:
    """A session in whose temporary table `arrived` both rows of `target` (1, 2) are new versions,
    and 3 is new."""
    with psycopg.connect(database) as session:
        session.execute(
            "CREATE TABLE target AS SELECT i AS id, 'old' AS v, 1::numeric AS n FROM"
            " generate_series(1, 2) i"
        )
        session.execute("ALTER TABLE target ADD PRIMARY KEY (id)")
        session.commit()
        session.execute(
            "CREATE TEMP TABLE arrived AS SELECT i AS id, 'new' AS v, 1.0 AS n FROM"
            " generate_series(1, 3) i"
        )
        yield session


def test_rows_that_somebody_else_moves_during_the_merge_are_updated(database: str) -> None:
    def move() -> None:
        with psycopg.connect(database) as other:
            other.execute("UPDATE target SET v = 'theirs' WHERE id = 1")

    # test_merging_at_once.py has a merge by index. Without statistics this is none.
    with two_rows_arriving(database) as session:
        meddled: Any = Meddled(session, "UPDATE", move)
        done = write.merge(
            meddled, Relation("pg_temp", "arrived"), Relation("public", "target"), ("id",), None
        )
        assert (done.inserted, done.updated) == (1, 2)
        rows = session.execute("SELECT id, v, n::text FROM target ORDER BY id").fetchall()
        assert rows == [(1, "new", "1.0"), (2, "new", "1.0"), (3, "new", "1.0")]


@pytest.mark.parametrize("theirs", ["DELETE FROM target", "UPDATE target SET id = -id"])
@pytest.mark.parametrize("is_inserted", [True, False])
def test_rows_that_somebody_else_takes_away_during_the_merge_are_inserted(
    database: str, monkeypatch: pytest.MonkeyPatch, theirs: str, is_inserted: bool
) -> None:
    """The control, as it was before: they were missing until they changed again."""
    if not is_inserted:
        monkeypatch.setattr(Merge, "insert_gone", lambda self: "SELECT WHERE false")

    def take_away() -> None:
        with psycopg.connect(database) as other:
            other.execute(f"{theirs} WHERE id = 1")

    with two_rows_arriving(database) as session:
        meddled: Any = Meddled(session, "UPDATE", take_away)
        done = write.merge(
            meddled, Relation("pg_temp", "arrived"), Relation("public", "target"), ("id",), None
        )
        rows = session.execute("SELECT id, v FROM target WHERE id > 0 ORDER BY id").fetchall()
        expected = [(1, "new"), (2, "new"), (3, "new")]
        assert rows == (expected if is_inserted else expected[1:])
        assert (done.inserted, done.updated) == (2 if is_inserted else 1, 1)
