"""`loadsheet verify --repair`: what differs is read again, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from loadsheet.engine import repair
from loadsheet.engine.request import repair_request
from loadsheet.engine.runner import run_pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.verify.text import differences_text
from tests.core.visits import read_two_days
from tests.faults.oracle import judge, violations
from tests.project import Project

CREATE = """
CREATE TABLE item (
    id bigint, part text, name text, price numeric(10, 2), doc json,
    at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (id, part)
);
INSERT INTO item (id, part, name, price, doc)
SELECT i, 'p''' || i % 3, 'name ' || i, i / 7.0, '{"a": 1.0}' FROM generate_series(1, 3000) i;
"""
MERGED = {"item": {"incremental": "at"}}
DAMAGE = """
DELETE FROM staging.item WHERE id IN (7, 8);
UPDATE staging.item SET name = 'wrong' WHERE id = 9;
UPDATE staging.item SET name = NULL, price = price + 1 WHERE id = 10
"""


def last_load(project: Project, table: str = "item") -> dict[str, Any]:
    [(row,)] = project.in_warehouse(
        "SELECT to_jsonb(load) FROM loadsheet.load WHERE table_name = %s"
        " ORDER BY load_no DESC LIMIT 1",
        table,
    )
    assert isinstance(row, dict)
    return row


def opened(project: Project, tables: dict[str, Any] = MERGED, **more: Any) -> None:
    project.in_source(CREATE)
    project.spec(tables, **more)
    project.succeed()


def test_the_rows_that_differ_are_read_and_no_others(project: Project) -> None:
    opened(project)
    watermark = project.in_warehouse("SELECT watermark FROM loadsheet.scope")
    project.in_warehouse(DAMAGE)
    done = project.cli("verify", "shop", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "item: differs, 2,998 rows, 2 missing, 2 different"
    assert "repairing item" in lines
    assert lines[-2:] == ["item: equal, 3,000 rows", "1 table: 1 equal"]
    load = last_load(project)
    assert load["run_id"].startswith("repair__")
    assert [load[name] for name in ("extracted", "inserted", "updated", "deleted")] == [4, 2, 2, 0]
    assert project.in_warehouse("SELECT watermark FROM loadsheet.scope") == watermark
    assert not judge(project, "item") and violations(project) == []


def test_the_next_increment_goes_on_where_the_last_one_ended(project: Project) -> None:
    opened(project)
    project.in_warehouse(DAMAGE)
    project.in_source(
        "INSERT INTO item (id, part) SELECT i, 'n' FROM generate_series(5001, 5010) i"
    )
    assert project.cli("verify", "shop", "--repair").returncode == 0
    project.in_source("UPDATE item SET name = 'later', at = clock_timestamp() WHERE id <= 5")
    project.succeed()
    assert last_load(project)["extracted"] in (15, 16)  # the watermark's own row is read again
    assert not judge(project, "item")


def test_nothing_is_repaired_where_nothing_differs(project: Project) -> None:
    opened(project)
    project.in_source("UPDATE item SET name = 'newer', at = clock_timestamp() WHERE id = 3")
    before = last_load(project)
    done = project.cli("verify", "shop", "--repair")
    assert (done.returncode, done.stdout) == (
        0,
        "item: equal, 3,000 rows, 1 newer in the source\n1 table: 1 equal\n",
    )
    assert last_load(project) == before


def repaired(project: Project, *tables: str) -> dict[str, Any]:
    """Repair these tables in this process; the state and result of each step."""
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    request = repair_request(pipeline, rows_of=set(tables), whole=set(), marts=set())
    return dict(run_pipeline(pipeline, request, project.connections))


@pytest.mark.parametrize("most", [2, repair._MOST_KEYS])
def test_many_rows_are_read_by_their_buckets(
    project: Project, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Memory stays bounded: the keys of many rows are not kept."""
    monkeypatch.setattr(repair, "_MOST_KEYS", most)
    opened(project)
    project.in_warehouse(DAMAGE)
    repaired(project, "item")
    assert not judge(project, "item")
    load = last_load(project)
    assert (load["inserted"], load["updated"]) == (2, 2)
    assert (load["extracted"] == 4) == (most > 4)


KEYS = {
    "bytea": "'\\x00ff27'",
    "numeric(6, 3)": "1.500",
    "numeric": "'NaN'",
    "timestamptz": "'2026-02-28 12:00:00.000001+01'",
    "timestamp": "'infinity'",
    "interval": "'1 year 2 mons -3 days'",
    "float8": "'-0'",
    "text": "E'it''s \\\\ \"q\" \\n % {}'",
    "char(5)": "'a'",
    '"char"': "'x'",
    "int[]": "'{1,2}'",
    "uuid": "'a81bc81b-dead-4e5d-abff-90865d1e13b1'",
    "inet": "'10.0.0.0/8'",
    "mood": "'it''s ok'",
}


def test_rows_are_found_by_keys_of_every_type(project: Project) -> None:
    project.in_source("CREATE TYPE mood AS ENUM ('sad', 'it''s ok')")
    tables = {}
    for number, (type_name, value) in enumerate(KEYS.items()):
        name = f"t{number}"
        tables[name] = {"incremental": "at"}
        project.in_source(
            f"CREATE TABLE {name} (a {type_name}, b int, at timestamptz DEFAULT clock_timestamp(),"
            " what text, PRIMARY KEY (a, b));"
            f"INSERT INTO {name} (a, b) VALUES ({value}, 1), ({value}, 2)"
        )
    project.spec(tables)
    project.succeed()
    for name in tables:
        project.in_warehouse(f"UPDATE staging.{name} SET what = 'x' WHERE b = 2")
    repaired(project, *tables)
    for name, type_name in zip(tables, KEYS, strict=True):
        assert not judge(project, name), type_name
        assert last_load(project, name)["extracted"] == 1, type_name


def test_a_row_that_was_written_since_the_comparison_is_read_as_it_is_then(
    project: Project,
) -> None:
    """The negative control updates by what was read before: an older row wins."""
    opened(project)
    project.in_warehouse("UPDATE staging.item SET name = 'wrong' WHERE id IN (3, 4)")
    [(read_before,)] = project.in_source("SELECT name FROM item WHERE id = 3")
    project.in_source(
        "UPDATE item SET name = 'newest', at = clock_timestamp() WHERE id = 3;"
        "UPDATE item SET name = 'silent' WHERE id = 4"
    )
    repaired(project, "item")
    # A newer row is the next run's. No cursor says when 4 was changed: it is read as it is now.
    assert project.in_warehouse("SELECT name FROM staging.item WHERE id = 4") == [("silent",)]
    project.succeed()
    assert not judge(project, "item")
    project.in_warehouse("UPDATE staging.item SET name = %s WHERE id = 3", read_before)
    project.succeed()
    assert judge(project, "item")


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        ("DROP name", "column name was loaded before, and was dropped or renamed in the target"),
        (
            "DROP CONSTRAINT item_pkey; INSERT INTO staging.item SELECT * FROM staging.item",
            "the primary key is none in the target and (id, part)",
        ),
    ],
)
@pytest.mark.parametrize("deletes", [None, "hard"])
def test_a_target_that_has_lost_a_column_or_its_key_is_not_read_for(
    project: Project, loss: str, why: str, deletes: str | None
) -> None:
    opened(project, {"item": {"incremental": "at", "deletes": deletes}})
    project.in_warehouse(f"ALTER TABLE staging.item {loss}")
    before = last_load(project)
    error = repaired(project, "item")["extract.extract_item"].result
    assert why in str(error) and "run a full refresh of this table" in str(error)
    assert last_load(project) == before


def test_marts_that_read_a_repaired_table_are_built_in_full(project: Project) -> None:
    opened(
        project,
        transforms={
            "total": "SELECT count(*) AS n, count(name) AS names FROM staging.item",
            "late": (
                "SELECT id, part, name FROM staging.item WHERE _load_id > :since_load",
                {"materialized": "merge", "unique_key": ["id", "part"]},
            ),
        },
    )
    marts = "SELECT n, names, (SELECT count(*) FROM mart.late) FROM mart.total"
    before = project.in_warehouse(marts)
    project.in_warehouse(
        "DELETE FROM staging.item WHERE id <= 10; UPDATE staging.item SET name = NULL,"
        " _load_id = _load_id + 1 WHERE id = 20"
    )
    project.in_source("UPDATE item SET at = clock_timestamp() WHERE id = 3000")
    project.succeed()
    assert project.in_warehouse(marts) != before
    assert project.cli("verify", "shop", "--repair").returncode == 0
    assert project.in_warehouse(marts) == before
    assert project.in_warehouse("SELECT name FROM mart.late WHERE id = 20") == [("name 20",)]


def test_a_replaced_table_is_read_in_full_and_an_appended_one_is_left(project: Project) -> None:
    project.in_source(CREATE + "CREATE TABLE line (name text, at timestamptz)")
    project.in_source(
        "INSERT INTO line SELECT 'a', '2026-01-01'::timestamptz + i * interval '1 h'"
        " FROM generate_series(1, 100) i"
    )
    project.spec({"item": None, "line": {"incremental": "at"}})
    project.succeed()
    project.in_warehouse(DAMAGE + "; DELETE FROM staging.line WHERE at < '2026-01-02'")
    done = project.cli("verify", "shop", "--repair", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [table["state"] for table in document["tables"]] == ["equal", "differs"]
    assert [table["state"] for table in document["repair"]["before"]["tables"]] == ["differs"] * 2
    assert "--tables line --full-refresh" in document["repair"]["not_repaired"]["line"]
    assert last_load(project)["action"] == "replace"
    assert not judge(project, "item")


def test_an_emptied_target_is_filled_from_the_start(project: Project) -> None:
    opened(project)
    project.in_warehouse("TRUNCATE staging.item")
    done = project.cli("verify", "shop", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not judge(project, "item") and violations(project) == []
    assert last_load(project)["upper_cursor"]


def test_a_target_or_mart_that_is_gone_differs_and_is_made_again(project: Project) -> None:
    tables = {"item": {"incremental": "at"}, "line": {"mode": "append", "incremental": "at"}}
    project.in_source("CREATE TABLE line AS SELECT now() AS at, 1 AS n")
    opened(project, tables, transforms={"named": "SELECT id, name FROM staging.item"})
    project.in_warehouse(
        "DROP TABLE mart.named; ALTER TABLE staging.item RENAME TO other; DROP TABLE staging.line"
    )
    found = project.verify()
    assert {verdict.state for verdict in found.values()} == {"differs"}
    assert found["item"].why == "staging.item was dropped or renamed in the warehouse"
    assert "named: mart.named was dropped" in differences_text([*found.values()], 3, 1)
    done = project.cli("verify", "shop", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("2 tables, 1 mart: 3 equal\n")
    assert not judge(project, "item")


def test_a_table_read_by_interval_keeps_its_intervals(project: Project) -> None:
    read_two_days(project)
    scope = "SELECT intervals, watermark, source - 'lsn' - 'next_transaction' FROM loadsheet.scope"
    before = project.in_warehouse(scope)
    project.in_warehouse("DELETE FROM staging.visit WHERE id IN (3, 50)")
    repaired(project, "visit")
    assert project.in_warehouse("SELECT count(*) FROM staging.visit") == [(48,)]
    assert project.in_warehouse(scope) == before


def test_a_merge_of_all_rows_is_repaired_and_the_next_run_looks_at_all_of_them(
    project: Project,
) -> None:
    opened(project, {"item": {"mode": "merge"}})
    project.in_warehouse(DAMAGE)
    repaired(project, "item")
    assert last_load(project)["extracted"] == 4
    assert not judge(project, "item")
    states = project.succeed()
    assert states["load.load_item"] == "done"
    assert (last_load(project)["extracted"], last_load(project)["updated"]) == (3000, 0)


def test_rows_below_the_initial_value_stay_out(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "_MOST_KEYS", 1)
    project.in_source("CREATE TABLE t (n int PRIMARY KEY, what text)")
    project.in_source("INSERT INTO t SELECT generate_series(1, 3000)")
    project.spec({"t": {"incremental": {"cursor": "n", "initial_value": 1001}}})
    project.succeed()
    project.in_warehouse("DELETE FROM staging.t WHERE n % 3 = 0")
    repaired(project, "t")
    assert project.in_warehouse("SELECT count(*), min(n) FROM staging.t") == [(2000, 1001)]


def test_a_source_that_was_restored_is_not_read(project: Project) -> None:
    opened(project)
    project.in_warehouse(DAMAGE)
    project.in_warehouse('UPDATE loadsheet.scope SET source = source || \'{"lsn": "FF/FF000000"}\'')
    before = last_load(project)
    result = repaired(project, "item")["extract.extract_item"].result
    assert isinstance(result, Exception) and "WAL position" in str(result)
    assert last_load(project) == before


def test_a_target_that_another_pipeline_has_loaded_is_left(project: Project) -> None:
    opened(project)
    project.in_warehouse(DAMAGE)
    with psycopg.connect(project.warehouse) as session:
        session.execute(
            "INSERT INTO loadsheet.load SELECT (jsonb_populate_record(load, "
            """'{"load_id": "other", "load_no": 0, "pipeline": "other"}')).* FROM loadsheet.load"""
        )
    result = repaired(project, "item")["extract.extract_item"].result
    assert isinstance(result, Exception) and "another pipeline" in str(result)


GONE = {"item": {"incremental": "at", "deletes": "hard"}}
DELETE = "DELETE FROM item WHERE id % 100 = 1"


def test_rows_that_are_gone_leave_the_target_where_the_table_s_deletes_says_so(
    project: Project,
) -> None:
    opened(project, GONE)
    project.in_source(DELETE)
    project.in_warehouse(DAMAGE)
    repaired(project, "item")
    load = last_load(project)
    assert [load[name] for name in ("extracted", "inserted", "updated", "deleted")] == [4, 2, 2, 30]
    assert not judge(project, "item") and violations(project) == []


@pytest.mark.parametrize("action", [None, "report"])
def test_rows_that_are_gone_stay_where_no_deletes_are_allowed(
    project: Project, action: str | None
) -> None:
    opened(project, {"item": {"incremental": "at", "deletes": action}})
    project.in_source(DELETE)
    project.in_warehouse(DAMAGE)
    result = repaired(project, "item")["extract.extract_item"].result
    assert "30 rows are gone from the source and kept" in result.message
    assert judge(project, "item").doubled == 30
    # An extraction with nothing else to do says so, too, and loads nothing.
    before = last_load(project)
    result = repaired(project, "item")["extract.extract_item"].result
    assert result.skipped and "30 rows" in result.message
    assert last_load(project) == before


def test_a_row_that_came_back_since_the_comparison_is_not_removed(project: Project) -> None:
    """The negative control removes what the comparison called extra."""
    opened(project, GONE)
    project.in_source("CREATE TABLE kept AS SELECT * FROM item WHERE id IN (1, 2)")
    project.in_source("DELETE FROM item WHERE id IN (1, 2, 3)")
    assert project.verify("item")["item"].unproven == 3
    project.in_source("INSERT INTO item SELECT * FROM kept")
    repaired(project, "item")
    assert last_load(project)["deleted"] == 1
    assert not judge(project, "item")
    project.in_warehouse("DELETE FROM staging.item WHERE id IN (1, 2, 3)")
    assert judge(project, "item").lost == 2


def test_an_emptied_source_empties_no_target(project: Project) -> None:
    """The negative control allows any share to be deleted."""
    opened(project, GONE)
    project.in_source("DELETE FROM item")
    before = last_load(project)
    result = repaired(project, "item")["extract.extract_item"].result
    assert isinstance(result, Exception) and "3,000 of the 3,000 rows" in str(result)
    assert last_load(project) == before
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(3000,)]
    project.spec({"item": {"incremental": "at", "deletes": {"action": "hard", "max_delete": 1}}})
    repaired(project, "item")
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(0,)]


def test_a_role_that_sees_fewer_rows_removes_none(project: Project) -> None:
    opened(project, GONE)
    project.in_source(
        "ALTER TABLE item ENABLE ROW LEVEL SECURITY;CREATE POLICY part ON item USING (id > 100)"
    )
    before = last_load(project)
    result = repaired(project, "item")["extract.extract_item"].result
    assert isinstance(result, Exception) and "row level security" in str(result)
    assert last_load(project) == before


def test_rows_that_are_gone_are_marked_where_deletes_are_soft(project: Project) -> None:
    opened(project, {"item": {"incremental": "at", "deletes": "soft"}})
    project.in_source("CREATE TABLE kept AS SELECT * FROM item WHERE id = 101;" + DELETE)
    repaired(project, "item")
    marked = "SELECT count(*) FROM staging.item WHERE _deleted_at IS NOT NULL"
    assert project.in_warehouse(marked) == [(30,)]
    assert project.verify("item")["item"].state == "equal"
    # One that comes back with its old cursor is no increment's.
    project.in_source("INSERT INTO item SELECT * FROM kept")
    repaired(project, "item")
    assert project.in_warehouse(marked) == [(29,)]


OF_A_DAY = "SELECT id, name FROM visit WHERE at >= :interval_start AND at < :interval_end"
OF_DAYS = {
    "as_table": OF_A_DAY,
    "as_merge": (OF_A_DAY, {"materialized": "merge", "unique_key": "id"}),
    "as_view": (OF_A_DAY, {"materialized": "view"}),
    "as_script": (
        f"TRUNCATE staging.days; INSERT INTO staging.days {OF_A_DAY}",
        {"materialized": "script"},
    ),
}


def test_a_mart_of_the_run_s_interval_waits_for_a_run_that_has_one(project: Project) -> None:
    """The negative control builds it with NULL in the place of the bounds, and so without rows."""
    project.in_source(
        "CREATE TABLE visit (id int PRIMARY KEY, name text, at timestamptz); INSERT INTO visit"
        " SELECT i, 'a', '2026-01-01'::timestamptz + i * interval '1 h'"
        " FROM generate_series(0, 47) i"
    )
    by_day = {"visit": {"incremental": {"cursor": "at", "by": "data_interval"}}}
    project.spec(by_day, schedule="@daily", start_date="2026-01-01")
    day = {
        "interval_start": "2026-01-01T00:00:00+00:00",
        "interval_end": "2026-01-02T00:00:00+00:00",
    }
    project.succeed(**day)
    project.as_loader("CREATE TABLE staging.days (id int, name text)")
    project.spec(by_day, OF_DAYS, schedule="@daily", start_date="2026-01-01")
    project.succeed(**day)
    project.in_warehouse("UPDATE staging.visit SET name = 'wrong'")
    counted = " UNION ALL ".join(
        f"SELECT count(*), min(name) FROM {table}"
        for table in ("mart.as_table", "mart.as_merge", "mart.as_view", "staging.days")
    )
    done = project.cli("verify", "shop", "visit", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left to the next run" in done.stdout
    assert project.in_warehouse(counted) == [(24, "a")] * 4
    states = project.succeed(**day)
    assert {states[f"transform.transform_{name}"] for name in OF_DAYS} == {"done"}
    assert project.in_warehouse(counted) == [(24, "a")] * 4
    project.in_warehouse("UPDATE staging.visit SET name = 'wrong'")
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    request = repair_request(pipeline, rows_of={"visit"}, whole=set(), marts=set())
    run_pipeline(pipeline, replace(request, is_repair=False), project.connections)
    assert project.in_warehouse(counted) == [(0, None)] * 4


def test_the_command_removes_rows_that_verify_cannot_prove_to_be_extra(project: Project) -> None:
    """Where deletes are allowed, they may have been deleted since the last load. A run that repairs
    leaves the comparison to the command, also where each run verifies."""
    opened(project, GONE, verify="1 run")
    project.in_source(DELETE)
    done = project.cli("verify", "shop", "--repair")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 table: 1 equal"), done.stdout
    assert "shop: 3 done in" in done.stdout  # bucket, extract and load
    assert not judge(project, "item")
