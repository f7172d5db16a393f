"""A merge in one statement: what it writes and counts is what the slower way does, and it is taken
only where nothing on the target could make a difference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from loadsheet.errors import Overtaken, Refused
from loadsheet.sql import merging as statements
from loadsheet.sql.text import Relation
from loadsheet.warehouse import lookups, side_effects, tables, write
from tests.byhand import wait_until

ARRIVED, TARGET = Relation("pg_temp", "arrived"), Relation("public", "target")
LOAD_NO = 7
ROWS = 4_000
CREATE = f"""
CREATE TABLE target AS SELECT * FROM (
SELECT i AS id, i / 3 AS part, 'name ' || i AS name, i::numeric AS price,
    repeat(md5(i::text), i % 7) AS doc, CAST(NULL AS text) AS own, 1::bigint AS _load_id
FROM generate_series(1, {ROWS}) i
) loaded ORDER BY {{order}};
ALTER TABLE target ALTER doc SET STORAGE external, ADD PRIMARY KEY (id);
ANALYZE target
"""
# Of the rows with `id` up to a limit, a third stays, a third has another name, the rest another
# image of the same price; and as many new rows.
ARRIVE = """
CREATE TEMP TABLE arrived ON COMMIT DROP AS SELECT * FROM (
SELECT id, part, CASE id % 3 WHEN 1 THEN 'new ' || id ELSE name END AS name,
    CASE id % 3 WHEN 2 THEN round(price, 2) ELSE price END AS price, doc
FROM target WHERE id % {every} = 0
UNION ALL SELECT {rows} + i, i, 'new', i, repeat(md5(i::text), 90)
FROM generate_series(1, {rows} / {every}) i
) arriving ORDER BY {order}
"""
ORDERS = {"in order": "id", "in any order": "md5(id::text)"}
# The rows of the target after the merge, and how many are written, by a join of all rows.
EXPECTED = """
CREATE TEMP TABLE expected AS
SELECT coalesce(s.id, t.id) AS id,
    CASE WHEN s.id IS NULL THEN t.part ELSE s.part END AS part,
    CASE WHEN s.id IS NULL THEN t.name ELSE s.name END AS name,
    CASE WHEN s.id IS NULL THEN t.price ELSE s.price END AS price,
    CASE WHEN s.id IS NULL THEN t.doc ELSE s.doc END AS doc, t.own,
    CASE WHEN s.id IS NULL OR CAST(ROW(t.id, t.part, t.name, t.price, t.doc) AS record)
        *= CAST(ROW(s.id, s.part, s.name, s.price, s.doc) AS record)
        THEN t._load_id ELSE 7 END AS _load_id,
    t.id IS NULL AS is_new, t.ctid AS place
FROM target t FULL JOIN arrived s ON s.id = t.id
"""
DIFFERENCES = """
SELECT count(*) FROM target t FULL JOIN expected e ON e.id = t.id
WHERE t.id IS NULL OR e.id IS NULL
   OR CAST(ROW(t.id, t.part, t.name, t.price, t.doc, t.own, t._load_id) AS record)
    *<> CAST(ROW(e.id, e.part, e.name, e.price, e.doc, e.own, e._load_id) AS record)
   OR (e._load_id <> 7 AND t.ctid <> e.place)
"""
# What hangs on the target, and whether the merge in one statement is right nevertheless.
SUPPRESSES = """
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.id % 2 = 0 THEN RETURN NULL; END IF; RETURN new; END $$;
CREATE TRIGGER keep BEFORE INSERT OR UPDATE ON target FOR EACH ROW EXECUTE FUNCTION keep()
"""
WRITES = """
CREATE FUNCTION add() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.id < 100000 THEN
        INSERT INTO target (id, _load_id) VALUES (new.id + 100000, 0) ON CONFLICT DO NOTHING;
    END IF; RETURN new; END $$;
CREATE TRIGGER add AFTER UPDATE ON target FOR EACH ROW EXECUTE FUNCTION add()
"""
REFERS = """
CREATE TABLE child (id int REFERENCES target);
INSERT INTO child SELECT id FROM target WHERE id % 50 = 0
"""
HARMLESS = {
    "nothing": "",
    "an index": "CREATE INDEX ON target (name)",
    "a check": "ALTER TABLE target ADD CHECK (price >= 0)",
    "a default": "ALTER TABLE target ALTER own SET DEFAULT NULL",
    "a generated column": (
        "ALTER TABLE target ADD twice numeric GENERATED ALWAYS AS (price * 2) STORED"
    ),
    "a view": "CREATE VIEW seen AS SELECT * FROM target",
    "a publication": "CREATE PUBLICATION p FOR TABLE target",
}
ACTS = {
    "a foreign key": REFERS,
    "a rule": (
        "CREATE TABLE note (); CREATE RULE r AS ON UPDATE TO target DO ALSO DELETE FROM note"
    ),
    "a policy": "ALTER TABLE target ENABLE ROW LEVEL SECURITY",
    "a unique index": "CREATE UNIQUE INDEX ON target (id, name)",
    "an exclusion": "ALTER TABLE target ADD EXCLUDE USING btree (id WITH =)",
    "a trigger": WRITES.replace("AFTER UPDATE", "AFTER DELETE"),
    "a child": "CREATE TABLE child () INHERITS (target)",
    "a partitioned table": """
        CREATE TABLE whole (LIKE target) PARTITION BY LIST (id);
        ALTER TABLE whole ATTACH PARTITION target DEFAULT
    """,
    "another storage": """
        CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;
        ALTER TABLE target SET ACCESS METHOD other
    """,
    "a replica identity": "ALTER TABLE target REPLICA IDENTITY FULL",
    "a publication of columns": "CREATE PUBLICATION p FOR TABLE target (id, name)",
    "a publication of rows": "CREATE PUBLICATION p FOR TABLE target WHERE (id > 0)",
}


@pytest.fixture(autouse=True)
def many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From which size on the target's order is asked for."""
    monkeypatch.setattr(lookups, "_MANY_BYTES", 1_000)


class Watched(psycopg.Connection[Any]):
    """A session that remembers what was asked."""

    statements: list[str]

    def execute(self, query: Any, *more: Any, **options: Any) -> Any:
        vars(self).setdefault("statements", []).append(str(query))
        return super().execute(query, *more, **options)

    @property
    def merges(self) -> int:
        """The merges in one statement."""
        return sum(statement.startswith("MERGE") for statement in self.statements)


def watched(database: str, hung: str, places: str = "in order") -> Watched:
    """A session that has made the target, with what hangs on it, its rows in the order `places`."""
    session = Watched.connect(database)
    session.execute(CREATE.format(order=ORDERS[places]))
    session.execute(hung)
    session.commit()
    return session


def arrive(session: Watched, every: int, order: str = "in order") -> tuple[int, int]:
    """Let rows arrive; the rows to insert and to update."""
    rows = ARRIVE.format(every=every, rows=ROWS, order=ORDERS[order])
    session.execute(rows)
    session.execute(EXPECTED)
    [counts] = session.execute(
        "SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new AND _load_id = 7)"
        " FROM expected"
    ).fetchall()
    return counts


def merge(session: Watched, arrived: int | None = None) -> tuple[int, int]:
    """The rows that a merge says it has inserted and updated."""
    effect = write.merge(session, ARRIVED, TARGET, ("id",), LOAD_NO, arrived=arrived)
    return effect.inserted, effect.updated


def differences(session: Watched) -> int:
    [(count,)] = session.execute(DIFFERENCES).fetchall()
    return int(count)


@pytest.mark.parametrize("hung", [*HARMLESS, *ACTS])
@pytest.mark.parametrize(
    ("every", "order", "places", "by_index"),
    [
        (20, "in order", "in order", True),
        (20, "in any order", "in any order", True),
        (5, "in order", "in order", True),
        (5, "in any order", "in order", True),
        (5, "in order", "in any order", False),
        (1, "in order", "in order", False),
    ],
)
def test_a_merge_writes_and_counts_the_rows_that_differ_whatever_hangs_on_the_target(
    database: str, hung: str, every: int, order: str, places: str, by_index: bool
) -> None:
    with watched(database, (HARMLESS | ACTS)[hung], places) as session:
        expected = arrive(session, every, order)
        assert all(expected)
        assert merge(session) == expected
        assert differences(session) == 0
        assert session.merges == (by_index and hung in HARMLESS)


# The new versions of a table's rows lie after all others, or in the gap that their page has: where
# one lies before another tells which was written first.
KEEP_PLACES = "CREATE TEMP TABLE places AS SELECT id, ctid AS place FROM target"
BACK = """
SELECT count(*) FROM (
    SELECT place < lag(place) OVER (ORDER BY target.ctid) AS is_back
    FROM target JOIN places USING (id) WHERE _load_id = 7
) written WHERE is_back
"""


@pytest.mark.parametrize("is_read_in_order", [True, False])
@pytest.mark.parametrize("hung", ["", REFERS])
@pytest.mark.parametrize("every", [5, 20])
def test_rows_that_arrive_in_any_order_are_written_in_the_order_of_the_targets_pages(
    database: str, monkeypatch: pytest.MonkeyPatch, every: int, hung: str, is_read_in_order: bool
) -> None:
    """A page is then read and written once, also where the target is larger than the server's
    memory. The control: in the order in which they arrive."""
    if not is_read_in_order:
        monkeypatch.setattr(statements, "in_key_order", lambda source, *_: source)
    with watched(database, hung) as session:
        session.execute(KEEP_PLACES)
        expected = arrive(session, every, "in any order")
        assert merge(session) == expected
        [(back,)] = session.execute(BACK).fetchall()
        assert back <= 10 if is_read_in_order else back > 50, back


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("every", [5, 20])
def test_rows_that_arrive_in_the_keys_order_are_not_sorted(
    database: str, every: int, order: str
) -> None:
    """It would cost a quarter of the merge."""
    with watched(database, "") as session:
        expected = arrive(session, every, order)
        assert merge(session) == expected
        [statement] = [one for one in session.statements if one.startswith("MERGE")]
        assert ("ORDER BY" in statement) == (order == "in any order")


TEXT_KEY = """
CREATE TABLE target (id text PRIMARY KEY, name text);
INSERT INTO target SELECT i, 'old' FROM generate_series(1000, 9999) i;
ANALYZE target;
CREATE TEMP TABLE arrived AS
SELECT i AS id, 'new' AS name FROM generate_series(9500, 10499) i ORDER BY md5(i::text)
"""


def test_rows_are_read_in_the_order_of_the_keys_type_in_the_target(database: str) -> None:
    """The target keeps the type of a column that the source has altered."""
    with Watched.connect(database) as session:
        session.execute(TEXT_KEY)
        done = write.merge(session, ARRIVED, TARGET, ("id",), None)
        assert (done.inserted, done.updated, session.merges) == (500, 500, 1)


TWO_COLUMNS = """
CREATE TABLE target AS SELECT i AS a, md5(i::text) AS b, i AS id, 0 AS _load_id
FROM generate_series(1, 4000) i;
ALTER TABLE target ADD PRIMARY KEY (a, b);
ANALYZE target;
CREATE TEMP TABLE arrived AS
SELECT a, b, -id AS id FROM target WHERE a % 5 = 0 ORDER BY b
"""


def test_the_order_is_that_of_the_primary_key_however_the_spec_names_its_columns(
    database: str,
) -> None:
    with Watched.connect(database) as session:
        session.execute(TWO_COLUMNS)
        done = write.merge(session, ARRIVED, TARGET, ("b", "a"), LOAD_NO)
        assert (done.updated, session.merges) == (800, 1)
        [(back,)] = session.execute(
            "SELECT count(*) FROM (SELECT a < lag(a) OVER (ORDER BY ctid) AS is_back FROM target"
            " WHERE _load_id = 7) written WHERE is_back"
        ).fetchall()
        assert back <= 10


def test_of_few_rows_the_order_is_not_asked_for(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a small target a merge takes no longer than that question."""
    monkeypatch.setattr(lookups, "_MANY_BYTES", 4_000_000)
    with watched(database, "") as session:
        expected = arrive(session, 5)
        assert merge(session, sum(expected) + 1) == expected
        assert session.merges == 0
        assert not [one for one in session.statements if "pg_stats" in one]


@pytest.mark.parametrize(
    ("every", "places", "part", "by_index", "in_order"),
    [
        (20, "in order", 2, True, True),
        (20, "in order", 8, True, True),
        (20, "in any order", 2, True, False),
        (5, "in order", 2, True, True),
        (5, "in order", 8, False, False),
        (5, "in any order", 2, False, False),
    ],
)
def test_rows_to_fill_or_delete_are_looked_up_in_the_order_of_the_targets_pages(
    database: str, every: int, places: str, part: int, by_index: bool, in_order: bool
) -> None:
    with watched(database, "", places) as session:
        arrive(session, every, "in any order")
        with lookups.lookup_of(session, ARRIVED, TARGET, ("id",), part) as source:
            read = session.execute(f"SELECT id FROM {source} s").fetchall()
            assert session.execute("SHOW enable_hashjoin").fetchone() == (
                "off" if by_index else "on",
            )
        assert (read == sorted(read)) == in_order
        assert session.execute("SHOW enable_hashjoin").fetchone() == ("on",)


def test_rows_that_the_transaction_has_inserted_before_are_not_counted(database: str) -> None:
    with watched(database, "") as session:
        session.execute("INSERT INTO target (id, part) SELECT -i, 0 FROM generate_series(1, 50) i")
        with session.transaction():
            session.execute("INSERT INTO target (id, part) VALUES (-100, 0)")
        expected = arrive(session, 20)
        assert merge(session) == expected
        assert session.merges == 1


def test_a_known_number_of_rows_needs_no_statistics(database: str) -> None:
    with watched(database, "") as session:
        assert merge(session, sum(arrive(session, 20)) + 1) is not None
        assert session.merges == 1
        assert not [one for one in session.statements if one.startswith('ANALYZE "pg_temp"')]


def test_where_the_server_does_not_count_rows_the_merge_does(database: str) -> None:
    with watched(database, "") as session:
        session.execute("SET track_counts = off")
        expected = arrive(session, 20)
        assert merge(session) == expected
        assert session.merges == 0 and differences(session) == 0


def test_rows_that_are_one_by_the_targets_key_are_refused(database: str) -> None:
    """The other way would update the target's row with one of them, and lose the other."""
    with watched(database, "") as session:
        session.execute(
            "CREATE TEMP TABLE arrived ON COMMIT DROP AS"
            " SELECT id + i / 10.0 AS id, part, 'new' AS name, price, doc"
            " FROM target, generate_series(1, 2) i WHERE id < 3"
        )
        with pytest.raises(
            Refused, match=r"public\.target: rows .* the same by .*\(id\)"
        ) as raised:
            merge(session)
        # Its advice, to correct a subquery, would be added.
        assert raised.value.__cause__ is None


@contextmanager
def merging_meanwhile(session: Watched, other: psycopg.Connection[Any]) -> Iterator[list[Any]]:
    """A merge that waits for what `other` has not committed yet, and commits within. Gives the
    counts of the merge, or what it has raised, when it has ended."""
    found: list[Any] = []

    def attempt() -> None:
        try:
            found.append(merge(session))
        except (Overtaken, Refused) as error:
            found.append(type(error))

    merging = threading.Thread(target=attempt)
    merging.start()
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s"
    pid = session.info.backend_pid
    wait_until(lambda: bool(other.execute(waits, (pid,)).fetchall()), "the merge to wait")
    other.commit()
    merging.join(30)
    yield found


def test_a_row_that_somebody_else_writes_during_the_merge_gets_the_new_values(
    database: str,
) -> None:
    with watched(database, "") as session, psycopg.connect(database) as other:
        expected = arrive(session, 20)
        other.execute("UPDATE target SET name = 'theirs', own = 'theirs' WHERE id = 40")
        with merging_meanwhile(session, other) as found:
            assert found == [expected]
        row = session.execute("SELECT name, own, _load_id FROM target WHERE id = 40").fetchone()
        assert row == ("new 40", "theirs", LOAD_NO)


@pytest.mark.parametrize("theirs", ["DELETE FROM target", "UPDATE target SET id = -id"])
def test_a_row_that_somebody_else_takes_away_during_the_merge_is_inserted(
    database: str, theirs: str
) -> None:
    with watched(database, "") as session, psycopg.connect(database) as other:
        inserted, updated = arrive(session, 20)
        other.execute(f"{theirs} WHERE id = 40")
        with merging_meanwhile(session, other) as found:
            assert found == [(inserted + 1, updated - 1)]
        row = session.execute("SELECT name, own, _load_id FROM target WHERE id = 40").fetchone()
        assert row == ("new 40", None, LOAD_NO)


@pytest.mark.parametrize("key", [40, ROWS + 1])
def test_a_row_that_somebody_else_inserts_during_the_merge_asks_for_a_retry(
    database: str, key: int
) -> None:
    """It is merged by the retry, which sees the row."""
    with watched(database, "") as session, psycopg.connect(database) as other:
        arrive(session, 20)
        other.execute("DELETE FROM target WHERE id = %s", (key,))
        other.execute("INSERT INTO target (id, name, _load_id) VALUES (%s, 'theirs', 0)", (key,))
        with merging_meanwhile(session, other) as found:
            assert found == [Overtaken]
        session.rollback()
        expected = arrive(session, 20)
        assert merge(session) == expected and differences(session) == 0


def trust(monkeypatch: pytest.MonkeyPatch, *queries: str) -> None:
    """Let these queries find that the target takes a MERGE, whatever hangs on it."""
    for name in queries:
        query = getattr(tables, name).replace(tables._TAKES_MERGE, "true")
        monkeypatch.setattr(tables, name, query.replace(tables._IS_PLAIN, "true"))


# Rows that are kept back, by a trigger that no other session sees before it is committed. The way
# depends on how the target's rows lie.
MEANWHILE = {"one statement": "in order", "steps": "in any order"}


@pytest.mark.parametrize("way", MEANWHILE)
@pytest.mark.parametrize("is_seen", [True, False])
def test_a_trigger_that_somebody_adds_meanwhile_keeps_no_row_unseen(
    database: str, monkeypatch: pytest.MonkeyPatch, way: str, is_seen: bool
) -> None:
    """The control does not look again after the rows are written."""
    if not is_seen:
        trust(monkeypatch, "_AFTER_MERGE")
        monkeypatch.setattr(side_effects, "suppressing_triggers", lambda *_: [])
    with (
        watched(database, "", MEANWHILE[way]) as session,
        psycopg.connect(database) as other,
    ):
        expected = arrive(session, 5)
        other.execute(SUPPRESSES)
        with merging_meanwhile(session, other) as found:
            pass
        assert session.merges == (way == "one statement")
        if is_seen:
            assert found == [Overtaken if way == "one statement" else Refused]
        else:
            [counts] = found
            assert sum(counts) < sum(expected)


def test_an_error_of_somebodys_function_is_not_taken_for_rows_that_are_one(database: str) -> None:
    twice = """
    CREATE FUNCTION twice(v int) RETURNS bool LANGUAGE sql AS
        'SELECT (SELECT i > 0 FROM generate_series(1, 1 + $1 / 20) i)';
    ALTER TABLE target ADD CHECK (twice(id)) NOT VALID
    """
    with watched(database, twice) as session:
        arrive(session, 20)
        with pytest.raises(psycopg.errors.CardinalityViolation, match="subquery"):
            merge(session)


UNSAFE = {
    "a trigger that keeps rows": (SUPPRESSES, Refused),
    "a trigger that writes further rows": (WRITES, None),
    "a rule": (ACTS["a rule"], None),
}


@pytest.mark.parametrize("hung", UNSAFE)
@pytest.mark.parametrize("is_trusted", [False, True])
def test_where_something_acts_on_written_rows_one_statement_would_be_wrong(
    database: str, monkeypatch: pytest.MonkeyPatch, hung: str, is_trusted: bool
) -> None:
    """`is_trusted` is the control: every target is taken for one on which nothing hangs."""
    if is_trusted:
        trust(monkeypatch, "_BEFORE_MERGE", "_AFTER_MERGE")
    statement, refusal = UNSAFE[hung]
    with watched(database, statement) as session:
        expected = arrive(session, 20)

        def is_right() -> bool:
            try:
                counts = merge(session)
            except Refused:
                return refusal is Refused
            except psycopg.Error:
                return False
            return counts == expected and refusal is None

        assert is_right() != is_trusted
