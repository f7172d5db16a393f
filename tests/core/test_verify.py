"""`loadsheet verify`: each damaged row is found and named, and no row that is merely newer."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from loadsheet.comparison.digest import BUCKETS, Side, Value
from loadsheet.errors import Unavailable
from loadsheet.sql.text import Relation
from loadsheet.verify import pipeline as verify_pipeline_module
from loadsheet.verify.models import TableVerdict
from tests.project import Project

CREATE = """
CREATE TABLE item (
    id bigint, part int, name text, price numeric, weight double precision, doc json,
    at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (id, part)
);
INSERT INTO item (id, part, name, price, weight, doc)
SELECT i, i % 3, 'name ' || i, i / 7.0, i / 3.0, '{"a": 1.0}' FROM generate_series(1, 3000) i;
"""
A_VIEW = {"materialized": "view"}
MODES = {"merge": {"incremental": "at"}, "replace": None}


def counts(verdict: TableVerdict) -> dict[str, int]:
    return {kind: count for kind, count in verdict.counts.items() if count}


# What is done to row `id`, and what must be found: the kind and the columns.
DAMAGES: list[tuple[str, int, str, list[str]]] = [
    ("DELETE FROM staging.item WHERE id = 7", 7, "missing", []),
    ("INSERT INTO staging.item (id, part, _load_id) VALUES (9999, 0, 1)", 9999, "extra", []),
    ("UPDATE staging.item SET name = 'name 8 ' WHERE id = 8", 8, "different", ["name"]),
    ("UPDATE staging.item SET name = NULL WHERE id = 8", 8, "different", ["name"]),
    ("UPDATE staging.item SET price = 1.0 WHERE id = 7", 7, "different", ["price"]),
    ("UPDATE staging.item SET weight = '-0' WHERE id = 7", 7, "different", ["weight"]),
    ("UPDATE staging.item SET doc = '{\"a\": 1.00}' WHERE id = 7", 7, "different", ["doc"]),
    ("UPDATE staging.item SET at = now(), name = '' WHERE id = 9", 9, "different", ["name", "at"]),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hash", ["server", "md5"])
def test_one_damaged_row_is_found_and_named(
    project: Project, mode: str, hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadsheet.comparison.pairs.shared_hash", lambda *servers: hash)
    project.in_source(CREATE)
    project.spec({"item": MODES[mode]})
    project.succeed()
    assert project.verify()["item"].state == "equal"
    for damage, id, kind, columns in DAMAGES:
        with psycopg.connect(project.warehouse) as session:
            session.execute("CREATE TABLE before AS SELECT * FROM staging.item")
            assert session.execute(damage).rowcount == 1
            session.commit()
            verdict = project.verify()["item"]
            session.execute("TRUNCATE staging.item; INSERT INTO staging.item SELECT * FROM before")
            session.execute("DROP TABLE before")
        assert verdict.state == "differs", damage
        assert counts(verdict) == {kind: 1}, damage
        [row] = verdict.named[kind]  # type: ignore[index]
        assert row.key == {"id": str(id), "part": str(id % 3)}
        assert [change.column for change in row.changes] == columns
    assert project.verify()["item"].state == "equal"


def test_tables_of_key_columns_alone_are_compared_by_two_hashes() -> None:
    key = Value("id", "integer")
    two = Side(Relation("public", "item"), (key,), (0,), "server")
    one = Side(Relation("public", "item"), (key,), (0,), "server", keys_only=True)
    assert "'0'" in one.digests(range(BUCKETS))
    assert "'0'" in one.total()
    assert two.digests(range(BUCKETS)).count("sum(hashint4extended") == 2
    assert two.total().count("sum(hashint4extended") == 2


SCANS: dict[str, dict[str, Any]] = {
    "merge": {"incremental": "at"},
    "replace": {"mode": "replace"},
    "some rows are never loaded": {"incremental": {"cursor": "at", "initial_value": "2026-01-01"}},
}


@pytest.mark.parametrize("how", SCANS)
def test_equal_tables_are_summed_once_and_others_once_more(
    project: Project, how: str, looks: list[str]
) -> None:
    """By buckets, and at once where the source has rows that the target need not have: there,
    totals of all rows would differ in every look."""
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, name text, at timestamptz)")
    is_by_buckets = "never" in how
    project.in_source(
        "INSERT INTO item SELECT i, 'a', timestamptz '2026-02-01' FROM generate_series(1, 9) i"
        + " UNION ALL SELECT 10, 'a', '2025-01-01'" * is_by_buckets
    )
    project.spec({"item": SCANS[how]})
    project.succeed()
    assert project.verify()["item"].state == "equal"
    assert looks == ["buckets" if is_by_buckets else "total"] * 2
    looks.clear()
    project.in_warehouse("UPDATE staging.item SET name = 'b' WHERE id = 7")
    assert counts(project.verify()["item"]) == {"different": 1}
    assert looks == ["total"] * 2 * (not is_by_buckets) + ["buckets"] * 2
    looks.clear()
    project.in_source("UPDATE item SET name = 'b', at = '2026-02-02' WHERE id = 7")
    assert project.verify()["item"].newer == 1 + is_by_buckets
    assert looks == ["buckets"] * 2


def test_two_rows_that_have_swapped_their_values_are_both_named(project: Project) -> None:
    """The negative control compares what a checklist compares: count, sum, minimum and maximum."""
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_warehouse(
        "UPDATE staging.item SET price = CASE id WHEN 7 THEN 8 / 7.0 ELSE 7 / 7.0 END"
        " WHERE id IN (7, 8)"
    )
    aggregates = "SELECT count(*), sum(price), min(price), max(price) FROM {}.item"
    in_source = project.in_source(aggregates.format("public"))
    assert in_source == project.in_warehouse(aggregates.format("staging"))
    verdict = project.verify()["item"]
    assert counts(verdict) == {"different": 2}
    assert {row.key["id"] for row in verdict.named["different"]} == {"7", "8"}


def test_rows_written_since_the_load_are_newer_and_no_differences(project: Project) -> None:
    project.in_source(CREATE + "CREATE TABLE code (id int PRIMARY KEY, name text);")
    project.in_source("INSERT INTO code SELECT i, 'x' FROM generate_series(1, 100) i")
    project.spec({"item": {"incremental": "at"}, "code": None})
    project.succeed()
    project.in_source(
        "INSERT INTO item (id, part) SELECT i, 0 FROM generate_series(5001, 5010) i;"
        "UPDATE item SET name = 'changed', at = clock_timestamp() WHERE id <= 5;"
        "INSERT INTO code VALUES (200, 'new'); UPDATE code SET name = 'y' WHERE id <= 3;"
        "DELETE FROM code WHERE id = 50"
    )
    found = project.verify()
    assert (found["item"].state, found["item"].newer) == ("equal", 15)
    # A replaced table does not show when a row was deleted.
    assert (found["code"].state, found["code"].newer) == ("not proven", 4)
    assert found["code"].unproven == 1
    project.succeed()
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}


def test_what_no_increment_will_ever_read_is_a_difference(project: Project) -> None:
    """Rows that came late with an old cursor, an update without a new cursor, and a deleted row."""
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_source(
        "INSERT INTO item (id, part, at) VALUES (8000, 0, '2020-01-01');"
        "UPDATE item SET name = 'silent' WHERE id = 4; DELETE FROM item WHERE id = 5"
    )
    project.succeed()
    verdict = project.verify()["item"]
    assert counts(verdict) == {"missing": 1, "extra": 1, "different": 1}
    assert verdict.named["missing"][0].key["id"] == "8000"
    project.succeed(full_refresh=["item"])
    assert project.verify()["item"].state == "equal"


BY_DAY = {"incremental": {"cursor": "at", "by": "data_interval", "nulls": "include"}}
# How a table is read, and the statements that write its rows again after the first load, so that
# the second load has read them, or found that they are as they were.
WRITTEN_AGAIN: dict[str, tuple[dict[str, Any] | None, str]] = {
    "replaced": (None, "UPDATE replaced SET name = 'again'"),
    "rewritten": (None, "UPDATE rewritten SET name = name"),
    "reloaded": (None, "TRUNCATE reloaded; INSERT INTO reloaded SELECT i, 'a' FROM ids i"),
    "recreated": (
        None,
        "DROP TABLE recreated; CREATE TABLE recreated (LIKE replaced INCLUDING ALL)"
        "; INSERT INTO recreated SELECT i, 'a' FROM ids i",
    ),
    "merged": ({"mode": "merge"}, "UPDATE merged SET name = 'again'"),
    "unchanged": ({"mode": "merge", "deletes": "soft"}, "UPDATE unchanged SET name = name"),
    "parts": (
        {"mode": "merge"},
        "CREATE TABLE part_2 PARTITION OF parts DEFAULT;"
        "INSERT INTO parts SELECT 100 + i, 'a' FROM ids i; UPDATE parts SET name = 'again'",
    ),
    "future": ({"incremental": "at"}, "UPDATE future SET at = 'infinity', name = 'again'"),
    "by_day": (BY_DAY, "UPDATE by_day SET name = 'again'"),
}
PLAIN = "CREATE TABLE {} (id int PRIMARY KEY, name text, at timestamptz)"


def test_damage_is_found_in_rows_that_the_last_load_has_seen_however_they_are_read(
    project: Project,
) -> None:
    """A row of a transaction that was open meanwhile is newer all the same."""
    project.in_source("CREATE VIEW ids AS SELECT i FROM generate_series(1, 20) i")
    for name in WRITTEN_AGAIN:
        if name == "parts":
            project.in_source(
                PLAIN.format(name) + " PARTITION BY RANGE (id);"
                "CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)"
            )
        else:
            project.in_source(PLAIN.format(name))
        project.in_source(f"INSERT INTO {name} SELECT i, 'a' FROM ids i")
    project.in_source("UPDATE future SET at = clock_timestamp()")
    tables = {name: table for name, (table, _) in WRITTEN_AGAIN.items()}
    project.spec(tables, schedule="@daily", start_date="2026-01-01")
    days = [f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    project.succeed(interval_start=days[0], interval_end=days[1])
    for _, statements in WRITTEN_AGAIN.values():
        project.in_source(statements)
    with psycopg.connect(project.source) as late:
        for name in WRITTEN_AGAIN:
            late.execute(f"INSERT INTO {name} VALUES (50, 'late', 'infinity')")
        late.execute("UPDATE by_day SET at = NULL WHERE id = 50")
        project.succeed(interval_start=days[1], interval_end=days[2])
    for verdict in project.verify().values():
        assert (verdict.state, verdict.newer) == ("equal", 1), verdict
    for name in WRITTEN_AGAIN:
        project.in_warehouse(f"DELETE FROM staging.{name} WHERE id = 3")
        project.in_warehouse(f"UPDATE staging.{name} SET name = 'wrong' WHERE id = 4")
    for verdict in project.verify().values():
        assert (verdict.newer, counts(verdict)) == (1, {"missing": 1, "different": 1}), verdict
    # The control: by what the first load has recorded, these rows seem to be newer.
    project.in_warehouse(
        "UPDATE loadsheet.scope SET source = source - 'oldest_transaction' - 'interval_transaction'"
    )
    assert not any(counts(verdict) for verdict in project.verify().values())


def test_a_replaced_table_is_compared_after_a_failover_without_news(project: Project) -> None:
    """Where it is one of many tables that are looked at together, and where it is not."""
    names = ["one", "two", "three", "own"]
    for name in names:
        project.in_source(PLAIN.format(name) + f"; INSERT INTO {name} VALUES (1, 'a')")
    tables: dict[str, Any] = dict.fromkeys(names)
    project.spec(tables | {"own": {"mode": "merge", "deletes": "soft"}})
    project.succeed()
    recorded = project.in_warehouse("SELECT source FROM loadsheet.scope ORDER BY table_name")
    project.in_source("CREATE TABLE another (id int)")
    assert project.succeed()["extract.extract_own"] == "skipped"
    # What is known is not written again.
    after = project.in_warehouse("SELECT source FROM loadsheet.scope ORDER BY table_name")
    assert after == recorded
    other = 'UPDATE loadsheet.scope SET source = source || \'{"timeline": "7"}\''
    project.in_warehouse(other + " WHERE table_name <> 'own'")
    found = project.verify()
    assert [found[name].state for name in names] == ["not compared"] * 3 + ["equal"]
    assert "timeline 7 -> 1" in found["one"].why
    assert set(project.succeed().values()) == {"done", "skipped"}
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}
    project.spec(dict.fromkeys(names[:2]))
    project.in_warehouse(other)
    project.succeed()
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}


def test_a_lookback_s_rows_are_read_again_and_so_no_differences_yet(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": {"cursor": "at", "lookback": "1h"}}})
    project.succeed()
    project.in_source(
        "INSERT INTO item (id, part, at) VALUES (8000, 0, now() - interval '10 min'),"
        " (8001, 0, now() - interval '2 h')"
    )
    verdict = project.verify()["item"]
    assert verdict.newer == 1
    assert [row.key["id"] for row in verdict.named["missing"]] == ["8001"]


@pytest.mark.parametrize("table", [{"mode": "replace"}, {"incremental": "at"}])
def test_rows_without_a_key_are_counted(project: Project, table: dict[str, Any]) -> None:
    project.in_source(
        "CREATE TABLE line (name text, at timestamptz); INSERT INTO line"
        " SELECT 'a' || i % 10, '2026-01-01'::timestamptz + i % 5 * interval '1 h'"
        " FROM generate_series(1, 1000) i"
    )
    project.in_source("INSERT INTO line VALUES ('last', '2026-01-02')")
    project.spec({"line": table})
    project.succeed()
    assert project.verify()["line"].state == "equal"
    project.in_warehouse(
        "DELETE FROM staging.line WHERE ctid IN"
        " (SELECT ctid FROM staging.line WHERE name = 'a1' AND at < '2026-01-02' LIMIT 3)"
    )
    verdict = project.verify()["line"]
    assert counts(verdict) == {"missing": 3}


def test_only_read_intervals_are_expected(project: Project) -> None:
    project.in_source(
        "CREATE TABLE visit (id int PRIMARY KEY, at timestamptz); INSERT INTO visit"
        " SELECT i, '2026-01-01'::timestamptz + i * interval '1 h' FROM generate_series(0, 95) i"
    )
    table = {"incremental": {"cursor": "at", "by": "data_interval"}}
    project.spec({"visit": table}, schedule="@daily", start_date="2026-01-01")
    for day in (1, 3):
        start, end = f"2026-01-0{day}T00:00:00+00:00", f"2026-01-0{day + 1}T00:00:00+00:00"
        project.succeed(interval_start=start, interval_end=end)
    verdict = project.verify()["visit"]
    assert (verdict.state, verdict.target_rows, verdict.newer) == ("equal", 48, 48)
    project.in_warehouse("DELETE FROM staging.visit WHERE id = 50")
    assert counts(project.verify()["visit"]) == {"missing": 1}


def test_a_time_that_later_rows_may_share_is_read_again_and_so_no_difference_yet(
    project: Project,
) -> None:
    """An application cuts times off to three hours: the last bucket is open as the day ends."""
    project.in_source(
        "CREATE TABLE visit (id int PRIMARY KEY, at timestamptz); INSERT INTO visit"
        " SELECT i, '2026-01-01 01:00+00'::timestamptz + i / 3 * interval '3 h'"
        " FROM generate_series(0, 23) i"
    )
    project.spec(
        {"visit": {"incremental": {"cursor": "at", "by": "data_interval"}}},
        schedule="@daily",
        start_date="2026-01-01",
    )
    day = {"interval_start": "2026-01-01T00:00:00+00:00"}
    project.succeed(**day, interval_end="2026-01-02T00:00:00+00:00")
    project.in_source(
        "INSERT INTO visit VALUES (100, '2026-01-01 22:00+00'), (101, '2026-01-01 19:00+00')"
    )
    verdict = project.verify()["visit"]
    assert (verdict.newer, counts(verdict)) == (1, {"missing": 1})
    assert verdict.named["missing"][0].key == {"id": "101"}


def test_what_cannot_be_compared_is_said(project: Project) -> None:
    project.in_source(CREATE + "CREATE TABLE later (id int)")
    project.spec({"item": None})
    project.succeed()
    project.in_source("ALTER TABLE item ALTER part TYPE bigint")
    project.spec({"item": None, "later": None})
    found = project.verify()
    assert "never loaded" in found["later"].why
    assert "primary key" in found["item"].why
    assert {verdict.state for verdict in found.values()} == {"not compared"}
    project.in_source("DROP TABLE item;" + CREATE)
    assert "dropped and recreated" in project.verify("item")["item"].why


BOTH_CURSORS = """
CREATE TABLE visit (id int PRIMARY KEY, at timestamp, seen timestamp, place int);
INSERT INTO visit SELECT i, at, at - interval '1 day', i FROM (
    SELECT i, '2026-01-01'::timestamp + i * interval '1 h' AS at FROM generate_series(0, 95) i) r
"""
DAY = {
    "interval_start": "2026-01-02T00:00:00+00:00",
    "interval_end": "2026-01-03T00:00:00+00:00",
}
BY_DAY = {"cursor": "at", "by": "data_interval", "time_zone": "UTC"}
# The cursor that the load was read by, the run's interval, the cursor in the file now, and why the
# table is not compared: its rows were chosen by something else.
CHANGED_CURSORS = [
    ({"cursor": "at"}, {}, {"cursor": "place"}, "cursor place"),
    (BY_DAY, DAY, {**BY_DAY, "cursor": "seen"}, "cursor seen"),
    (BY_DAY, DAY, {**BY_DAY, "time_zone": "Asia/Tokyo"}, "time zone"),
]


@pytest.mark.parametrize(("before", "interval", "now", "why"), CHANGED_CURSORS)
def test_rows_that_were_read_by_another_cursor_are_not_judged_by_this_one(
    project: Project,
    before: dict[str, Any],
    interval: dict[str, str],
    now: dict[str, Any],
    why: str,
) -> None:
    project.in_source(BOTH_CURSORS)
    options: dict[str, Any] = {"schedule": "@daily", "start_date": "2026-01-01"}
    project.spec({"visit": {"incremental": before}}, **options)
    project.succeed(**interval)
    assert project.verify()["visit"].state == "equal"
    project.spec({"visit": {"incremental": now}}, **options)
    verdict = project.verify()["visit"]
    assert (verdict.state, verdict.differences) == ("not compared", 0)
    assert why in verdict.why


@pytest.mark.parametrize("has_first_load", [True, False])
def test_an_older_ledger_does_not_make_rows_below_the_initial_value_missing(
    project: Project, has_first_load: bool
) -> None:
    """It does not record the initial value with the watermark, but has the first load."""
    project.in_source("CREATE TABLE t (n int PRIMARY KEY)")
    project.in_source("INSERT INTO t SELECT generate_series(1, 100)")
    project.spec({"t": {"incremental": {"cursor": "n", "initial_value": 61}}})
    project.succeed()
    project.in_warehouse("UPDATE loadsheet.scope SET source = source - 'initial_value'")
    if not has_first_load:
        project.in_warehouse("DELETE FROM loadsheet.load")
    assert project.verify()["t"].differences == 0
    project.in_warehouse("DELETE FROM staging.t WHERE n = 70")
    found = project.verify()["t"]
    assert counts(found) == ({"missing": 1} if has_first_load else {})
    assert found.state == ("differs" if has_first_load else "not proven")


def test_a_dot_in_the_name_of_the_schema_is_no_separator(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": None}, warehouse={"conn_id": "warehouse", "schema": "sta.ging"})
    project.succeed()
    assert project.verify()["item"].state == "equal"


def test_a_warehouse_without_a_readable_ledger_is_told(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": None})
    project.succeed()
    project.in_warehouse(
        "COMMENT ON SCHEMA loadsheet IS NULL; ALTER TABLE loadsheet.scope DROP COLUMN cursor"
    )
    assert "run the pipeline first" in project.verify()["item"].why
    project.in_warehouse("DROP SCHEMA loadsheet CASCADE")
    assert "run the pipeline first" in project.verify()["item"].why


def test_new_and_changed_columns_are_left_out_by_name(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_source(
        "ALTER TABLE item ADD COLUMN size int DEFAULT 3; ALTER TABLE item RENAME name TO title"
    )
    verdict = project.verify()["item"]
    assert (verdict.state, verdict.left_out) == ("equal", ["size: not loaded yet"])


def test_a_column_that_the_target_has_lost_is_no_column_to_leave_out(project: Project) -> None:
    """The control: a verdict on the columns that are left would be that all is equal."""
    project.in_source(CREATE)
    project.in_source("UPDATE item SET name = NULL WHERE id = 1")
    mart = {"named": ("SELECT id, part, name FROM staging.item", {"unique_key": ["id", "part"]})}
    project.spec({"item": {"incremental": "at"}}, mart)
    project.succeed()
    project.in_warehouse("ALTER TABLE mart.named DROP name")
    verdict = project.verify("named")["named"]
    assert (verdict.state, counts(verdict)) == ("differs", {"different": 2999})
    project.in_warehouse("ALTER TABLE staging.item DROP name")
    verdict = project.verify("item")["item"]
    assert (verdict.state, verdict.left_out) == ("differs", [])
    assert counts(verdict) == {"different": 2999}
    assert {c.column for row in verdict.named["different"] for c in row.changes} == {"name"}
    others = ["id", "part", "price", "weight", "doc", "at"]
    project.spec({"item": {"incremental": "at", "columns": {"include": others}}})
    assert project.verify("item")["item"].state == "equal"


@pytest.mark.parametrize("table", [{"incremental": "at", "deletes": "hard"}, {}])
def test_rows_of_one_key_that_the_target_has_twice_are_extra(
    project: Project, table: dict[str, Any]
) -> None:
    """No deletion in the source explains them, whatever `deletes` says."""
    project.in_source(CREATE)
    project.spec({"item": table})
    project.succeed()
    project.in_warehouse(
        "ALTER TABLE staging.item DROP CONSTRAINT item_pkey;"
        "INSERT INTO staging.item SELECT * FROM staging.item WHERE id IN (7, 8);"
        "INSERT INTO staging.item (id, part, name, _load_id) VALUES (7, 1, 'other', 1)"
    )
    verdict = project.verify()["item"]
    assert (verdict.state, verdict.unproven, counts(verdict)) == ("differs", 0, {"extra": 3})
    assert {row.key["id"] for row in verdict.named["extra"]} == {"7", "8"}
    if table:
        # One of the three has no cursor, so these rows are two.
        since = project.verify(since="2020-01-01")["item"]
        assert (since.state, counts(since)) == ("differs", {"extra": 2})


# The key's type and its value, and how it is written later: equal, but not the same.
OTHER_FORMS = [
    ("numeric", "1.0", "1.00"),
    ("double precision", "0", "-0"),
    ("real", "0", "-0"),
    ("interval", "1 mon", "30 days"),
    ("bpchar", "a", "a "),
    ("jsonb", '{"a": 1.0}', '{"a": 1.00}'),
    ("numeric[]", "{1.0}", "{1.00}"),
    ("numrange", "[1.0,2)", "[1.00,2)"),
]
# These are two keys.
OTHER_KEYS = [
    ("text", "a", "a "),
    ("time with time zone", "12:00+00", "13:00+01"),
]


def written_otherwise(project: Project, forms: list[tuple[str, str, str]]) -> dict[str, str]:
    """Load a table for each form, and write the keys in another way, without the cursor. The
    statement that does it with the cursor, by table."""
    statements = {}
    for number, (type, before, after) in enumerate(forms):
        name = f"t{number}"
        project.in_source(
            f"CREATE TABLE {name} (id {type}, part int, at timestamptz DEFAULT clock_timestamp(),"
            f" PRIMARY KEY (id, part)); INSERT INTO {name} VALUES ('{before}', 1), ('{before}', 2)"
        )
        statements[name] = f"UPDATE {name} SET id = '{after}'SET_AT WHERE part = 1"
    project.spec({name: {"incremental": "at"} for name in statements})
    project.succeed()
    for name in statements:
        project.in_source(statements[name].replace("SET_AT", ""))
    return statements


def test_a_key_that_is_written_in_another_way_is_one_different_row(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = written_otherwise(project, OTHER_FORMS)
    for name, verdict in project.verify().items():
        assert counts(verdict) == {"different": 1}, name
        [row] = verdict.named["different"]
        assert [change.column for change in row.changes] == ["id"]
        assert row.key["part"] == "1"
    # The control: by its text alone, it is a missing row and an extra one.
    with monkeypatch.context() as patched:
        patched.setattr("loadsheet.comparison.compare._same_keys", lambda *given: {})
        for name, verdict in project.verify().items():
            assert counts(verdict) == {"missing": 1, "extra": 1}, name
    project.succeed(only=frozenset(statements), repair=frozenset(statements))
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}


def test_a_newer_row_whose_key_is_written_in_another_way_is_no_difference(project: Project) -> None:
    """The negative control is a row that was deleted from the source."""
    statements = written_otherwise(project, OTHER_FORMS)
    for statement in statements.values():
        project.in_source(statement.replace("SET_AT", ", at = clock_timestamp()"))
    for name, found in project.verify().items():
        assert (found.state, found.newer, found.unproven) == ("equal", 1, 0), name
    project.succeed()
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}
    project.in_source("DELETE FROM t0 WHERE part = 2")
    assert counts(project.verify("t0")["t0"]) == {"extra": 1}


def test_what_a_load_takes_for_two_keys_is_a_missing_row_and_an_extra_one(project: Project) -> None:
    statements = written_otherwise(project, OTHER_KEYS)
    for name, verdict in project.verify().items():
        assert counts(verdict) == {"missing": 1, "extra": 1}, name
    project.succeed(only=frozenset(statements), repair=frozenset(statements))
    for name, verdict in project.verify().items():
        assert counts(verdict) == {"extra": 1}, name


def test_a_row_whose_key_and_cursor_are_others_is_different_for_a_part_of_the_rows(
    project: Project,
) -> None:
    written_otherwise(project, OTHER_FORMS[:1])
    for at in ("2020-01-01", "2040-01-01"):
        project.in_warehouse(f"UPDATE staging.t0 SET at = '{at}' WHERE part = 1")
        assert counts(project.verify(since="2025-01-01")["t0"]) == {"different": 1}, at
    project.in_source("UPDATE t0 SET at = '2019-01-01' WHERE part = 1")
    assert counts(project.verify(since="2025-01-01")["t0"]) == {"different": 1}


def test_rows_deleted_since_a_replacing_load_are_not_named_beside_rows_added_by_hand(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE code (id int PRIMARY KEY, name text)")
    project.in_source("INSERT INTO code SELECT i, 'x' FROM generate_series(1, 100) i")
    project.spec({"code": None})
    project.succeed()
    project.in_warehouse("INSERT INTO staging.code VALUES (999, 'y', 1)")
    found = project.verify()["code"]
    assert [row.key for row in found.named["extra"]] == [{"id": "999"}]
    project.in_source("DELETE FROM code WHERE id = 50")
    found = project.verify()["code"]
    # One of the two differs for certain, and nothing shows which.
    assert (counts(found), found.unproven, found.named["extra"]) == ({"extra": 1}, 1, [])
    assert found.state == "differs"


def test_rows_of_a_view_that_share_a_key_are_one_row_of_the_target(project: Project) -> None:
    project.in_source(
        "CREATE TABLE base (id int, x text, at timestamptz DEFAULT '2026-01-01');"
        "INSERT INTO base VALUES (1, 'a'), (1, 'b'), (1, 'c'), (2, 'b'), (3, 'c');"
        "INSERT INTO base VALUES (9, 'z', '2026-02-01'); CREATE VIEW v AS SELECT * FROM base"
    )
    project.spec({"v": {"incremental": "at", "primary_key": ["id"]}})
    project.succeed()
    assert project.verify()["v"].state == "equal"
    project.in_warehouse("UPDATE staging.v SET x = 'd' WHERE id = 1")
    assert counts(project.verify()["v"]) == {"different": 1}
    project.in_warehouse("DELETE FROM staging.v WHERE id = 1")
    assert counts(project.verify()["v"]) == {"missing": 1}


def test_a_renamed_label_is_newer_for_a_replaced_table_and_a_difference_of_a_merged_one(
    project: Project,
) -> None:
    project.in_source("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    for table in ("replaced", "merged"):
        project.in_source(
            f"CREATE TABLE {table} (id int PRIMARY KEY, m mood DEFAULT 'sad',"
            f" at timestamptz DEFAULT clock_timestamp()); INSERT INTO {table} VALUES (1), (2)"
        )
    project.spec({"replaced": None, "merged": {"incremental": "at"}})
    project.succeed()
    project.in_source("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
    found = project.verify()
    assert found["replaced"].state == "equal"
    assert found["replaced"].left_out == ["m: had its label 'sad' renamed since the last load"]
    assert counts(found["merged"]) == {"different": 2}
    project.succeed()
    found = project.verify()
    assert (found["replaced"].state, found["replaced"].left_out) == ("equal", [])
    assert counts(found["merged"]) == {"different": 2}


INSIDE = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (m mood, n int);
CREATE TYPE moods AS RANGE (subtype = mood);
CREATE DOMAIN felt AS pair;
CREATE TABLE more (a int, b text);
CREATE TABLE fewer (a int, b text);
CREATE TABLE named (a int);
"""
# The values of a column, and what becomes of it when what is inside its type changes.
INSIDE_COLUMNS = {
    "pair": ("'(sad,1)'", "had its label 'sad' renamed"),
    "pair[]": ("ARRAY['(sad,1)'::pair]", "had its label 'sad' renamed"),
    "felt": ("'(sad,1)'", "had its label 'sad' renamed"),
    "moods": ("'[sad,ok]'", "had its label 'sad' renamed"),
    "more": ("'(1,x)'", "had columns of its row type added or dropped"),
    "fewer": ("'(1,x)'", "had columns of its row type added or dropped"),
    "regclass": ("'named'", ""),
    "int4range": ("'[1,2]'", ""),
    "aclitem[]": ("ARRAY[makeaclitem(10, 10, 'SELECT', false)]", ""),
}
SHOW_NAMES = ("regclass", "aclitem[]")


def test_what_changes_inside_a_type_changes_rows_that_nothing_has_written(project: Project) -> None:
    """In a replaced table they are newer; in a merged one the next load of any row is refused."""
    project.in_source(INSIDE)
    tables: dict[str, Any] = {"replaced": None}
    columns = []
    for place, (type_name, (value, _)) in enumerate(INSIDE_COLUMNS.items()):
        columns.append(f"c{place} {type_name} DEFAULT {value}")
        tables[f"merged_{place}"] = {"incremental": "at"}
        project.in_source(
            f"CREATE TABLE merged_{place} (id int PRIMARY KEY, {columns[-1]},"
            f" at timestamptz DEFAULT clock_timestamp()); INSERT INTO merged_{place} VALUES (1)"
        )
    project.in_source(
        f"CREATE TABLE replaced (id int PRIMARY KEY, {', '.join(columns)});"
        "INSERT INTO replaced VALUES (1), (2)"
    )
    project.spec(tables)
    project.succeed()
    project.in_source(
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; ALTER TABLE more ADD z int;"
        "ALTER TABLE fewer DROP b; ALTER TABLE named RENAME TO other"
    )
    found = project.verify("replaced")["replaced"]
    whys = [why for _, why in INSIDE_COLUMNS.values()]
    assert found.state == "equal"
    assert found.left_out == [
        f"c{place}: {why or 'shows names, which may have changed'} since the last load"
        for place, (type_name, why) in enumerate(zip(INSIDE_COLUMNS, whys, strict=True))
        if why or type_name in SHOW_NAMES
    ]
    for place in range(len(whys)):
        project.in_source(f"INSERT INTO merged_{place} (id, c{place}) VALUES (2, NULL)")
    steps = project.run()
    for place, why in enumerate(whys):
        step = steps[f"load.load_merged_{place}"]
        assert (step.state == "failed", why in str(step.result)) == (bool(why), True), place
    found = project.verify("replaced")["replaced"]
    assert (found.state, len(found.left_out)) == ("equal", len(SHOW_NAMES))


@pytest.mark.parametrize(
    ("change", "state"),
    [
        # Writes all rows again. To a snapshot from before, the table has none.
        ("ALTER TABLE item ALTER weight TYPE float8 USING weight + 0", "equal"),
        ("ALTER TABLE item RENAME name TO title", "not compared"),
    ],
)
def test_a_change_of_the_source_s_table_that_is_waited_for_is_seen(
    project: Project, change: str, state: str
) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'item'::regclass"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(project.source) as session:
        session.execute(change)
        found = pool.submit(project.verify)
        while session.execute(waits).fetchone() == (0,):
            time.sleep(0.05)
        session.commit()
        verdict = found.result()["item"]
    assert (verdict.state, counts(verdict)) == (state, {})


@pytest.mark.parametrize("side", ["source", "warehouse"])
def test_a_locked_table_is_not_waited_for_without_end(
    project: Project, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.in_source(CREATE)
    project.spec({"item": None})
    project.succeed()
    limit = {"lock_timeout": "1s"}
    for name in ("_SOURCE_SETTINGS", "_WAREHOUSE_SETTINGS"):
        settings = getattr(verify_pipeline_module, name)
        assert side == "warehouse" or name != "_SOURCE_SETTINGS" or "lock_timeout" in settings
        monkeypatch.setattr(verify_pipeline_module, name, {**settings, **limit})
    uri, table = {
        "source": (project.source, "public.item"),
        "warehouse": (project.warehouse, "staging.item"),
    }[side]
    with psycopg.connect(uri) as session:
        session.execute(f"LOCK TABLE {table}")
        holder = f"A lock on {table} is held by session {session.info.backend_pid} "
        with pytest.raises(Unavailable, match=holder):
            project.verify()


def test_the_command_names_the_rows_and_shows_values_only_on_request(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    assert project.cli("verify", "shop").stdout == "item: equal, 3,000 rows\n1 table: 1 equal\n"
    project.in_warehouse("UPDATE staging.item SET name = 'secret' WHERE id = 3")
    damaged = project.cli("verify", "shop", "item")
    assert damaged.returncode == 1
    assert damaged.stdout == (
        "item: differs, 3,000 rows, 1 different\n"
        "  different: id = 3, part = 0 in name\n"
        "1 table: 1 differ\n"
    )
    shown = project.cli("verify", "shop", "--values").stdout
    assert "id = 3, part = 0: name is 'secret', 'name 3' in the source" in shown
    [table] = json.loads(project.cli("verify", "shop", "--json").stdout)["tables"]
    assert table["rows"]["different"] == [{"key": {"id": "3", "part": "0"}, "columns": ["name"]}]
    wrong = project.cli("verify", "shop", "itme")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: shop has no table or transform 'itme' (did you mean 'item'?)\n",
    )


def test_an_exit_code_of_its_own_says_that_nothing_was_compared(project: Project) -> None:
    """A pager takes 0 for an answer. The control is the table that is equal."""
    project.in_source(CREATE + "CREATE TABLE later (id int)")
    project.spec({"item": None})
    project.succeed()
    project.spec({"item": None, "later": None}, {"shown": ("SELECT 1 AS one", A_VIEW)})
    codes = {}
    for names in ("item", "later", "shown", "later item", ""):
        done = project.cli("verify", "shop", *names.split())
        codes[names] = done.returncode
        is_told = "nothing was compared" in done.stdout
        assert is_told == (names in ("later", "shown")), done.stdout
        assert ("not compared, see above: later" in done.stdout) == (names in ("later item", ""))
    assert codes == {"item": 0, "later": 5, "shown": 5, "later item": 5, "": 0}
    document = json.loads(project.cli("verify", "shop", "--json").stdout)
    assert document["not_compared"] == ["later"]
    # A difference is worth more.
    project.in_warehouse("DELETE FROM staging.item WHERE id = 7")
    assert project.cli("verify", "shop", "later", "item").returncode == 1
    project.in_source("DROP TABLE item;" + CREATE)
    assert project.cli("verify", "shop").returncode == 5
    project.spec({"nothing_*": {"mode": "replace"}})
    found = project.cli("verify", "shop")
    assert (found.returncode, found.stdout) == (
        5,
        "nothing was compared, so nothing is known of the rows\n",
    )


@pytest.mark.parametrize("length", [2_000, 2_001, 5_000_000])
def test_long_values_are_told_apart_and_never_fetched(project: Project, length: int) -> None:
    """100 rows with documents of 5 MB took 1.5 GB."""
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, name text, doc text, n int)")
    project.in_source(f"INSERT INTO item SELECT 1, repeat('é', {length}), repeat('x', {length}), 1")
    project.spec({"item": None})
    project.succeed()
    project.in_warehouse("UPDATE staging.item SET n = NULL, doc = left(doc, -1) || 'y'")
    [row] = project.verify()["item"].named["different"]
    changes = {change.column: (change.source, change.target) for change in row.changes}
    assert list(changes) == ["doc", "n"] and changes["n"] == ("1", None)
    source, target = changes["doc"]
    if length > 2_000:
        assert str(source).startswith(f"{length} characters, SHA-256 ") and len(str(source)) < 100
    else:
        assert (source, target) == ("x" * length, "x" * (length - 1) + "y")


def test_a_role_that_only_reads_compares_and_says_that_the_verdict_is_not_recorded(
    project: Project,
) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_warehouse(
        "CREATE ROLE looks LOGIN PASSWORD 'granted'; GRANT pg_read_all_data TO looks"
    )
    dba = project.warehouse
    url = urlsplit(dba)
    project.warehouse = url._replace(netloc=f"looks:granted@{url.hostname}:{url.port}").geturl()
    done = project.cli("verify", "shop")
    project.warehouse = dba
    project.in_warehouse("DROP OWNED BY looks; DROP ROLE looks")
    assert (done.returncode, done.stdout) == (
        0,
        "item: equal, 3,000 rows\n"
        "  the verdict is not recorded: the warehouse (connection 'warehouse',"
        " role 'looks'): permission denied for table verified\n"
        "1 table: 1 equal\n",
    )


def test_a_table_of_one_column_with_nulls_and_no_key_is_compared(project: Project) -> None:
    project.in_source("CREATE TABLE note (text text)")
    project.in_source("INSERT INTO note VALUES ('a'), ('a'), (NULL), (NULL), ('')")
    project.spec({"note": None})
    project.succeed()
    assert project.verify()["note"].state == "equal"
    project.in_warehouse("INSERT INTO staging.note (text, _load_id) VALUES (NULL, 1)")
    assert counts(project.verify()["note"]) == {"extra": 1}
