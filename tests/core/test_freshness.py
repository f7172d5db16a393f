"""How old tables and marts are, told from real ledgers: after loads, looks that find nothing new,
failures and transactions that hold rows back. And what `loadsheet status` says of it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.engine import extract
from loadsheet.freshness.ages import read_ages
from loadsheet.freshness.models import Age
from loadsheet.postgres import connect_warehouse
from loadsheet.spec.pipeline_file import load_pipeline
from tests.project import Project

SOURCE = """
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE events (id bigint PRIMARY KEY);
CREATE TABLE country (code text PRIMARY KEY);
INSERT INTO orders SELECT 1, '2020-01-01';
INSERT INTO events SELECT 1;
INSERT INTO country VALUES ('no');
"""
TABLES: dict[str, Any] = {
    "orders": {"incremental": "at"},
    "events": {"incremental": {"cursor": "id", "hold_back": "0s"}},
    "country": None,
}


def limits(**more: Any) -> dict[str, Any]:
    """Another one each time: YAML would make an alias of the same one."""
    return {"fresh_within": {"warn": "1h", "fail": "2h"}, **more}


MARTS: dict[str, Any] = {
    "totals": ("SELECT count(*) AS n FROM staging.orders", limits()),
    "both": ("SELECT n, code FROM mart.totals, staging.country", limits()),
    "seen": ("SELECT * FROM staging.country", limits(materialized="view")),
}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MARTS, defaults=limits(), tasks={"retries": 0})
    return project


def ages(project: Project) -> dict[str, Age]:
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    with connect_warehouse(project.connections("warehouse")) as session:
        found = read_ages(session, [pipeline])[pipeline.name]
    return {one.name: one for one in found}


def levels(project: Project) -> dict[str, str]:
    return {name: one.level for name, one in ages(project).items()}


def pass_time(project: Project, hours: float) -> None:
    """Make all that the ledger has that much older."""
    for table, column in (
        ("scope", "current_at"),
        ("load", "committed_at"),
        ("transform_run", "committed_at"),
        ("verified", "verified_at"),
    ):
        project.in_warehouse(
            f"UPDATE loadsheet.{table} SET {column} = {column} - make_interval(mins => %s)",
            round(hours * 60),
        )


NAMES = ("orders", "events", "country", "totals", "both", "seen")
ALL_FRESH = dict.fromkeys(NAMES, "fresh")
ALL_LATE = dict.fromkeys(NAMES, "late")


def cli(project: Project, *arguments: str) -> Any:
    return CliRunner().invoke(
        app, ["--project", str(project.folder), "status", *arguments], env=project.environment()
    )


def test_before_the_first_run_nothing_is_loaded(shop: Project) -> None:
    assert levels(shop) == dict.fromkeys(NAMES, "never")


def test_runs_keep_a_quiet_source_fresh_and_time_alone_makes_it_late(shop: Project) -> None:
    """Its newest row is years old. A run that finds nothing new shows that none is missing."""
    shop.succeed()
    assert levels(shop) == ALL_FRESH
    pass_time(shop, 1.5)
    assert levels(shop) == dict.fromkeys(NAMES, "warn")
    pass_time(shop, 1)
    assert levels(shop) == ALL_LATE
    states = shop.succeed()
    assert set(states.values()) - {"done"} == {"skipped"}
    assert levels(shop) == ALL_FRESH


def test_a_look_that_is_not_recorded_leaves_a_quiet_source_late(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    shop.succeed()
    pass_time(shop, 3)
    monkeypatch.setattr(extract.current, "record_looks", lambda *_: None)
    shop.succeed()
    assert levels(shop) == ALL_LATE


def test_a_pipeline_without_limits_writes_nothing_when_there_is_nothing_new(shop: Project) -> None:
    shop.spec(TABLES)
    shop.succeed()
    before = shop.in_warehouse("SELECT xmin::text, current_at FROM loadsheet.scope ORDER BY target")
    assert shop.succeed()["extract.extract_orders"] == "skipped"
    assert before == shop.in_warehouse(
        "SELECT xmin::text, current_at FROM loadsheet.scope ORDER BY target"
    )


def test_a_table_that_fails_is_late_alone_with_the_marts_that_read_it(shop: Project) -> None:
    shop.succeed()
    pass_time(shop, 3)
    shop.in_source("ALTER TABLE orders RENAME TO old")
    shop.run()
    found = ages(shop)
    late = {name for name, one in found.items() if one.level == "late"}
    assert late == {"orders", "totals", "both"}
    causes = {found[name].cause for name in late}
    # One cause, so one incident.
    assert len(causes) == 1
    (cause,) = causes
    assert cause and cause.text.startswith("extract of orders failed: ")


def test_a_mart_that_is_not_built_gets_old_from_the_first_load_that_it_lacks(
    shop: Project,
) -> None:
    """Its last build may be long ago: it was late whenever it was about to be built."""
    shop.succeed()
    pass_time(shop, 3)
    shop.in_source("INSERT INTO orders (id) VALUES (2)")
    sql = shop.folder / "pipelines" / shop.name / "sql" / "totals.sql"
    sql.write_text("SELECT count(*) / 0 AS n FROM staging.orders")
    shop.run()
    assert levels(shop) == ALL_FRESH
    pass_time(shop, 3)
    shop.in_source("INSERT INTO orders (id) VALUES (3)")
    shop.run()
    found = ages(shop)
    assert {name for name, one in found.items() if one.level == "late"} == {"totals", "both"}
    assert found["totals"].cause and "transform of totals failed" in found["totals"].cause.text
    assert found["both"].cause == found["totals"].cause


APPENDED: dict[str, Any] = {
    "events": {"incremental": {"cursor": "id", "hold_back": "0s"}, "mode": "append"}
}


@pytest.mark.parametrize("is_loaded", [False, True], ids=["first load", "later"])
def test_rows_that_wait_for_an_open_transaction_make_what_is_appended_old(
    shop: Project, is_loaded: bool
) -> None:
    shop.spec(APPENDED, defaults=limits())
    if is_loaded:
        shop.succeed()
        pass_time(shop, 3)
    with psycopg.connect(shop.source) as writer:
        writer.execute("INSERT INTO events VALUES (2)")
        shop.in_source("INSERT INTO events VALUES (3)")
        shop.run()
        found = ages(shop)["events"]
        assert found.level == ("late" if is_loaded else "fresh")
        assert found.cause and found.cause.key == "held"
        assert f"held back by pid {writer.info.backend_pid} (" in found.cause.text
    shop.succeed()
    assert (ages(shop)["events"].level, ages(shop)["events"].cause) == ("fresh", None)


def test_a_busy_source_makes_nothing_late_that_is_merged(shop: Project) -> None:
    """There, some transaction is always open. All that is visible is loaded all the same."""
    with psycopg.connect(shop.source) as writer:
        writer.execute("INSERT INTO events VALUES (2)")
        shop.in_source("INSERT INTO events VALUES (3)")
        shop.succeed()
        assert levels(shop) == ALL_FRESH
        pass_time(shop, 3)
        shop.succeed()
        assert levels(shop) == ALL_FRESH
        assert shop.in_warehouse("SELECT id FROM staging.events ORDER BY 1") == [(1,), (3,)]


def test_held_back_rows_make_a_table_as_old_as_its_watermark(shop: Project) -> None:
    shop.succeed()
    pass_time(shop, 3)
    shop.in_source("INSERT INTO orders VALUES (2, now() - interval '90 minutes'), (3, now());")
    shop.in_warehouse(
        "UPDATE loadsheet.scope SET watermark = (now() - interval '90 minutes')::text,"
        " waits_for = 'pid 7' WHERE table_name = 'orders'"
    )
    found = ages(shop)["orders"]
    assert found.level == "warn" and found.age
    assert timedelta(minutes=89) < found.age < timedelta(minutes=100)


def test_an_explicit_interval_does_not_make_a_table_fresh(shop: Project) -> None:
    shop.succeed()
    pass_time(shop, 3)
    shop.succeed(
        only=frozenset({"orders"}),
        interval_start="2019-12-01T00:00:00+00:00",
        interval_end="2020-02-01T00:00:00+00:00",
        explicit_interval=True,
    )
    assert levels(shop)["orders"] == "late"


def test_a_table_of_a_pattern_that_left_the_source_is_not_late(shop: Project) -> None:
    shop.spec({"*": None}, defaults=limits())
    assert shop.cli("run", shop.name).returncode == 0
    pass_time(shop, 3)
    assert levels(shop) == {"orders": "late", "events": "late", "country": "late"}
    shop.in_source("DROP TABLE country")
    assert shop.cli("run", shop.name).returncode == 0
    assert levels(shop) == {"orders": "fresh", "events": "fresh"}


def test_an_older_ledger_tells_the_age_of_the_last_load(shop: Project) -> None:
    shop.succeed()
    shop.in_warehouse(
        "ALTER TABLE loadsheet.scope DROP COLUMN current_at, DROP COLUMN waits_for;"
        " COMMENT ON SCHEMA loadsheet IS 'ledger version 7'"
    )
    assert levels(shop) == ALL_FRESH
    shop.in_warehouse("UPDATE loadsheet.load SET committed_at = now() - interval '3 hours'")
    assert levels(shop) == ALL_LATE


def test_status_shows_what_is_late_and_a_monitor_gets_an_exit_code(shop: Project) -> None:
    assert cli(shop, shop.name).exit_code == 0
    assert cli(shop, shop.name, "--fail-if-late").exit_code == 1
    shop.succeed()
    done = cli(shop, shop.name, "--fail-if-late")
    assert done.exit_code == 0, done.output
    pass_time(shop, 3.1)
    page = cli(shop, shop.name)
    assert page.exit_code == 0
    assert "late, 3h 6m old" in page.stdout
    assert "orders is 3h 6m old, fresh_within 2h" in page.stdout
    done = cli(shop, shop.name, "--json", "--fail-if-late")
    assert done.exit_code == 1
    (entry,) = json.loads(done.stdout)["pipelines"]
    found = {
        one.get("table") or one["transform"]: one["freshness"]
        for one in [*entry["tables"], *entry["transforms"]]
    }
    assert {one["level"] for one in found.values()} == {"late"}
    orders = found["orders"]
    assert (orders["warn_seconds"], orders["fail_seconds"], orders["late"]) == (3600, 7200, True)
    assert 11_100 < orders["age_seconds"] < 12_000 and orders["as_of"] and orders["cause"] is None


def proofs(project: Project) -> dict[str, tuple[str, str]]:
    """The level of each comparison, and what is wrong with it."""
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    with connect_warehouse(project.connections("warehouse")) as session:
        found = read_ages(session, [pipeline])[pipeline.name]
    return {
        one.name: (one.level, one.cause.key if one.cause else "")
        for one in found
        if one.of == "verify"
    }


def proven() -> dict[str, Any]:
    """Another one each time, as above."""
    return {"fresh_within": {"verified": "8d"}}


WITHIN = ("fresh", "unverified")
NEGLECTED = ("late", "unverified")


def test_a_table_that_is_not_compared_in_time_is_late_from_its_first_load(shop: Project) -> None:
    marts = {"totals": ("SELECT count(*) AS n FROM staging.orders", proven())}
    shop.spec({"orders": proven(), "country": None}, marts)
    assert proofs(shop) == {}
    shop.succeed()
    both = ("orders", "totals")
    assert proofs(shop) == dict.fromkeys(both, WITHIN) and ages(shop).keys() == set(both)
    pass_time(shop, 8 * 24)
    shop.in_source("INSERT INTO orders VALUES (2)")
    shop.succeed()  # a load proves nothing
    assert proofs(shop) == dict.fromkeys(both, NEGLECTED)
    text = "orders is not verified, fresh_within.verified 8d: it was never compared"
    assert text in " ".join(cli(shop, shop.name).stdout.split())
    shop.verify("orders")
    assert proofs(shop) == {"orders": WITHIN, "totals": NEGLECTED}
    shop.verify()
    assert proofs(shop) == dict.fromkeys(both, WITHIN)
    assert cli(shop, shop.name, "--fail-if-late").exit_code == 0


def test_a_table_that_differs_is_late_until_all_of_it_is_compared_again(shop: Project) -> None:
    shop.spec({"orders": proven()})
    shop.succeed()
    shop.in_warehouse("DELETE FROM staging.orders")
    shop.verify()
    assert proofs(shop) == {"orders": ("late", "differs")}
    done = cli(shop, shop.name, "--json", "--fail-if-late")
    assert done.exit_code == 1
    (entry,) = json.loads(done.stdout)["pipelines"]
    proof = entry["tables"][0]["proof"]
    assert (proof["late"], proof["limit_seconds"]) == (True, 8 * 86_400)
    assert proof["cause"] == "its last comparison found that it differs (rows: 1 missing)"
    gauges = cli(shop, shop.name, "--prometheus").stdout
    assert 'loadsheet_late{pipeline="shop",kind="table",name="orders",of="verify"} 1' in gauges
    assert shop.cli("verify", shop.name, "--repair").returncode == 0
    assert proofs(shop) == {"orders": WITHIN}


def test_a_table_of_a_pattern_that_left_the_source_needs_no_comparison(shop: Project) -> None:
    shop.spec({"*": None}, defaults=proven())
    assert shop.cli("run", shop.name).returncode == 0
    shop.in_source("DROP TABLE country")
    pass_time(shop, 8 * 24)
    assert proofs(shop) == dict.fromkeys(("orders", "events", "country"), NEGLECTED)
    assert shop.cli("run", shop.name).returncode == 0
    assert proofs(shop) == dict.fromkeys(("orders", "events"), NEGLECTED)


def test_status_says_nothing_of_the_age_where_it_does_not_matter(shop: Project) -> None:
    shop.spec(TABLES)
    shop.succeed()
    (entry,) = json.loads(cli(shop, shop.name, "--json").stdout)["pipelines"]
    assert {table["freshness"] for table in entry["tables"]} == {None}
    assert "fresh" not in cli(shop, shop.name).stdout


def test_a_restored_table_is_as_old_as_the_load_that_it_is_from(shop: Project) -> None:
    shop.succeed()
    pass_time(shop, 3)
    shop.in_source("INSERT INTO events VALUES (2)")
    shop.succeed()
    assert levels(shop)["events"] == "fresh"
    (first,) = shop.in_warehouse(
        "SELECT min(load_no)::text FROM loadsheet.load WHERE table_name = 'events'"
    )[0]
    done = shop.cli("restore", shop.name, "events", "--as-of", first)
    assert done.returncode == 0, done.stderr
    assert levels(shop)["events"] == "late"
