"""Replace, merge and append, driven as `loadsheet run` drives them: staging equals the source after
every run."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
from loadsheet.preview.pipeline import preview_pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from tests.project import Project

CREATE = """
CREATE TABLE customer (
    id int PRIMARY KEY, name text, updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customer SELECT i, 'name ' || i FROM generate_series(1, 1000) i;
"""


def test_a_bare_table_is_replaced_and_skips_when_nothing_changed(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"customer": None})
    assert project.succeed()["load.load_customer"] == "done"
    assert project.differences("customer") == 0
    ledger = "SELECT * FROM loadsheet.load, loadsheet.scope"
    objects, loads = project.objects(), project.in_warehouse(ledger)
    states = project.succeed()
    assert states["extract.extract_customer"] == states["load.load_customer"] == "skipped"
    assert project.objects() == objects
    assert project.in_warehouse(ledger) == loads
    project.in_source(
        "DELETE FROM customer WHERE id < 10; UPDATE customer SET name = 'x' WHERE id = 500"
    )
    project.succeed()
    assert project.differences("customer") == 0


def test_a_merge_loads_only_what_changed_and_touches_only_what_differs(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"customer": {"incremental": "updated_at"}})
    project.succeed()
    project.in_source(
        "UPDATE customer SET name = 'changed', updated_at = now() WHERE id IN (1, 2);"
        "UPDATE customer SET updated_at = now() WHERE id = 3;"
        "INSERT INTO customer VALUES (2000, 'new', now())"
    )
    project.succeed()
    assert project.differences("customer") == 0
    [(extracted, inserted, updated)] = project.in_warehouse(
        "SELECT extracted, inserted, updated FROM loadsheet.load ORDER BY load_no DESC LIMIT 1"
    )
    assert (extracted, inserted, updated) == (4, 1, 3)
    assert project.in_warehouse("SELECT count(*) FROM staging.customer WHERE _load_id > 1") == [
        (4,)
    ]
    states = project.succeed()
    assert states["extract.extract_customer"] == states["load.load_customer"] == "skipped"


def test_a_table_without_a_key_that_gets_a_cursor_is_not_appended_to_itself(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE event (at timestamptz DEFAULT clock_timestamp(), what text)")
    project.in_source("INSERT INTO event (what) SELECT i::text FROM generate_series(1, 100) i")
    project.spec({"event": None})
    project.succeed()
    project.spec({"event": {"incremental": "at"}})
    with pytest.raises(Refused, match=r"loaded without a cursor before.* full refresh"):
        project.succeed()
    assert project.differences("event") == 0
    project.succeed(full_refresh="all")
    project.in_source("INSERT INTO event (what) VALUES ('new')")
    project.succeed()
    assert project.differences("event") == 0


def test_a_table_with_a_cursor_that_was_empty_or_held_back_at_first_is_appended_to(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE event (at timestamptz DEFAULT clock_timestamp(), what text)")
    project.spec({"event": {"incremental": "at"}})
    project.succeed()
    project.in_source("INSERT INTO event (what) SELECT i::text FROM generate_series(1, 100) i")
    assert project.succeed()["load.load_event"] == "done"
    assert project.differences("event") == 0


def test_append_inserts_each_row_once(project: Project) -> None:
    project.in_source("CREATE TABLE event (at timestamptz DEFAULT clock_timestamp(), what text)")
    project.in_source("INSERT INTO event (what) SELECT i::text FROM generate_series(1, 100) i")
    project.spec({"event": {"incremental": "at"}})
    for _ in range(3):
        project.succeed()
        assert project.differences("event") == 0
        project.in_source("INSERT INTO event (what) VALUES ('same'), ('same')")
    assert project.succeed()["load.load_event"] == "done"
    assert project.differences("event") == 0


def test_a_number_as_cursor_is_compared_as_a_number(project: Project) -> None:
    project.in_source("CREATE TABLE event (n bigint UNIQUE, what text)")
    project.spec({"event": {"incremental": "n"}})
    for number in (9, 10, 50, 100, 101):
        project.in_source("INSERT INTO event VALUES (%s, 'x')", number)
        project.succeed()
        assert project.differences("event") == 0
        assert project.in_warehouse("SELECT watermark FROM loadsheet.scope") == [(str(number),)]


def test_the_initial_value_bounds_the_first_load_and_every_full_refresh(project: Project) -> None:
    project.in_source("CREATE TABLE event (n bigint PRIMARY KEY)")
    project.in_source("INSERT INTO event SELECT generate_series(1, 20)")
    project.spec({"event": {"incremental": {"cursor": "n", "initial_value": "11"}}})
    project.succeed()
    project.succeed(full_refresh="all")
    assert project.in_warehouse("SELECT count(*), min(n) FROM staging.event") == [(10, 11)]


def test_an_empty_incremental_table_skips_from_the_second_run_on(project: Project) -> None:
    project.in_source("CREATE TABLE event (n bigint PRIMARY KEY)")
    project.spec({"event": {"incremental": "n"}})
    assert project.succeed()["load.load_event"] == "done"
    assert project.succeed()["load.load_event"] == "skipped"


def test_a_full_refresh_reloads_everything_and_sees_deletes(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"customer": {"incremental": "updated_at"}})
    project.succeed()
    project.in_source("DELETE FROM customer WHERE id <= 100")
    project.succeed()
    assert project.differences("customer") == 100
    project.succeed(full_refresh="all")
    assert project.differences("customer") == 0
    assert project.succeed()["load.load_customer"] == "skipped"


def test_a_replaced_table_keeps_views_grants_comments_and_indexes(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"customer": None})
    project.succeed()
    project.in_warehouse(
        "CREATE INDEX by_name ON staging.customer (name); COMMENT ON TABLE staging.customer IS"
        " 'people';COMMENT ON COLUMN staging.customer.name IS 'of a person'; GRANT SELECT ON"
        " staging.customer TO PUBLIC"
    )
    belongings = (
        "SELECT (SELECT array_agg(indexdef ORDER BY indexname) FROM pg_indexes WHERE tablename ="
        " 'customer'), obj_description('staging.customer'::regclass),"
        " col_description('staging.customer'::regclass, 2), (SELECT relacl::text FROM pg_class"
        " WHERE oid = 'staging.customer'::regclass)"
    )
    before = project.in_warehouse(belongings)
    project.in_source("DELETE FROM customer WHERE id = 7")
    project.succeed()
    assert project.differences("customer") == 0
    assert project.in_warehouse(belongings) == before
    project.in_warehouse("CREATE VIEW mine AS SELECT name FROM staging.customer")
    project.in_source(
        "DELETE FROM customer WHERE id = 8; UPDATE customer SET name = NULL WHERE id = 9"
    )
    project.succeed()
    assert project.differences("customer") == 0
    assert project.in_warehouse("SELECT count(*) FROM mine") == [(998,)]


def test_a_foreign_table_in_staging_is_never_overwritten(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"customer": None})
    project.as_loader(
        "CREATE SCHEMA staging; CREATE TABLE staging.customer (precious int); INSERT INTO"
        " staging.customer VALUES (1)"
    )
    error = project.run()["load.load_customer"].result
    assert isinstance(error, Refused) and "was not made by Loadsheet" in str(error)
    assert project.in_warehouse("SELECT * FROM staging.customer") == [(1,)]


def test_a_full_load_that_would_shrink_the_table_too_far_stops(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"customer": {"max_shrink": 0.5}})
    project.succeed()
    project.in_source("TRUNCATE customer")
    error = project.run()["load.load_customer"].result
    assert isinstance(error, Refused) and "1,000 to 0 rows" in str(error)
    assert project.in_warehouse("SELECT count(*) FROM staging.customer") == [(1000,)]


@pytest.mark.parametrize("nulls", ["fail", "include", "exclude"])
def test_rows_without_a_cursor_follow_the_spec(project: Project, nulls: str) -> None:
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, at timestamptz)")
    project.in_source("INSERT INTO item VALUES (1, now()), (2, NULL)")
    project.spec({"item": {"incremental": {"cursor": "at", "nulls": nulls}}})
    result = project.run()["extract.extract_item"].result
    if nulls == "fail":
        assert isinstance(result, Refused) and "1 row has no at" in str(result)
        return
    project.in_source("INSERT INTO item VALUES (3, now()), (4, NULL)")
    project.succeed()
    rows = [row[0] for row in project.in_warehouse("SELECT id FROM staging.item ORDER BY id")]
    assert rows == ([1, 2, 3, 4] if nulls == "include" else [1, 3])


def test_a_cursor_from_the_future_does_not_move_the_watermark(project: Project) -> None:
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL)")
    project.in_source("INSERT INTO item VALUES (1, now()), (2, 'infinity'), (3, '9999-01-01')")
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_source("INSERT INTO item VALUES (4, now()); UPDATE item SET at = now() WHERE id = 2")
    project.succeed()
    assert project.differences("item") == 0


def test_an_interval_is_read_once_and_can_be_repeated(project: Project) -> None:
    project.in_source(
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL);INSERT INTO item SELECT i,"
        " '2026-01-01'::timestamptz + i * interval '1 hour' FROM generate_series(0, 95) i"
    )
    project.spec(
        {"item": {"incremental": {"cursor": "at", "by": "data_interval"}}}, schedule="@daily"
    )
    for day in (2, 1, 1):
        project.succeed(
            interval_start=f"2026-01-0{day}T00:00:00Z", interval_end=f"2026-01-0{day + 1}T00:00:00Z"
        )
    assert project.in_warehouse("SELECT count(*), min(id), max(id) FROM staging.item") == [
        (48, 0, 47)
    ]
    error = project.run()["extract.extract_item"].result
    assert isinstance(error, Refused) and "--from and --to" in str(error)


@pytest.mark.parametrize("count", [1, 3])  # of three, a look finds those without news
def test_a_replacement_removes_what_merges_have_left_also_where_the_source_is_as_it_was(
    project: Project, count: int
) -> None:
    names = [f"t{number}" for number in range(count)]
    for name in names:
        project.in_source(f"CREATE TABLE {name} (id int PRIMARY KEY)")
        project.in_source(f"INSERT INTO {name} SELECT generate_series(1, 9)")
    merged = {name: {"mode": "merge"} for name in names}

    def loads() -> set[str]:
        states = project.succeed()
        return {states[f"load.load_{name}"] for name in names}

    project.spec(merged)
    assert loads() == {"done"}
    assert loads() == {"skipped"}
    for name in names:
        project.in_source(f"DELETE FROM {name} WHERE id = 1; INSERT INTO {name} VALUES (10)")
    assert loads() == {"done"}
    assert loads() == {"skipped"}
    assert [project.differences(name) for name in names] == [1] * count
    project.spec(dict.fromkeys(names))
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    _, plan = preview_pipeline(pipeline, project.connections)
    assert {plan[f"extract.extract_{name}"].changes for name in names} == {"yes"}
    assert loads() == {"done"}
    assert [project.differences(name) for name in names] == [0] * count
    assert loads() == {"skipped"}
    # What a replacement has made is what a merge would make of it.
    project.spec(merged)
    assert loads() == {"skipped"}
