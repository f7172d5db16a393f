"""`loadsheet plan --connect`: what a run would do with the servers as they are, said before it,
writing nothing."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import psycopg

from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome
from tests.core.planned import *  # noqa: F403
from tests.core.planned import MART, SOURCE, TABLES, as_role, fixes, found, plan
from tests.git import commit_all, new_repository
from tests.project import Project


def objects(dsn: str) -> list[tuple[Any, ...]]:
    """Everything the catalog knows, with its version: a single row written to a table would change
    nothing here."""
    with psycopg.connect(dsn) as session:
        rows = session.execute(
            "SELECT oid, relname, xmin::text FROM pg_class WHERE relpersistence = 'p' ORDER BY oid"
        )
        tables = [
            r[1:]
            for r in session.execute(
                "SELECT oid, nspname, xmin::text FROM pg_namespace ORDER BY oid"
            )
        ]
        return [*rows.fetchall(), *tables]


def test_a_plan_of_an_empty_warehouse_says_what_a_first_run_makes_and_makes_none_of_it(
    shop: Project,
) -> None:
    shop.grant()
    shop.in_warehouse("DROP SCHEMA mart")  # which the grants of the reader made
    before = objects(shop.source), objects(shop.warehouse)
    document = plan(shop, "--exit-code", code=4)
    assert (objects(shop.source), objects(shop.warehouse)) == before
    assert not Lake(shop.connections("lake"), shop.bucket).exists("shop/")
    steps = document["steps"]
    assert steps["create_bucket"]["does"] == "it is created"
    assert steps["extract"]["ddl"] == ['CREATE SCHEMA "loadsheet"']
    assert steps["load"]["ddl"] == ['CREATE SCHEMA "staging"'] and steps["transform"]["ddl"] == [
        'CREATE SCHEMA "mart"'
    ]
    assert (
        steps["extract.extract_customer"]["rows"],
        steps["extract.extract_customer"]["rows_are_exact"],
    ) == (
        100,
        True,
    )
    assert {step["changes"] for step in steps.values() if "kind" in step} == {"yes"}
    assert document["connect"]["errors"] == 0


def test_the_ddl_of_a_plan_is_what_the_load_then_does(shop: Project, database: str) -> None:
    columns = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname"
    )

    def follow(document: dict[str, Any]) -> None:
        with psycopg.connect(database, autocommit=True) as session:
            for step in ("load", "load.load_customer", "load.load_country"):
                for statement in document["steps"][step]["ddl"]:
                    session.execute(statement.replace("<number>", "1"))
        shop.succeed()
        with psycopg.connect(database) as mine, psycopg.connect(shop.warehouse) as theirs:
            for table in ("staging.customer", "staging.country"):
                assert (
                    mine.execute(columns, (table,)).fetchall()
                    == theirs.execute(columns, (table,)).fetchall()
                )

    follow(plan(shop))
    shop.in_source(
        "ALTER TABLE customer ADD vip bool, ALTER id TYPE bigint; ALTER TABLE customer RENAME name"
        " TO title"
    )
    shop.in_source(
        "UPDATE customer SET title = 'x', at = now() WHERE id = 1; ALTER TABLE country ADD since"
        " date"
    )
    shop.spec(TABLES)
    document = plan(shop)
    assert (
        'ALTER TABLE "staging"."customer" ADD COLUMN "vip" boolean'
        in document["steps"]["load.load_customer"]["ddl"]
    )
    follow(document)


def test_after_a_run_a_plan_says_that_nothing_would_change_until_something_does(
    shop: Project,
) -> None:
    shop.succeed()
    written = shop.in_warehouse("SELECT * FROM loadsheet.scope"), shop.objects()
    document = plan(shop, "--exit-code")
    assert document["connect"]["changes"] == document["connect"]["maybe"] == 0
    shop.in_source("INSERT INTO customer VALUES (101, 'new'), (102, 'new')")
    steps = plan(shop, "--exit-code", code=4)["steps"]
    assert (
        steps["extract.extract_customer"]["rows"] == 2
        and "above 20" in steps["extract.extract_customer"]["does"]
    )
    assert steps["load.load_customer"]["does"] == "merged by id"
    assert steps["load.load_country"]["changes"] == "no"
    assert steps["transform.transform_names"]["does"] == "built: new rows in customer"
    shop.in_source("UPDATE country SET name = 'Norge' WHERE code = 'no'")
    assert (
        plan(shop)["steps"]["load.load_country"]["does"]
        == "built next to the old table and swapped in"
    )
    assert (shop.in_warehouse("SELECT * FROM loadsheet.scope"), shop.objects()) == written


def test_what_the_source_role_lacks_is_said_with_the_grants_that_mend_it(
    shop: Project, role: str
) -> None:
    owner, shop.source = shop.source, as_role(shop.source, role)
    with psycopg.connect(owner, autocommit=True) as session:
        for _ in range(3):  # a table that may not be read is not asked about its cursor yet
            lacking = fixes(document := plan(shop, code=1 if _ < 2 else 0))
            assert all(fix.startswith("GRANT ") for fix in lacking), document
            for fix in lacking:
                session.execute(fix)
    assert not lacking


def test_what_the_warehouse_role_lacks_is_said_with_the_grants_that_mend_it(
    shop: Project, role: str
) -> None:
    owner, shop.warehouse = shop.warehouse, as_role(shop.warehouse, role)
    with psycopg.connect(owner, autocommit=True) as session:
        for fix in fixes(plan(shop, code=1)):
            session.execute(fix)
    assert not fixes(plan(shop))
    assert shop.cli("run", "shop").returncode == 0


def test_names_that_the_source_does_not_have_are_all_named_with_the_closest(shop: Project) -> None:
    tables = {
        "custommer": None,
        "customer": {"incremental": "att", "columns": {"exclude": ["nam"]}},
        "country": None,
    }
    shop.spec(tables)
    document = plan(shop, code=1)
    assert "did you mean 'customer'?" in found(document, "extract.extract_custommer")[0]
    messages = found(document, "extract.extract_customer")
    assert any("'att' (did you mean 'at'?)" in m for m in messages)
    assert any("'nam' (did you mean 'name'?)" in m for m in messages)
    assert document["steps"]["load.load_customer"]["does"] == "not reached: its extract would fail"
    assert document["steps"]["load.load_country"]["does"] == "creates staging.country"


def test_a_key_that_is_not_unique_is_found_before_the_run_finds_it(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE log (no int NOT NULL, at timestamptz NOT NULL); INSERT INTO log VALUES (1,"
        " now())"
    )
    shop.spec({"log": {"primary_key": "no"}})
    document = plan(shop)
    assert (
        "nothing in the source keeps it so" in found(document, "extract.extract_log", "warning")[0]
    )
    shop.in_source("INSERT INTO log VALUES (1, now())")
    assert "rows share the key (no)" in found(plan(shop, code=1), "load.load_log")[0]
    failed = shop.run()["load.load_log"].result
    assert "rows share the key (no)" in str(failed)
    shop.spec({"log": {"primary_key": "no", "incremental": "at"}})
    assert (
        "only the newest of each is kept" in found(plan(shop), "extract.extract_log", "warning")[0]
    )
    shop.in_source("DELETE FROM log; CREATE UNIQUE INDEX ON log (no)")
    assert not found(plan(shop), "extract.extract_log", "warning")


def test_a_cursor_without_index_order_or_value_is_explained(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE log (id int PRIMARY KEY, at timestamptz); INSERT INTO log SELECT i, now() -"
        " interval '1 s' * ((i * 7919) % 5000) FROM generate_series(1, 5000) i; ANALYZE log"
    )
    shop.spec({"log": {"incremental": "at"}})
    notes = found(plan(shop), "extract.extract_log", "note")
    assert any("no index begins with cursor at" in note for note in notes)
    assert any("at may be NULL; no row is" in note for note in notes)
    assert any("are not stored in the order of at (correlation" in note for note in notes)
    shop.in_source("INSERT INTO log VALUES (0, NULL)")
    assert "1 row has no at" in found(plan(shop, code=1), "extract.extract_log")[0]
    shop.in_source(
        "DELETE FROM log WHERE at IS NULL; ALTER TABLE log ALTER at SET NOT NULL; CREATE INDEX ON"
        " log (at)"
    )
    notes = found(plan(shop), "extract.extract_log", "note")
    assert len(notes) == 1 and "order" in notes[0]


def test_a_type_that_does_not_fit_the_staging_table_stops_the_plan_as_it_stops_the_run(
    shop: Project,
) -> None:
    shop.spec(TABLES)
    shop.succeed()
    shop.in_source(
        "ALTER TABLE customer ALTER name TYPE int USING id; UPDATE customer SET at ="
        " clock_timestamp()"
    )
    message = "column name is text in the target and integer in the source"
    assert message in found(plan(shop, code=1), "load.load_customer")[0]
    assert message in str(shop.run()["load.load_customer"].result)


def test_a_changed_key_and_a_foreign_table_stop_the_plan(shop: Project) -> None:
    shop.spec(TABLES)
    shop.succeed()
    shop.in_source("UPDATE customer SET at = clock_timestamp()")
    shop.as_loader(
        "CREATE SCHEMA IF NOT EXISTS mart; CREATE TABLE mart.names (id int); CREATE TABLE"
        " staging.log ()"
    )
    shop.in_source("CREATE TABLE log (id int PRIMARY KEY)")
    shop.in_warehouse("ALTER TABLE staging.log ADD x int")
    shop.spec(
        {"customer": {"incremental": "at", "primary_key": "name"}, "country": None, "log": None},
        MART,
    )
    document = plan(shop, code=1)
    assert (
        "the primary key is (id) in the target and (name)"
        in found(document, "load.load_customer")[0]
    )
    assert "was not made by Loadsheet" in found(document, "load.load_log")[0]
    assert (
        document["steps"]["transform.transform_names"]["does"] == "not reached: customer would fail"
    )


def test_who_holds_the_watermark_back_is_named(shop: Project) -> None:
    shop.succeed()
    with psycopg.connect(shop.source) as open_session:
        open_session.execute("INSERT INTO customer VALUES (500, 'late')")
        shop.in_source("INSERT INTO customer VALUES (501, 'early')")
        held_by = plan(shop)["steps"]["extract.extract_customer"]["held_by"]
        assert f"pid {open_session.info.backend_pid} " in held_by
        open_session.rollback()
    assert plan(shop)["steps"]["extract.extract_customer"]["held_by"] == ""


def test_sql_that_the_warehouse_does_not_take_is_found_without_running_it(shop: Project) -> None:
    shop.succeed()
    shop.spec(TABLES, {"names": "SELECT nome FROM staging.customer"})
    document = plan(shop, code=1)
    assert (
        'names.sql:1:8: column "nome" does not exist (SQLSTATE 42703)'
        in found(document, "transform.transform_names")[0]
    )
    shop.spec(TABLES, {"names": "SELECT name FROM staging.customer"})
    assert (
        plan(shop)["steps"]["transform.transform_names"]["does"] == "built in full: its SQL changed"
    )


def test_reading_cannot_write_not_even_by_way_of_a_view(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE seen (n int); CREATE FUNCTION see() RETURNS int LANGUAGE sql AS "
        "'INSERT INTO public.seen VALUES (1) RETURNING n'; CREATE VIEW spy AS SELECT see() AS n"
    )
    shop.spec({"spy": {"incremental": "n", "mode": "append"}, "country": None})
    document = plan(shop, code=1)
    assert "read-only transaction" in found(document, "extract.extract_spy")[0]
    assert shop.in_source("SELECT count(*) FROM seen") == [(0,)]
    assert document["steps"]["load.load_country"]["does"] == "creates staging.country"


def test_the_sql_of_an_extract_is_the_one_that_a_run_sends(shop: Project) -> None:
    done = shop.cli("plan", "shop", "--connect", "--sql", "customer")
    assert 'SELECT "id", "name", "at" FROM "public"."customer"' in done.stdout
    assert 'CREATE TABLE "staging"."customer"' in done.stdout


def test_the_tree_shows_errors_with_their_remedy(shop: Project, role: str) -> None:
    shop.source = as_role(shop.source, role)
    done = shop.cli("plan", "shop", "--connect")
    assert done.returncode == 1
    assert 'fix  GRANT SELECT ON "public"."customer" TO ' in done.stdout
    assert "2 errors" in done.stdout and "secret" not in done.stdout


def test_a_server_that_is_away_is_one_clear_error(shop: Project) -> None:
    shop.warehouse = "postgresql://nobody:secret@127.0.0.1:1/none"
    done = shop.cli("plan", "shop", "--connect")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        "error: the warehouse (connection 'warehouse'): " in done.stderr
        and "Traceback" not in done.stderr
    )
    assert "secret" not in done.stderr


BEFORE = {"primary_key": "id", "incremental": "at"}
EDITS: dict[str, tuple[Any, Any]] = {
    "same": (BEFORE, BEFORE),
    "key": (BEFORE, {**BEFORE, "primary_key": "name"}),
    "key_of_whole": (None, {"primary_key": "name"}),
    "cursor": (BEFORE, {**BEFORE, "incremental": "other"}),
    "to_append": (BEFORE, {**BEFORE, "mode": "append"}),
    "from_append": ({**BEFORE, "mode": "append"}, BEFORE),
    "to_whole": (BEFORE, {"primary_key": "id"}),
    "from_whole": (None, {"incremental": "at"}),
    "appended_to_whole": (None, {"incremental": "at", "mode": "append"}),
    "left_out": (BEFORE, {**BEFORE, "columns": {"exclude": ["name"]}}),
    "frozen": (BEFORE, {**BEFORE, "schema_contract": {"columns": "freeze"}}),
    "late_start": (
        BEFORE,
        {**BEFORE, "incremental": {"cursor": "at", "initial_value": "2020-01-01"}},
    ),
}


def test_what_a_diff_foretells_is_what_the_next_run_does(project: Project) -> None:
    for table in EDITS:
        project.in_source(
            f"CREATE TABLE {table} (id int PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL"
            f" DEFAULT now(), other timestamptz NOT NULL DEFAULT now()); INSERT INTO {table} VALUES"
            " (1, 'one')"
        )
    # a spec takes no YAML aliases
    project.spec({table: deepcopy(before) for table, (before, _) in EDITS.items()})
    new_repository(project.folder)
    commit_all(project.folder)
    project.succeed()
    project.spec({table: deepcopy(after) for table, (_, after) in EDITS.items()})
    for table in EDITS:
        project.in_source(f"UPDATE {table} SET at = clock_timestamp(), other = clock_timestamp()")
    told = project.cli("plan", "shop", "--diff", "HEAD", "--json")
    changes = json.loads(told.stdout)["diff"]["changes"]
    kinds = {
        c["name"].removeprefix("table "): {k["kind"] for k in c["consequences"]} for c in changes
    }
    results = project.run()
    failed = {r.step.name for r in results.values() if r.state == "failed"}
    anew = {
        r.step.name
        for r in results.values()
        if isinstance(r.result, Outcome) and r.step.kind == "load" and "rebuilt" in r.result.message
    }
    assert kinds.keys() == EDITS.keys() - {"same"}
    assert {table for table, found in kinds.items() if "stops" in found} == failed
    assert {table for table, found in kinds.items() if "rebuilt" in found} == anew
    assert failed == {"key", "cursor", "to_append", "from_append", "appended_to_whole"}
    assert anew == {"key_of_whole", "to_whole"}


def test_of_many_rows_the_planner_tells_about_how_many_there_are(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE log (id int PRIMARY KEY, at timestamptz NOT NULL); CREATE INDEX ON log (at);"
        " INSERT INTO log SELECT i, '2026-01-01'::timestamptz + interval '1 s' * i FROM"
        " generate_series(1, 150000) i; ANALYZE log"
    )
    shop.spec({"log": {"incremental": {"cursor": "at", "initial_value": "2026-01-01 05:33:20+00"}}})
    step = plan(shop)["steps"]["extract.extract_log"]
    assert not step["rows_are_exact"] and 110_000 < step["rows"] < 150_000
    assert step["table_rows"] == 150_000 and step["table_bytes"] > 5_000_000
    assert step["does"].startswith("rows of at above 2026-01-01 05:33:20+00: about 1")


def test_a_table_by_data_interval_may_change_and_is_checked_all_the_same(shop: Project) -> None:
    interval = {"incremental": {"cursor": "at", "by": "data_interval"}}
    shop.spec({"customer": interval}, schedule="@daily", start_date="2026-01-01")
    step = plan(shop)["steps"]["extract.extract_customer"]
    assert (step["changes"], step["does"]) == ("maybe", "rows of the run's interval by at")
    shop.in_source("ALTER TABLE customer RENAME at TO changed")
    assert "has no column 'at'" in found(plan(shop, code=1), "extract.extract_customer")[0]


def test_what_reads_a_rebuilt_table_is_built_in_full(shop: Project) -> None:
    shop.spec(
        TABLES,
        {
            "all": (
                "SELECT code, name FROM staging.country",
                {"materialized": "merge", "unique_key": "code"},
            )
        },
    )
    shop.succeed()
    shop.in_source("DELETE FROM country WHERE code = 'no'")
    told = plan(shop)["steps"]["transform.transform_all"]["does"]
    assert told == "built in full: country is rebuilt"


def test_a_newer_ledger_stops_the_plan_and_an_older_one_is_not_touched(shop: Project) -> None:
    shop.succeed()
    shop.in_warehouse("COMMENT ON SCHEMA loadsheet IS 'ledger version 99'")
    assert "update Loadsheet" in found(plan(shop, code=1), "extract")[0]
    shop.in_warehouse(
        "COMMENT ON SCHEMA loadsheet IS 'ledger version 2'; ALTER TABLE loadsheet.load DROP COLUMN"
        " clock"
    )
    steps = plan(shop)["steps"]
    assert "brings the ledger from version 2 to" in steps["extract"]["does"]
    assert steps["extract.extract_customer"]["changes"] == "no"
    shop.in_warehouse(
        "COMMENT ON SCHEMA loadsheet IS NULL; ALTER TABLE loadsheet.scope DROP COLUMN cursor"
    )
    document = plan(shop)
    assert "looks like a first load" in found(document, "extract", "warning")[0]
    # nobody else has put it back
    shop.in_warehouse("ALTER TABLE loadsheet.scope ADD COLUMN cursor text")


def test_a_partitioned_table_is_as_large_as_its_parts(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE log (id int PRIMARY KEY, at timestamptz NOT NULL) PARTITION BY RANGE (id);"
        " CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (1000); CREATE TABLE log_2"
        " PARTITION OF log DEFAULT; CREATE INDEX ON log (at); INSERT INTO log SELECT i, now() FROM"
        " generate_series(1, 3000) i"
    )
    shop.spec({"log": {"incremental": "at"}})
    step = plan(shop)["steps"]["extract.extract_log"]
    assert (step["rows"], step["rows_are_exact"], step["table_bytes"] > 100_000) == (
        3000,
        True,
        True,
    )
    shop.in_source("ANALYZE log")
    document = plan(shop)
    assert document["steps"]["extract.extract_log"]["table_rows"] == 3000
    assert not found(document, "extract.extract_log", "warning")


def test_a_table_goes_on_when_a_pattern_comes_to_mean_it_and_when_it_is_named_again(
    project: Project,
) -> None:
    project.in_source(SOURCE)
    named, matched = {"customer": {"incremental": "at"}}, {"cust*": {"incremental": "at"}}
    project.spec(named)
    new_repository(project.folder)
    for tables in (matched, named):
        commit_all(project.folder)
        assert project.cli("run", "shop").returncode == 0
        project.spec(tables)
        told = json.loads(project.cli("plan", "shop", "--diff", "HEAD", "--json").stdout)["diff"][
            "changes"
        ]
        assert [
            change["consequences"] for change in told if change["name"] == "table customer"
        ] == [[]]
        assert "nothing new since" in project.cli("run", "shop", "-v").stdout
