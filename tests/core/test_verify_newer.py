"""`loadsheet verify` names no row that is merely newer than the load, and damage among those that
are not."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.core.verifying import CREATE, counts
from tests.core.visits import read_two_days
from tests.project import Project


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


def test_only_read_intervals_are_expected(project: Project) -> None:
    read_two_days(project)
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
