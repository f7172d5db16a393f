"""What `loadsheet plan --connect` says is what a run then does, where that is easily got wrong."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.outcome import Outcome
from loadsheet.sql.text import ident
from tests.core.planned import *  # noqa: F403
from tests.core.planned import MART, TABLES, as_role, fixes, found, plan
from tests.project import Project


def merged(sql: str) -> tuple[str, dict[str, Any]]:
    return sql, {"materialized": "merge", "unique_key": "id"}


NEW_NAMES = {"names": merged("SELECT id, name FROM staging.customer WHERE _load_id > :since_load")}


def agree(shop: Project, *, fails: str = "", **request: Any) -> dict[str, Any]:
    """Plan, then run: a step that would fail fails, with the plan's words, and one that would not
    change does not.

    Returns the plan.
    """
    document = plan(shop, code=1 if fails else 0)
    results = shop.run(**request)
    failed = [name for name, result in results.items() if result.state == "failed"]
    assert failed == ([fails] if fails else []), failed
    if fails:
        assert found(document, fails)[0].split(";")[0] in str(results[fails].result)
    for name, result in results.items():
        told = document["steps"][name]["changes"]
        counts = result.result.counts if isinstance(result.result, Outcome) else {}
        is_quiet = result.state != "done" or (
            result.step.kind == "load" and not any(list(counts.values())[1:])
        )
        if name != "create_bucket" and told != "maybe":
            assert is_quiet == (told == "no"), (name, told, result)
    return document


def changed(shop: Project) -> None:
    shop.in_source("UPDATE customer SET name = name || '!', at = clock_timestamp() WHERE id = 1")


def test_a_view_on_a_column_that_widens_stops_plan_and_run(shop: Project) -> None:
    shop.spec(TABLES, {"view": ("SELECT id FROM staging.customer", {"materialized": "view"})})
    shop.succeed()
    shop.in_source("ALTER TABLE customer ALTER id TYPE bigint")
    changed(shop)
    message = found(plan(shop, code=1), "load.load_customer")[0]
    assert 'cannot ALTER COLUMN "id" TYPE bigint: view mart.view uses it' in message
    assert 'cannot ALTER COLUMN "id" TYPE bigint' in str(shop.run()["load.load_customer"].result)
    shop.in_warehouse("DROP VIEW mart.view")
    agree(shop)


def test_a_table_that_would_shrink_too_much_stops_plan_and_run(shop: Project) -> None:
    shop.spec({"customer": {"max_shrink": 0.1}})
    shop.succeed()
    shop.in_source("DELETE FROM customer WHERE id > 95")
    agree(shop)
    shop.in_source("DELETE FROM customer WHERE id > 50")
    agree(shop, fails="load.load_customer")


def test_an_interval_of_a_table_without_a_key_stops_plan_and_run(shop: Project) -> None:
    shop.in_source("CREATE TABLE log (n int, at timestamptz NOT NULL)")
    interval = {
        "interval_start": "2026-01-01T00:00:00+00:00",
        "interval_end": "2026-01-02T00:00:00+00:00",
    }
    by_interval = {"incremental": {"cursor": "at", "by": "data_interval"}}
    shop.spec({"log": by_interval}, schedule="@daily", start_date="2026-01-01")
    agree(shop, fails="extract.extract_log", **interval)
    shop.in_source("ALTER TABLE log ADD PRIMARY KEY (n)")
    agree(shop, **interval)


def test_an_endless_cursor_stops_plan_and_run(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE log (n int PRIMARY KEY, at numeric NOT NULL); INSERT INTO log VALUES (1, 1)"
    )
    shop.spec({"log": {"incremental": "at"}})
    agree(shop)
    shop.in_source("INSERT INTO log VALUES (2, 'Infinity')")
    agree(shop, fails="extract.extract_log")


def test_a_key_that_is_null_stops_the_load_and_not_the_extract(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE log (n int, at timestamptz NOT NULL); INSERT INTO log VALUES (1, now()),"
        " (NULL, now())"
    )
    shop.spec({"log": {"primary_key": "n", "incremental": "at"}})
    agree(shop, fails="load.load_log")
    shop.in_source("DELETE FROM log WHERE n IS NULL")
    agree(shop)


@pytest.mark.parametrize(
    "table",
    [
        {"incremental": "at", "lookback": "1h"},
        {"incremental": {"cursor": "maybe", "nulls": "include"}},
    ],
)
def test_rows_that_are_read_again_may_change_nothing(shop: Project, table: dict[str, Any]) -> None:
    shop.in_source(
        "ALTER TABLE customer ADD day date NOT NULL DEFAULT current_date, ADD maybe timestamptz"
    )
    shop.spec({"customer": table}, NEW_NAMES)
    shop.succeed()
    steps = agree(shop)["steps"]
    assert [
        steps[name]["changes"] for name in ("extract.extract_customer", "load.load_customer")
    ] == ["yes", "maybe"]
    assert steps["transform.transform_names"]["does"] == "built if customer changes"


def test_rows_of_today_are_read_again_only_if_there_are_new_ones(shop: Project) -> None:
    shop.in_source("ALTER TABLE customer ADD day date NOT NULL DEFAULT current_date")
    shop.spec({"customer": {"incremental": "day"}})
    shop.succeed()
    assert agree(shop)["steps"]["extract.extract_customer"]["changes"] == "no"
    shop.in_source("INSERT INTO customer (id, name) VALUES (10001, 'new')")
    assert agree(shop)["steps"]["extract.extract_customer"]["changes"] == "yes"


def test_what_was_held_back_before_is_read_again(shop: Project) -> None:
    shop.spec({"customer": {"incremental": "at"}})
    shop.succeed()
    with psycopg.connect(shop.source) as session:
        session.execute("INSERT INTO customer VALUES (900, 'late')")
        shop.in_source("INSERT INTO customer VALUES (901, 'early')")
        shop.succeed()
        session.rollback()
    assert agree(shop)["steps"]["load.load_customer"]["changes"] == "maybe"
    assert plan(shop)["steps"]["load.load_customer"]["changes"] == "no"


def test_rows_to_append_may_come_when_those_who_hold_them_back_have_ended(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, x int); INSERT INTO log (x)"
        " VALUES (1)"
    )
    shop.spec({"log": {"incremental": "n"}})
    shop.succeed()
    assert plan(shop)["steps"]["extract.extract_log"]["changes"] == "no"
    with psycopg.connect(shop.source) as session:
        session.execute("INSERT INTO log (x) VALUES (2)")
        shop.in_source("INSERT INTO log (x) VALUES (3)")
        step = plan(shop)["steps"]["extract.extract_log"]
    assert (step["changes"], step["does"]) == (
        "maybe",
        "rows of n above 1, when the transactions that hold them back have ended",
    )


def test_what_reads_a_changed_view_table_or_script_is_built_as_the_plan_says(shop: Project) -> None:
    marts = {
        "view": ("SELECT id, name FROM staging.customer", {"materialized": "view"}),
        "whole": "SELECT id, name FROM staging.customer",
        "script": (
            "CREATE TABLE IF NOT EXISTS mart.s AS SELECT id FROM staging.customer",
            {"materialized": "script"},
        ),
        "of_view": merged("SELECT id, name FROM mart.view"),
        "of_whole": merged("SELECT id, name FROM mart.whole"),
        **NEW_NAMES,
        "of_merge": merged("SELECT id, name FROM mart.names"),
    }
    shop.spec({"customer": {"incremental": "at"}}, marts)
    shop.succeed()
    changed(shop)
    document = agree(shop)
    built = dict(
        shop.in_warehouse(
            "SELECT DISTINCT ON (transform) transform, full_build FROM loadsheet.transform_run "
            "ORDER BY transform, run_no DESC"
        )
    )
    told = {name: document["steps"][f"transform.transform_{name}"]["does"] for name in marts}
    in_full = {name for name, does in told.items() if does.startswith("built in full")}
    assert in_full == {name for name, full in built.items() if full} == {"of_view", "of_whole"}


def test_a_difference_applied_in_place_rebuilds_nothing(shop: Project) -> None:
    marts = {
        "view": ("SELECT code FROM staging.country", {"materialized": "view"}),
        "codes": merged("SELECT code AS id FROM staging.country WHERE _load_id > :since_load"),
    }
    shop.spec({"country": None}, marts)
    shop.succeed()
    shop.in_source("UPDATE country SET name = 'Norge' WHERE code = 'no'")
    document = agree(shop)
    assert document["steps"]["transform.transform_codes"]["does"].startswith(
        "built: new rows in country; in full if"
    )


def test_the_sql_of_new_rows_has_the_number_from_which_they_are_new(shop: Project) -> None:
    shop.spec({"customer": {"incremental": "at"}}, NEW_NAMES)
    assert "_load_id > 0" in shop.cli("plan", "shop", "--connect", "--sql", "names").stdout
    shop.succeed()
    changed(shop)
    seen = shop.in_warehouse("SELECT max(seen_load) FROM loadsheet.transform_run")[0][0]
    told = shop.cli("plan", "shop", "--connect", "--sql", "names").stdout
    assert seen > 0 and f"_load_id > {seen}" in told
    assert told.startswith(
        '-- transform.transform_names\nCREATE TEMPORARY TABLE "_loadsheet_<number>"'
    )


def test_columns_that_swap_their_names_are_renamed_as_the_plan_says(shop: Project) -> None:
    shop.spec({"customer": {"incremental": "at"}})
    shop.in_source("ALTER TABLE customer ADD nick text; UPDATE customer SET nick = 'nick'")
    shop.succeed()
    shop.in_source(
        "ALTER TABLE customer RENAME name TO x; ALTER TABLE customer RENAME nick TO name"
    )
    shop.in_source("ALTER TABLE customer RENAME x TO nick")
    changed(shop)
    ddl = plan(shop)["steps"]["load.load_customer"]["ddl"]
    with psycopg.connect(shop.warehouse) as session:
        for statement in ddl:
            session.execute(statement)
        assert session.execute("SELECT DISTINCT name FROM staging.customer").fetchall() == [
            ("nick",)
        ]
        session.rollback()
    shop.succeed()
    assert shop.differences("customer") == 0


def test_a_table_that_somebody_locks_is_not_known_and_no_error(shop: Project) -> None:
    shop.grant()
    with psycopg.connect(shop.source) as session:
        session.execute("LOCK TABLE customer IN ACCESS EXCLUSIVE MODE")
        document = plan(shop)
    assert (
        "another session has locked the table"
        in document["steps"]["extract.extract_customer"]["does"]
    )
    assert {
        document["steps"][f"{kind}.{kind}_customer"]["changes"] for kind in ("extract", "load")
    } == {"maybe"}
    assert document["steps"]["load.load_country"]["does"] == "creates staging.country"


def test_a_size_is_that_of_all_parts_and_of_what_is_stored_beside_them(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE long (id int PRIMARY KEY, t text); ALTER TABLE long ALTER t SET STORAGE"
        " EXTERNAL; INSERT INTO long SELECT i, repeat('x', 99999) FROM generate_series(1, 20) i;"
        " CREATE TABLE base (id int); CREATE TABLE child () INHERITS (base); INSERT INTO child"
        " SELECT generate_series(1, 5000); CREATE VIEW seen AS SELECT * FROM long; ANALYZE"
    )
    shop.spec({"long": None, "base": None, "seen": {"primary_key": "id"}})
    steps = plan(shop)["steps"]
    assert steps["extract.extract_long"]["table_bytes"] > 1_900_000
    assert (
        steps["extract.extract_base"]["table_rows"] == 5000
        and steps["extract.extract_base"]["table_bytes"] > 100_000
    )
    assert (
        steps["extract.extract_seen"]["table_rows"]
        is steps["extract.extract_seen"]["table_bytes"]
        is None
    )


def test_every_fix_can_be_run(shop: Project) -> None:
    shop.in_source(
        'CREATE TABLE "Odd ""name" ("Key" int NOT NULL, at timestamptz); CREATE VIEW seen AS SELECT'
        ' * FROM "Odd ""name"'
    )
    shop.spec({name: {"primary_key": "Key", "incremental": "at"} for name in ('Odd "name', "seen")})
    steps = plan(shop)["steps"].values()
    given = [remark["fix"] for step in steps for remark in step["remarks"] if remark["fix"]]
    assert len(given) == 3  # an index, NOT NULL and a unique index; a view can have none of them
    for fix in given:
        shop.in_source(fix)
    document = plan(shop)
    assert not [
        remark for step in document["steps"].values() for remark in step["remarks"] if remark["fix"]
    ]


PATTERN = {"c*": None}


def test_a_plan_with_patterns_leaves_an_old_ledger_as_it_is(shop: Project) -> None:
    version = "SELECT obj_description('loadsheet'::regnamespace)"
    shop.succeed()
    shop.in_warehouse("COMMENT ON SCHEMA loadsheet IS 'ledger version 3'")
    shop.spec(PATTERN)
    assert "brings the ledger from version 3 to" in plan(shop)["steps"]["extract"]["does"]
    assert shop.in_warehouse(version) == [("ledger version 3",)]
    assert shop.cli("run", "shop").returncode == 0
    assert shop.in_warehouse(version) != [("ledger version 3",)]
    shop.in_warehouse("COMMENT ON SCHEMA loadsheet IS 'ledger version 99'")
    assert "update Loadsheet" in found(plan(shop, code=1), "extract")[0]


def test_a_table_of_a_pattern_that_is_gone_is_skipped(shop: Project) -> None:
    shop.spec(PATTERN, MART)
    assert shop.cli("run", "shop").returncode == 0
    shop.in_source("DROP TABLE customer")
    document = plan(shop, "--exit-code")
    assert "the source does not have it" in document["steps"]["extract.extract_customer"]["does"]
    assert document["steps"]["load.load_customer"]["does"] == "skipped: nothing was extracted"
    assert shop.cli("run", "shop").returncode == 0


def test_a_transform_waits_for_a_table_of_a_pattern_that_never_came(shop: Project) -> None:
    shop.in_source("DROP TABLE customer")
    shop.spec(PATTERN, MART)
    document = plan(shop)
    assert (
        document["steps"]["transform.transform_names"]["does"]
        == "waits for staging.customer, not loaded yet"
    )
    ran = shop.cli("run", "shop")
    assert ran.returncode == 0 and "waits for staging.customer, not loaded yet" in ran.stdout


def test_the_sql_of_a_pattern_is_that_of_its_tables(shop: Project) -> None:
    shop.spec(PATTERN)
    told = shop.cli("plan", "shop", "--connect", "--sql", "c*").stdout
    assert [line for line in told.splitlines() if line.startswith("-- extract.")] == [
        "-- extract.extract_country",
        "-- extract.extract_customer",
    ]


@pytest.mark.parametrize("away", ["source", "warehouse"])
def test_with_patterns_too_the_server_that_is_away_is_named(shop: Project, away: str) -> None:
    shop.spec(PATTERN)
    setattr(shop, away, "postgresql://nobody:secret@127.0.0.1:1/none")
    done = shop.cli("plan", "shop", "--connect")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: the {away} (connection '" in done.stderr


def test_names_from_the_source_steer_no_terminal(shop: Project) -> None:
    from typer.testing import CliRunner

    from loadsheet.cli.main import app

    shop.in_source('ALTER TABLE customer ADD "\x1b[2Kbad" int')
    for more in ([], ["--sql", "all"]):
        arguments = ["--project", str(shop.folder), "plan", "shop", "--connect", *more]
        done = CliRunner().invoke(app, arguments, env=shop.environment(), color=True)
        assert "\\x1b[2Kbad" in done.stdout and "\x1b" not in done.stdout


def follow(shop: Project, owner: str, most: int = 5) -> list[str]:
    """Do what the plan says is lacking until nothing is; the statements."""
    done: list[str] = []
    for _ in range(most):
        if not (lacking := fixes(plan(shop, code=1 if len(done) == 0 else None))):
            return done
        with psycopg.connect(owner, autocommit=True) as session:
            for statement in lacking:
                session.execute(statement)
        done += lacking
    raise AssertionError(f"still lacking: {lacking}")


def test_what_a_role_lacks_on_another_ones_tables_is_given_by_the_grants_and_no_more(
    shop: Project, role: str
) -> None:
    shop.in_source(
        "CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY); INSERT INTO log DEFAULT VALUES"
    )
    shop.spec({"customer": {"incremental": "at"}, "log": {"incremental": "n"}}, NEW_NAMES)
    shop.succeed()
    changed(shop)
    shop.in_source("INSERT INTO log DEFAULT VALUES")
    owner, shop.warehouse = shop.warehouse, as_role(shop.warehouse, role)
    given = follow(shop, owner)
    assert shop.cli("run", "shop").returncode == 0
    assert not [statement for statement in given if "CREATE" in statement or "OWNER" in statement]
    assert f'GRANT INSERT ON "staging"."log" TO {ident(role)};' in given


def test_who_may_not_own_a_table_replaces_its_rows_in_place(shop: Project, role: str) -> None:
    """A role that could not give the new table its owner is asked for no ownership."""
    shop.spec({"country": None})
    shop.succeed()
    shop.in_source("UPDATE country SET name = 'Norge' WHERE code = 'no'")
    owner, shop.warehouse = shop.warehouse, as_role(shop.warehouse, role)
    given = follow(shop, owner)
    assert not [statement for statement in given if "CREATE" in statement or "OWNER" in statement]
    assert shop.cli("run", "shop").returncode == 0
    shop.warehouse = owner
    assert shop.differences("country") == 0


def test_a_schema_for_the_ledger_that_somebody_else_made_is_told(shop: Project, role: str) -> None:
    owner, shop.warehouse = shop.warehouse, as_role(shop.warehouse, role)
    with psycopg.connect(owner, autocommit=True) as session:
        for schema in ("loadsheet", "staging", "mart"):
            session.execute(
                f"CREATE SCHEMA {schema}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {ident(role)}"
            )
    assert len(follow(shop, owner)) == 2
    assert shop.cli("run", "shop").returncode == 0


def test_an_older_ledger_of_another_role_is_brought_up_to_date_after_what_the_plan_says(
    shop: Project, role: str
) -> None:
    shop.succeed()
    shop.in_warehouse(
        "COMMENT ON SCHEMA loadsheet IS 'ledger version 3'; DROP TABLE loadsheet.failure"
    )
    owner, shop.warehouse = shop.warehouse, as_role(shop.warehouse, role)
    follow(shop, owner)
    assert shop.cli("run", "shop").returncode == 0


def test_what_others_make_must_be_readable_too(shop: Project, role: str) -> None:
    shop.in_warehouse("CREATE TABLE public.rates (rate int)")
    marts = {"names": "SELECT id, rate FROM staging.customer, rates"}
    shop.spec(TABLES, marts, external=["public.rates"])
    owner, shop.warehouse = shop.warehouse, as_role(shop.warehouse, role)
    assert f'GRANT SELECT ON "public"."rates" TO {ident(role)};' in follow(shop, owner)
    assert shop.cli("run", "shop").returncode == 0
