"""The SQL on pages is run: how to compare, switch and join old and new tables."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from tests.project import ROOT, Project


def sql_of(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(r"^```sql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


COMPARE, SWITCH, JOIN = sql_of("migrate.md")
SOURCE = """
CREATE TABLE orders (
    order_id int PRIMARY KEY, customer_id int, amount numeric, status text, updated_at timestamptz
);
INSERT INTO orders SELECT i, i % 7, i, 'open', now() - interval '2 days'
    FROM generate_series(1, 50) i;
CREATE TABLE events (event_id int PRIMARY KEY, what text, updated_at timestamptz);
INSERT INTO events SELECT i, 'first', now() - (60 - i) * interval '1 day'
    FROM generate_series(1, 50) i;
"""
OLD = "CREATE SCHEMA old; CREATE TABLE old.{0} AS SELECT * FROM shop.{0}"
WAREHOUSE = {"conn_id": "warehouse", "schema": "shop", "mart_schema": "shop_mart"}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    return project


def test_the_comparison_finds_what_either_side_lacks(shop: Project) -> None:
    shop.spec({"orders": {"incremental": "updated_at"}}, warehouse=WAREHOUSE)
    shop.succeed()
    shop.in_warehouse(OLD.format("orders"))
    assert shop.in_warehouse(COMPARE) == []
    shop.in_warehouse("DELETE FROM old.orders WHERE order_id = 7")
    shop.in_warehouse("INSERT INTO old.orders SELECT 99, 1, 1, 'gone', now() - interval '2 days'")
    shop.in_warehouse("INSERT INTO old.orders SELECT 100, 1, 1, 'not settled', now()")
    assert sorted((row[0], row[1]) for row in shop.in_warehouse(COMPARE)) == [
        ("only in old", 99),
        ("only in shop", 7),
    ]


def test_readers_of_the_old_table_see_the_new_one_and_its_later_loads(shop: Project) -> None:
    shop.spec({"orders": {"incremental": "updated_at"}}, warehouse=WAREHOUSE)
    shop.succeed()
    shop.in_warehouse(OLD.format("orders"))
    for statement in SWITCH.replace("BEGIN;", "").replace("COMMIT;", "").split(";")[:2]:
        shop.in_warehouse(statement)
    shop.in_source("UPDATE orders SET status = 'paid', updated_at = now() WHERE order_id = 3")
    shop.succeed()
    assert shop.in_warehouse(
        "SELECT count(*), count(*) FILTER (WHERE status = 'paid') FROM old.orders"
    ) == [(50, 1)]


def test_old_and_new_parts_of_a_large_table_are_joined_without_loss(shop: Project) -> None:
    (moment,) = shop.in_source("SELECT now() - interval '20 days'")[0]
    assert isinstance(moment, datetime)
    shop.spec({"events": {"incremental": {"cursor": "updated_at"}}}, warehouse=WAREHOUSE)
    shop.succeed()
    shop.in_warehouse(OLD.format("events"))
    # from here on only `old` was there
    shop.in_warehouse("DROP TABLE shop.events; DROP SCHEMA loadsheet CASCADE")
    begin = {"cursor": "updated_at", "initial_value": moment.isoformat()}
    shop.spec({"events": {"incremental": begin}}, warehouse=WAREHOUSE)
    shop.succeed()
    assert shop.in_warehouse("SELECT count(*) < 20 FROM shop.events") == [(True,)]
    shop.in_source(
        "UPDATE events SET what = 'changed', updated_at = now() WHERE event_id IN (2, 49)"
    )
    shop.succeed()
    shop.in_warehouse("CREATE SCHEMA shop_mart")
    shop.in_warehouse(JOIN)
    everything = "SELECT event_id, what FROM {} ORDER BY 1"
    assert shop.in_warehouse(everything.format("shop_mart.all_events")) == shop.in_source(
        everything.format("events")
    )
