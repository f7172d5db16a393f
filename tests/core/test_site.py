"""What `loadsheet docs` knows of a pipeline on real servers, and that it tells the same twice."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from loadsheet.errors import ConnectionMissing
from loadsheet.site.recorded import recorded
from tests.project import Project, load_tables

SOURCE = """
CREATE TABLE orders (
    id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), sum int, memo text);
CREATE INDEX ON orders (at);
CREATE TABLE country (code text PRIMARY KEY);
INSERT INTO orders (id, sum) SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO country VALUES ('no'), ('pe');
COMMENT ON TABLE orders IS 'What customers have bought';
COMMENT ON COLUMN orders.memo IS 'Never leaves the shop';
"""
TABLES = {
    "orders": {
        "incremental": "at",
        "columns": {"exclude": ["memo"]},
        "fresh_within": {"fail": "2h"},
        "max_shrink": 0.2,
    },
    "country": None,
}
MARTS = {"totals": "SELECT sum(sum) AS total FROM staging.orders"}
TEST = """
tests:
  the sum of all orders:
    given:
      staging.orders: [{id: 1, sum: 5}]
    expect:
      mart.totals: [{total: 5}]
"""


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MARTS, tasks={"retries": 0})
    folder = file_of(project).parent / "tests"
    folder.mkdir()
    (folder / "totals.yml").write_text(TEST)
    project.succeed()
    return project


def file_of(project: Project) -> Path:
    return project.folder / "pipelines" / project.name / "pipeline.yml"


def record(project: Project, connect: bool = True) -> dict[str, Any]:
    documents = recorded([file_of(project)], project.connections if connect else None)
    json.dumps(documents, allow_nan=False)
    return documents


def entries(documents: dict[str, Any]) -> dict[str, Any]:
    [pipeline] = documents["overview"]["pipelines"]
    return {entry["name"]: entry for entry in pipeline["targets"]}


def made_of(documents: dict[str, Any], target: dict[str, Any]) -> set[str]:
    """The tables that a table or mart is made of, and itself."""
    [pipeline] = documents["overview"]["pipelines"]
    return {pipeline["lineage"]["tables"][place]["name"] for place in target["upstream"]["tables"]}


def test_a_table_has_its_source_its_columns_comments_and_keys(shop: Project) -> None:
    shop.as_loader("COMMENT ON TABLE staging.orders IS 'From the shop'")
    shop.as_loader("COMMENT ON COLUMN staging.orders.sum IS 'In cents'")
    orders = entries(record(shop))["orders"]
    assert orders["comment"] == "From the shop"
    assert {one["name"]: one["comment"] for one in orders["columns"]}["sum"] == "In cents"
    assert (orders["primary_key"], orders["mode"], orders["reads_by"]) == (["id"], "merge", "at")
    source = orders["source"]
    assert (source["name"], source["comment"]) == ("public.orders", "What customers have bought")
    types = {one["name"]: one["type"] for one in source["columns"]}
    assert types["memo"] == "text"
    assert "memo" not in {one["name"] for one in orders["columns"]}
    assert "Never leaves the shop" in {one["comment"] for one in source["columns"]}


def test_a_mart_has_its_sql_and_the_lineage_of_its_columns_up_to_the_source(shop: Project) -> None:
    documents = record(shop)
    totals = entries(documents)["totals"]
    assert "FROM staging.orders" in totals["sql"]
    assert [one["name"] for one in totals["columns"]] == ["total"]
    assert "public.orders" in made_of(documents, totals)
    [pipeline] = documents["overview"]["pipelines"]
    edges = [pipeline["lineage"]["edges"][place] for place in totals["upstream"]["edges"]]
    assert ("public.orders", "sum") in [
        (one["from"]["table"], one["from"]["column"]) for one in edges
    ]


def test_checks_come_with_their_last_result(shop: Project) -> None:
    before = record(shop)
    assert entries(before)["orders"]["verified"] is None
    assert entries(before)["orders"]["freshness"]["level"] == "fresh"
    shop.in_warehouse("UPDATE staging.orders SET sum = -1 WHERE id = 5")
    shop.verify("orders")
    documents = record(shop)
    assert entries(documents)["orders"]["verified"]["verdict"] == "differs"
    texts = {one["text"]: one for one in entries(documents)["orders"]["checks"]}
    assert list(texts) == [
        "a full load removes at most 20% of the rows",
        "fresh: late from 2h on",
        "equals its source",
    ]
    [test, _] = entries(documents)["totals"]["checks"]
    assert (test["kind"], test["text"]) == ("test", "the sum of all orders")
    assert test["where"].endswith("tests/totals.yml:3")


def test_two_sites_differ_only_in_their_time_where_nothing_has_changed(shop: Project) -> None:
    # What the planner knows of sizes is then the same at both times.
    shop.in_warehouse("ANALYZE")
    before, after = record(shop), record(shop)
    before["overview"]["at"] = after["overview"]["at"] = "now"
    assert before == after
    shop.as_loader("COMMENT ON COLUMN mart.totals.total IS 'All of it'")
    assert record(shop)["overview"]["pipelines"] != before["overview"]["pipelines"]


def test_without_connections_it_has_what_the_files_say(shop: Project) -> None:
    documents = record(shop, connect=False)
    [pipeline] = documents["overview"]["pipelines"]
    assert "--no-connect" in pipeline["unknown"]
    assert {name: one["state"] for name, one in entries(documents).items()} == {
        "orders": "unknown",
        "country": "unknown",
        "totals": "unknown",
    }
    totals = entries(documents)["totals"]
    assert made_of(documents, totals) == {"public.orders", "staging.orders", "mart.totals"}
    assert "FROM staging.orders" in totals["sql"]
    assert totals["checks"][0]["text"] == "the sum of all orders"
    assert "only tables" in totals["lineage_unknown"]


def test_without_the_source_it_has_what_the_warehouse_knows(shop: Project) -> None:
    def connections(conn_id: str) -> Any:
        if conn_id == "shop_source":
            raise ConnectionMissing("there is no connection 'shop_source'")
        return shop.connections(conn_id)

    documents = recorded([file_of(shop)], connections)
    [pipeline] = documents["overview"]["pipelines"]
    assert (pipeline["unknown"], entries(documents)["orders"]["rows"]) == (None, 100)
    orders = entries(documents)["orders"]
    assert orders["source"] is None
    assert "no connection 'shop_source'" in orders["source_unknown"]
    assert [one["name"] for one in orders["columns"]][:2] == ["id", "at"]


def test_the_command_writes_one_page_without_secrets(shop: Project) -> None:
    password = shop.connections("warehouse").password or "s3cr3t"
    shop.as_loader(f"COMMENT ON TABLE mart.totals IS 'see postgresql://me:{password}@db/x'")
    done = shop.cli("docs", "--out", str(shop.folder / "site"))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"written: \S+/site/index.html \(1 pipeline, 3 tables and marts\)\n", done.stdout
    )
    page = (shop.folder / "site" / "index.html").read_text()
    assert "What customers have bought" in page
    assert "see postgresql://" in page
    assert f":{password}@" not in page
    for conn_id in ("shop_source", "warehouse", "lake"):
        connection = shop.connections(conn_id)
        assert not connection.password or connection.password not in page
    assert [file.name for file in (shop.folder / "site").iterdir()] == ["index.html"]


def test_it_takes_as_many_statements_for_many_tables_as_for_few(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    def statements(count: int) -> int:
        load_tables(project, count)
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "loadsheet.postgres"):
            assert len(entries(record(project))) == count
        return len(caplog.records)

    few = statements(2)
    assert few > 8  # they are logged at all
    assert statements(8) <= few
