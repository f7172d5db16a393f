"""`loadsheet run --sample`: rows that belong together, away from everything that production rests
on."""

from __future__ import annotations

import json
from typing import Any

from tests.project import Project

SOURCE = """
CREATE TABLE country (code char(2) PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE lines (order_id int, line int, amount int, PRIMARY KEY (order_id, line));
INSERT INTO country VALUES ('no', 'Norway'), ('pe', 'Perú');
INSERT INTO orders SELECT i FROM generate_series(1, 20000) i;
INSERT INTO lines SELECT i, l, i FROM generate_series(1, 20000) i, generate_series(1, 2) l;
ANALYZE;
"""
TABLES = {"country": None, "orders": {"incremental": "at", "max_shrink": 0.1}, "lines": None}
TRANSFORMS = {
    "totals": (
        (
            "SELECT o.id, sum(l.amount) AS amount FROM staging.orders o JOIN lines l ON order_id ="
            " o.id GROUP BY o.id"
        ),
        {"materialized": "merge", "unique_key": "id"},
    ),
    "big": "SELECT id FROM mart.totals WHERE amount > 100",
    "log": (
        "DELETE FROM mart.big WHERE id IN (SELECT -id FROM mart.big)",
        {"materialized": "script"},
    ),
}
STATE = (
    "SELECT * FROM loadsheet.scope WHERE pipeline = 'shop' ORDER BY table_name",
    "SELECT * FROM loadsheet.load WHERE pipeline = 'shop' ORDER BY load_no",
    "SELECT * FROM loadsheet.transform_run WHERE pipeline = 'shop' ORDER BY run_no",
    *(
        f"SELECT *, xmin::text FROM {t} ORDER BY 1, 2"
        for t in ("staging.country", "staging.orders", "staging.lines")
    ),
    *(f"SELECT *, xmin::text FROM {t} ORDER BY 1, 2" for t in ("mart.totals", "mart.big")),
)


def production(project: Project) -> list[list[tuple[Any, ...]]]:
    """All that a sampled run must not touch: the ledger's rows, and each row with the transaction
    that wrote it."""
    return [project.in_warehouse(query) for query in STATE]


def sample(project: Project, size: str) -> str:
    run = project.cli("run", "shop", "--sample", size)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_a_sample_keeps_what_belongs_together_and_leaves_production_alone(project: Project) -> None:
    project.in_source(SOURCE)
    project.spec(TABLES, TRANSFORMS, lake={"prefix": "shop"})
    project.succeed()
    before, objects = production(project), project.objects()
    project.in_source(
        "UPDATE orders SET at = clock_timestamp() WHERE id <= 10; DELETE FROM country WHERE code ="
        " 'no'"
    )
    told = sample(project, "10%")
    assert "staging_sample and mart_sample; staging, mart and all watermarks are unchanged" in told
    assert "left out, because a script may write anywhere: log" in told
    orders = {row[0] for row in project.in_warehouse("SELECT id FROM staging_sample.orders")}
    lines = project.in_warehouse("SELECT order_id, count(*) FROM staging_sample.lines GROUP BY 1")
    assert 1_700 < len(orders) < 2_300
    assert dict(lines) == dict.fromkeys(orders, 2)
    # small: whole
    assert project.in_warehouse("SELECT count(*) FROM staging_sample.country") == [(1,)]
    assert project.in_warehouse("SELECT count(*) FROM mart_sample.totals") == [(len(orders),)]

    sample(project, "500")  # smaller than before, which max_shrink would forbid
    fewer = {row[0] for row in project.in_warehouse("SELECT id FROM staging_sample.orders")}
    assert 350 < len(fewer) < 650 and fewer < orders
    assert production(project) == before
    assert objects < project.objects() and {
        n.split("/")[0] for n in project.objects() - objects
    } == {"shop_sample"}

    # the negative control: production has missed nothing of what a sampled run has seen
    project.succeed()
    assert production(project) != before
    assert (
        project.differences("orders")
        == project.differences("country")
        == project.differences("lines")
        == 0
    )


def test_a_small_table_is_whole_also_when_nobody_has_analysed_it(project: Project) -> None:
    """The planner takes an empty guess for thousands of rows."""
    project.in_source(
        "CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small SELECT generate_series(1, 300)"
    )
    estimate = project.in_source("EXPLAIN (FORMAT JSON) SELECT FROM small")[0][0][0]["Plan"][
        "Plan Rows"
    ]
    assert estimate > 2_000
    project.spec({"small": None})
    for size, left in (("0.01%", 300), ("300", 300), ("100", 100)):
        sample(project, size)
        count = project.in_warehouse("SELECT count(*) FROM staging_sample.small")[0][0]
        assert count == left if left == 300 else count < 300


def test_rows_without_a_key_and_views_are_sampled_too(project: Project) -> None:
    project.in_source(
        "CREATE TABLE log (what text); INSERT INTO log SELECT md5(i::text) FROM generate_series(1,"
        " 20000) i; CREATE VIEW seen AS SELECT * FROM log; ANALYZE"
    )
    project.spec({"log": None, "seen": None})
    sample(project, "2000")
    found = [
        project.in_warehouse(f"SELECT count(*) FROM staging_sample.{name}")[0][0]
        for name in ("log", "seen")
    ]
    assert all(1_700 < count < 2_300 for count in found), found


def test_a_sample_can_be_dropped_whole_and_only_it(project: Project) -> None:
    project.in_source(SOURCE)
    project.spec(
        TABLES, {**TRANSFORMS, "seen": ("SELECT id FROM staging.orders", {"materialized": "view"})}
    )
    project.succeed()
    before, objects = production(project), project.objects()
    sample(project, "10%")
    dry = project.cli("gc", "shop", "--sample", "--dry-run")
    assert (
        dry.returncode == 0
        and "shop: would remove the sample: mart_sample.big, mart_sample.seen" in dry.stdout
    )
    assert project.in_warehouse("SELECT count(*) > 0 FROM mart_sample.seen") == [(True,)]
    dropped = project.cli("gc", "shop", "--sample")
    assert dropped.returncode == 0, dropped.stderr
    assert (
        "staging_sample.orders; schemas staging_sample, mart_sample; 6 objects (" in dropped.stdout
    )
    assert (
        project.in_warehouse("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%\\_sample'")
        == []
    )
    assert (production(project), project.objects()) == (before, objects)
    assert (
        "shop: removed the sample: no tables; 0 objects"
        in project.cli("gc", "shop", "--sample").stdout
    )
    sample(project, "10%")  # and it can be taken again
    assert project.in_warehouse("SELECT count(*) > 0 FROM mart_sample.seen") == [(True,)]


def test_marts_of_a_sample_read_what_deletes_adds_to_its_tables(project: Project) -> None:
    """The column and the table are there, and empty: nothing is searched for, or marked where a
    second sample has other rows."""
    project.in_source(SOURCE + "CREATE TABLE items (LIKE orders INCLUDING ALL)")
    project.in_source("INSERT INTO items SELECT * FROM orders; ANALYZE")
    project.spec(
        {
            "orders": {"incremental": "at", "deletes": "hard"},
            "items": {"incremental": "at", "deletes": "soft"},
        },
        {
            "gone": "SELECT id FROM staging.orders__deleted",
            "live": "SELECT id FROM staging.items WHERE _deleted_at IS NULL",
        },
    )
    for size in ("20%", "10%"):
        sample(project, size)
        project.in_source("DELETE FROM orders WHERE id % 2 = 0; DELETE FROM items WHERE id % 2 = 0")
    assert project.in_warehouse("SELECT count(*) FROM mart_sample.gone") == [(0,)]
    rows = "SELECT count(*) FROM {}"
    staged = project.in_warehouse(rows.format("staging_sample.items"))
    assert project.in_warehouse(rows.format("mart_sample.live")) == staged
    assert 0 < staged[0][0] < 2000
    dropped = project.cli("gc", "shop", "--sample")
    assert "schemas staging_sample, mart_sample" in dropped.stdout, dropped.stderr


def test_what_others_keep_beside_a_sample_stays(project: Project) -> None:
    project.in_source("CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small VALUES (1)")
    project.spec({"small": None})
    sample(project, "10%")
    project.in_warehouse(
        "CREATE TABLE staging_sample.mine (id int); CREATE VIEW mine AS TABLE staging_sample.small"
    )
    held = project.cli("gc", "shop", "--sample")
    assert (
        held.returncode == 1
        and "other objects depend on it" in held.stderr
        and "Traceback" not in held.stderr
    )
    assert project.in_warehouse("SELECT * FROM mine")[0][0] == 1
    project.in_warehouse("DROP VIEW mine")
    dropped = project.cli("gc", "shop", "--sample", "--json")
    assert json.loads(dropped.stdout)["pipelines"] == [
        {
            "pipeline": "shop",
            "relations": ["staging_sample.small"],
            "schemas": [],
            "objects": 2,
            "bytes": json.loads(dropped.stdout)["pipelines"][0]["bytes"],
            "marked": 0,
            "kept": [],
        }
    ]
    assert project.in_warehouse("SELECT count(*) FROM staging_sample.mine") == [(0,)]
    both = project.cli("gc", "shop", "--sample", "--keep", "5")
    assert both.returncode == 2 and "leave out --older-than, --keep and --versions" in both.stderr
