"""Patterns in the place of a table's name: `loadsheet run` asks the source what they mean when it
begins."""

from __future__ import annotations

import json

import pytest

from loadsheet.names import slug
from tests.project import Project

SOURCE = """
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE log_web (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE countries (code text PRIMARY KEY);
CREATE TABLE tmp_sums (id int);
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE VIEW seen AS SELECT * FROM orders;
INSERT INTO orders VALUES (1), (2); INSERT INTO log_web VALUES (1); INSERT INTO parted VALUES (7);
INSERT INTO countries VALUES ('no');
"""
TABLES = {
    "orders": {"incremental": "at"},
    "log_*": {"incremental": "at", "mode": "append"},
    "*": {"exclude": ["tmp_*"]},
}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, {"codes": "SELECT code FROM staging.countries"})
    return project


def run(project: Project, *arguments: str) -> dict[str, str]:
    """The state of each step by its id."""
    done = project.cli("run", project.name, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return {step["id"]: step["status"] for step in json.loads(done.stdout)["steps"]}


def test_tables_named_exactly_win_then_the_first_pattern_and_views_and_partitions_stay_out(
    shop: Project,
) -> None:
    steps = run(shop)
    assert [name for name in steps if name.startswith("extract.")] == [
        "extract.extract_orders",
        "extract.extract_log_web",
        "extract.extract_countries",
        "extract.extract_parted",
    ]
    assert set(steps.values()) == {"done"}
    shop.in_source("INSERT INTO orders VALUES (3); INSERT INTO log_web VALUES (2)")
    run(shop)
    modes = dict(
        shop.in_warehouse("SELECT table_name, action FROM loadsheet.load ORDER BY load_no")
    )
    assert (modes["orders"], modes["log_web"], modes["countries"]) == ("merge", "append", "replace")
    assert shop.differences("parted") == shop.differences("countries") == 0
    assert shop.in_warehouse("SELECT code FROM mart.codes") == [("no",)]
    assert set(run(shop).values()) == {"done", "skipped"}


def test_a_new_table_comes_with_the_next_run_and_one_that_is_gone_stays_in_the_warehouse(
    shop: Project,
) -> None:
    run(shop)
    shop.in_source(
        "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1); DROP TABLE parted"
    )
    steps = run(shop)
    assert steps["load.load_late"] == "done" and shop.differences("late") == 0
    assert steps["extract.extract_parted"] == steps["load.load_parted"] == "skipped"
    assert "no longer in the source; the loaded rows stay" in shop.cli("run", "shop").stdout
    assert shop.in_warehouse("SELECT id FROM staging.parted") == [(7,)]
    assert "parted" in shop.cli("status", "shop").stdout
    gone = json.loads(shop.cli("gc", "shop", "--dry-run", "--json").stdout)["pipelines"][0][
        "tables"
    ]
    assert {table["table"] for table in gone} >= {"parted", "late", "orders"}


def test_only_some_of_the_tables_that_match_can_be_asked_for(shop: Project) -> None:
    steps = run(shop, "--tables", "countries,log_web")
    assert steps["load.load_countries"] == steps["load.load_log_web"] == "done"
    assert steps["load.load_orders"] == steps["load.load_parted"] == "skipped"
    wrong = shop.cli("run", "shop", "--tables", "contries")
    assert wrong.returncode == 2 and "did you mean 'countries'?" in wrong.stderr


def test_a_pattern_that_matches_nothing_is_told(shop: Project) -> None:
    shop.spec({**TABLES, "audit_*": None, "countries_??": None})
    told = shop.cli("run", "shop")
    assert told.returncode == 0
    assert (
        told.stderr == "no table in schema 'public' of the source matches audit_*, countries_??\n"
    )
    shop.in_source("CREATE TABLE audit_1 (id int); CREATE TABLE countries_no (id int)")
    # "*" stands before them, and takes theirs
    assert shop.cli("run", "shop").stderr.count("audit_*") == 1


def test_check_and_plan_ask_no_server(shop: Project) -> None:
    shop.source = shop.warehouse = "postgresql://nobody:x@127.0.0.1:1/none"
    assert shop.cli("check").returncode == 0
    steps = json.loads(shop.cli("plan", "shop", "--json").stdout)["steps"]
    by_id = {step["id"]: step for step in steps}
    resolves = [step["name"] for step in steps if step["kind"] == "resolve"]
    assert resolves == ["log_*", "*"]
    upstream = by_id["transform.transform_codes"]["upstream"]
    assert [by_id[name]["kind"] for name in upstream] == ["extract", "load"]  # of the whole pattern
    assert {by_id[name]["name"] for name in upstream} == {"*"}


def test_a_mart_may_not_read_what_no_pattern_matches(shop: Project) -> None:
    shop.spec(TABLES, {"sums": "SELECT id FROM staging.tmp_sums"})
    check = shop.cli("check")
    assert (
        check.returncode == 2
        and "staging.tmp_sums, which is not a table of this pipeline" in check.stdout
    )


def test_a_table_with_a_star_in_its_name_is_loaded_alone(project: Project) -> None:
    project.in_source(
        'CREATE TABLE "odd*name" (id int PRIMARY KEY); CREATE TABLE oddxname (id int PRIMARY KEY);'
    )
    project.in_source('INSERT INTO "odd*name" VALUES (1), (2)')
    project.spec(
        {"odd[*]name": {"primary_key": "id"}}, {"odd": 'SELECT id FROM staging."odd*name"'}
    )
    steps = run(project)
    assert len([name for name in steps if name.startswith("extract.")]) == 1 and set(
        steps.values()
    ) == {"done"}
    assert project.differences("odd*name") == 0
    assert project.in_warehouse("SELECT count(*) FROM mart.odd") == [(2,)]
    assert run(project, "--tables", "odd*name")[f"extract.extract_{slug('odd*name')}"] == "skipped"
