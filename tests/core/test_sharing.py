"""Two pipelines that load one table without a check that sees both: the run finds them by the
ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from loadsheet.errors import Refused
from tests.project import Project

SOURCE = """
CREATE TABLE orders (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO orders SELECT i, 'shop', clock_timestamp() FROM generate_series(1, 3) i;
"""
TABLES = {"orders": {"incremental": "at"}}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES)
    project.succeed()
    return project


def beside(shop: Project, folder: Path, tables: dict[str, object] = TABLES) -> Project:
    """A pipeline `zoo` of another project, from the same source to the same staging schema."""
    zoo = replace(shop, folder=folder, name="zoo")
    zoo.spec(tables)
    return zoo


@pytest.fixture
def elsewhere(shop: Project, tmp_path: Path, database: str) -> Project:
    """A pipeline `zoo` whose source is another database, with a table of the same name."""
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(SOURCE.replace("'shop'", "'zoo'"))
    return replace(beside(shop, tmp_path / "other"), source=database)


def rows(project: Project) -> list[tuple[str, int]]:
    return project.in_warehouse(
        "SELECT what, count(*) FROM staging.orders GROUP BY what ORDER BY what"
    )


def refusal(project: Project, name: str = "orders") -> str:
    error = project.run()[f"extract.extract_{name}"].result
    assert isinstance(error, Refused), error
    return str(error)


def test_the_rows_of_another_source_are_not_overwritten(shop: Project, elsewhere: Project) -> None:
    message = refusal(elsewhere)
    assert "staging.orders was loaded by the pipeline 'shop' from another source" in message
    assert "loadsheet run zoo --tables orders --full-refresh" in message and "exclude" in message
    assert rows(shop) == [("shop", 3)]
    assert shop.in_warehouse("SELECT count(*) FROM loadsheet.scope WHERE pipeline = 'zoo'") == [
        (0,)
    ]


def test_a_pattern_that_meets_the_table_of_another_pipeline_loads_the_others(
    shop: Project, elsewhere: Project
) -> None:
    with psycopg.connect(elsewhere.source, autocommit=True) as session:
        session.execute("CREATE TABLE animals (id int PRIMARY KEY); INSERT INTO animals VALUES (1)")
    elsewhere.spec({"*": None})
    done = elsewhere.cli("run", "zoo")
    assert (
        done.returncode == 1
        and "staging.orders was loaded by the pipeline 'shop' from another source" in done.stdout
    )
    assert rows(shop) == [("shop", 3)] and shop.in_warehouse("SELECT id FROM staging.animals") == [
        (1,)
    ]


def test_a_full_refresh_takes_the_table_over_and_the_other_pipeline_is_told(
    shop: Project, elsewhere: Project
) -> None:
    elsewhere.succeed(full_refresh=frozenset({"orders"}))
    assert rows(shop) == [("zoo", 3)]
    elsewhere.succeed()
    assert "was loaded by the pipeline 'zoo' from another source:" in refusal(shop)
    assert rows(shop) == [("zoo", 3)]
    shop.succeed(full_refresh=frozenset({"orders"}))
    assert rows(shop) == [("shop", 3)]


def test_a_renamed_pipeline_goes_on(shop: Project, tmp_path: Path) -> None:
    zoo = beside(shop, tmp_path / "renamed")
    assert zoo.succeed()["load.load_orders"] == "done"
    zoo.in_source("INSERT INTO orders VALUES (4, 'shop', clock_timestamp())")
    zoo.succeed()
    assert rows(zoo) == [("shop", 4)]


def test_two_pipelines_that_merge_one_table_of_one_source_take_turns(
    shop: Project, tmp_path: Path
) -> None:
    zoo = beside(shop, tmp_path / "second")
    for number in range(4, 8):
        shop.in_source(f"INSERT INTO orders VALUES ({number}, 'shop', clock_timestamp())")
        for pipeline in (zoo, shop):
            pipeline.succeed()
    assert rows(shop) == [("shop", 7)]


def test_two_pipelines_that_append_to_one_table_are_found_before_a_row_is_doubled(
    project: Project, tmp_path: Path
) -> None:
    appended = {"orders": {"incremental": "at", "mode": "append"}}
    project.in_source(SOURCE)
    project.spec(appended)
    zoo = beside(project, tmp_path / "second", appended)
    project.succeed()
    assert "was loaded by the pipeline 'shop', and 'zoo' has no watermark" in refusal(zoo)
    zoo.succeed(full_refresh="all")
    project.in_source("INSERT INTO orders VALUES (4, 'shop', clock_timestamp())")
    zoo.succeed()
    assert "was loaded by the pipeline 'zoo':" in refusal(project)
    assert rows(project) == [("shop", 4)]


@pytest.mark.parametrize("way", ["its schema", "the table"])
def test_a_table_that_the_other_pipeline_has_left_is_free(
    shop: Project, elsewhere: Project, way: str
) -> None:
    if way == "its schema":
        # A developer's copy of the pipeline looks the same, so that somebody has to say so.
        shop.spec(TABLES, warehouse={"conn_id": "warehouse", "schema": "shop_staging"})
        shop.succeed()
        assert "--full-refresh" in refusal(elsewhere)
        elsewhere.succeed(full_refresh="all")
    else:
        shop.in_warehouse("DROP TABLE staging.orders")
    elsewhere.succeed()
    assert rows(elsewhere) == [("zoo", 3)]


def test_two_pipelines_with_a_schema_each_never_meet(shop: Project, elsewhere: Project) -> None:
    elsewhere.spec(TABLES, warehouse={"conn_id": "warehouse", "schema": "zoo_staging"})
    for _ in range(2):
        elsewhere.succeed()
        shop.succeed()
    assert rows(shop) == [("shop", 3)]


CORRECT = "UPDATE orders SET what = 'corrected', at = at - interval '1 minute' WHERE id = 3"


@pytest.mark.parametrize("way", ["a lookback", "an interval"])
def test_a_cursor_corrected_to_an_earlier_value_is_written_where_it_is_read_again(
    shop: Project, way: str
) -> None:
    """The fence orders the loads of one pipeline, so what was read last is right."""
    request: dict[str, object] = {}
    if way == "a lookback":
        shop.spec({"orders": {"incremental": {"cursor": "at", "lookback": "1h"}}})
    else:
        request = {
            "interval_start": "2020-01-01T00:00:00Z",
            "interval_end": "2100-01-01T00:00:00Z",
            "explicit_interval": True,
        }
    shop.in_source(CORRECT)
    shop.succeed(**request)
    assert rows(shop) == [("corrected", 1), ("shop", 2)]


def test_rows_older_than_those_of_another_pipeline_are_left_out_and_counted(
    shop: Project, tmp_path: Path
) -> None:
    zoo = beside(shop, tmp_path / "other", {"orders": {"incremental": {"cursor": "at"}}})
    zoo.succeed()
    shop.in_source("UPDATE orders SET what = 'new', at = clock_timestamp() WHERE id <= 2")
    zoo.succeed()
    shop.in_source("UPDATE orders SET what = 'old', at = '2020-01-01' WHERE id <= 2")
    result = shop.run(
        interval_start="2019-01-01T00:00:00Z",
        interval_end="2021-01-01T00:00:00Z",
        explicit_interval=True,
    )["load.load_orders"].result
    assert "left out 2 rows that are older than what another pipeline has loaded" in result.message  # type: ignore[union-attr]
    assert rows(shop) == [("new", 2), ("shop", 1)]
