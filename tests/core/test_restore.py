"""`loadsheet restore`: a staging table as it was after any of its loads, in place or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from loadsheet.engine import restore as restoring
from loadsheet.engine.execute import execute
from loadsheet.lake.history import History
from loadsheet.lake.manifest import Manifest
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from tests.core.restoring import (
    A_DAY,
    MARTS,
    TABLES,
    WHOLE,
    Copies,
    a_day,
    command,
    difference,
    leftovers,
    load_numbers,
    opened,
    refused,
    restore,
)
from tests.project import Project


def test_every_load_comes_back_as_it_was_through_drift_and_a_full_refresh(
    project: Project, copies: Copies
) -> None:
    shop = opened(project, copies, 2, TABLES | WHOLE)
    shop.spec(TABLES | WHOLE, lake={"format": "parquet"})
    a_day(shop, copies, 3)
    shop.spec(TABLES | WHOLE, lake={"format": "csv"})
    a_day(shop, copies, 4)
    a_day(shop, copies, 5, full_refresh="all")
    a_day(shop, copies, 6)
    for table, by_number in copies.items():
        assert list(by_number) == load_numbers(shop, table) and len(by_number) == 7
        for number, copy in by_number.items():
            found = restore(shop, table, "--as-of", str(number), "--into", f"audit.t{number}")
            assert not difference(shop, f"audit.t{number}", copy), (table, number)
            assert found["replayed"][-1] == number
    numbers = load_numbers(shop, "merged")
    # The chain begins at the last full load.
    assert restore(shop, "merged", "--into", "audit.newest")["replayed"] == numbers[5:]
    by_load = shop.in_warehouse("SELECT DISTINCT _load_id FROM audit.newest ORDER BY 1")
    assert [number for (number,) in by_load] == numbers[5:]
    assert not leftovers(shop)


def test_the_newest_manifest_alone_is_not_the_table(
    shop: Project, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the naive way restores, the comparison above finds."""
    chain: Callable[[Any, int], list[Any]] = History.chain
    monkeypatch.setattr(History, "chain", lambda self, number: chain(self, number)[-1:])
    assert "built on earlier rows" in refused(shop, "merged", "--into", "audit.merged")
    read: Callable[..., Manifest] = restoring._manifest
    monkeypatch.setattr(
        restoring, "_manifest", lambda *given: replace(read(*given), builds_on_target=False)
    )
    assert "when replayed from the lake" in refused(shop, "merged", "--into", "audit.merged")
    restore(shop, "merged", "--into", "audit.merged", "--accept-counts")
    last = load_numbers(shop, "merged")[-1]
    assert difference(shop, "audit.merged", copies["merged"][last]) > 50


def test_in_place_the_next_run_reads_on_from_there(shop: Project, copies: Copies) -> None:
    first, second, last = load_numbers(shop, "merged")
    [(committed_at,)] = shop.in_warehouse(
        "SELECT committed_at FROM loadsheet.load WHERE load_no = %s", second
    )
    shop.spec(TABLES, MARTS)
    shop.succeed()
    shop.in_warehouse("TRUNCATE staging.merged")
    found = restore(shop, "merged", "--as-of", committed_at.isoformat())
    assert not difference(shop, "staging.merged", copies["merged"][second])
    assert found["replayed"] == [first, second] and found["watermark"]
    entry = shop.in_warehouse(
        "SELECT action, restored, replaced, extracted FROM loadsheet.load ORDER BY load_no DESC"
    )[0]
    assert entry == ("restore", second, True, found["rows"])
    # The marts are those of the restored rows.
    assert [*found["marts"]] == ["sums", "doubled"]
    rows = found["rows"]
    assert shop.in_warehouse("SELECT rows, newest FROM mart.sums") == [(rows, second)]
    assert shop.in_warehouse("SELECT rows FROM mart.doubled") == [(2 * rows,)]
    # No row is lost, and none is read twice where none may be.
    a_day(shop, copies, 3)
    assert not shop.differences("merged") and not shop.differences("log")
    assert shop.in_warehouse("SELECT rows FROM mart.sums") == shop.in_source(
        "SELECT count(*) FROM merged"
    )
    assert last not in {n for (n,) in shop.in_warehouse("SELECT _load_id FROM staging.merged")}


def test_an_appended_table_goes_back_without_doubling_or_losing_rows(
    shop: Project, copies: Copies
) -> None:
    for number in load_numbers(shop, "log"):
        restore(shop, "log", "--as-of", str(number))
        assert not difference(shop, "staging.log", copies["log"][number])
        shop.succeed()
        assert not shop.differences("log")


def test_a_restore_can_itself_be_restored_and_built_on(shop: Project, copies: Copies) -> None:
    first, second, _ = load_numbers(shop, "merged")
    restore(shop, "merged", "--as-of", str(second))
    a_day(shop, copies, 3)
    chain = restore(shop, "merged", "--into", "audit.merged")["replayed"]
    number = load_numbers(shop, "merged")[-1]
    assert chain == [first, second, number]
    assert not difference(shop, "audit.merged", copies["merged"][number])
    restored = load_numbers(shop, "merged")[-2]
    restore(shop, "merged", "--as-of", str(restored))
    assert not difference(shop, "staging.merged", copies["merged"][second])


def test_a_replacement_after_a_restore_keeps_no_row_that_the_source_has_not(
    project: Project,
) -> None:
    """A restored merge has left rows that are gone from the source. The control: for another merge,
    its content is nothing new."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
    project.spec({"t": {"mode": "merge"}})
    project.succeed()
    project.in_source("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3)")
    project.succeed()
    project.spec({"t": None})
    project.succeed()
    _, merged, _ = load_numbers(project, "t")
    restore(project, "t", "--as-of", str(merged))
    project.spec({"t": {"mode": "merge"}})
    assert project.succeed()["load.load_t"] == "skipped"
    assert project.differences("t") == 1
    project.spec({"t": None})
    assert project.succeed()["load.load_t"] == "done"
    assert project.differences("t") == 0


def test_what_hangs_on_the_table_stays_and_newer_columns_go_on(
    shop: Project, copies: Copies
) -> None:
    """`added` came on day 2, and a view reads it."""
    a_day(shop, copies, 3)
    shop.in_warehouse("CREATE VIEW public.seen AS SELECT id, added, said FROM staging.merged")
    shop.in_warehouse("GRANT SELECT (id) ON staging.merged TO PUBLIC")
    first = load_numbers(shop, "merged")[0]
    result = command(shop, "restore", "shop", "merged", "--as-of", str(first))
    assert result.exit_code == 0, result.output
    assert "without values, because they came later: added" in result.stdout
    assert shop.in_warehouse("SELECT count(*), count(added), count(said) FROM public.seen") == [
        (60, 0, 60)
    ]
    by_id = "SELECT id, {}, small, old, at, _load_id FROM {} ORDER BY id"
    assert shop.in_warehouse(by_id.format("what", "staging.merged")) == shop.in_warehouse(
        by_id.format("what", copies["merged"][first])
    )
    shop.succeed()
    changed = "SELECT id, said, small, added FROM {} WHERE id % 7 IN (1, 2, 3) ORDER BY id"
    assert shop.in_warehouse(changed.format("staging.merged")) == shop.in_source(
        changed.format("merged")
    )


def test_what_was_extracted_before_a_restore_is_not_loaded_after_it(
    shop: Project, copies: Copies
) -> None:
    """Its rows begin at a watermark that the table no longer has."""
    first = load_numbers(shop, "merged")[0]
    shop.in_source(A_DAY.format(day=3))
    pipeline = load_pipeline(shop.folder / "pipelines" / "shop" / "pipeline.yml")
    request = RunRequest(run_id="before")
    extract, load = Step(kind="extract", name="merged"), Step(kind="load", name="merged")
    extracted = execute(extract, pipeline, request, shop.connections)
    restore(shop, "merged", "--as-of", str(first))
    # The load step finds that out, and extracts the table again.
    execute(load, pipeline, request, shop.connections, load_id=extracted.load_id)
    assert not shop.differences("merged")


def test_a_renamed_pipeline_restores_what_it_loaded_under_its_old_name(
    shop: Project, copies: Copies
) -> None:
    first, second, _ = load_numbers(shop, "merged")
    assert command(shop, "run", "shop", "--sample", "20").exit_code == 0
    home = shop.folder / "pipelines"
    (home / "shop").rename(home / "store")
    store = replace(shop, name="store")
    assert command(store, "adopt", "shop", "store").exit_code == 0
    listed = json.loads(command(store, "restore", "store", "merged", "--list", "--json").stdout)
    # A sample's loads are none of the table's.
    assert [load["load"] for load in listed["loads"]] == list(copies["merged"])
    found = restore(store, "merged", "--as-of", str(second))
    assert found["replayed"] == [first, second]
    assert not difference(store, "staging.merged", copies["merged"][second])
    store.succeed()
    assert not store.differences("merged")


def test_intervals_that_came_later_are_read_again(project: Project) -> None:
    project.in_source(
        "CREATE TABLE visit (id int PRIMARY KEY, at timestamptz);"
        "INSERT INTO visit SELECT n, timestamptz '2026-01-01Z' + n * interval '6 h'"
        " FROM generate_series(1, 20) n; DELETE FROM visit WHERE at::date = '2026-01-04'"
    )
    table = {"incremental": {"cursor": "at", "by": "data_interval"}}
    project.spec({"visit": table}, schedule="@daily")

    def read_day(day: int) -> None:
        project.succeed(
            interval_start=f"2026-01-0{day}T00:00:00Z", interval_end=f"2026-01-0{day + 1}T00:00:00Z"
        )

    def days() -> Any:
        return project.in_warehouse("SELECT intervals::text FROM loadsheet.scope")[0][0]

    for day in (1, 2, 3, 4):
        read_day(day)
    before = days()
    # The day without rows is known as read as long as no later one was.
    restore(project, "visit")
    assert days() == before and "2026-01-05" in before
    restore(project, "visit", "--as-of", str(load_numbers(project, "visit")[1]))
    assert "2026-01-03" in days() and "2026-01-04" not in days()
    for day in (3, 4, 5):
        read_day(day)
    assert "2026-01-06" in days() and project.in_warehouse(
        "SELECT count(*) FROM staging.visit"
    ) == project.in_source("SELECT count(*) FROM visit WHERE at < '2026-01-06Z'")


def test_what_cannot_be_restored_is_refused_by_name(shop: Project, copies: Copies) -> None:
    first, second, last = load_numbers(shop, "merged")
    for options, message in {
        ("nothing",): "shop has no table 'nothing'",
        ("merged", "--as-of", "yesterday"): "staging.merged has no load 'yesterday'",
        ("merged", "--as-of", "0001-01-01T00:00+14:00"): "no load '0001-01-01T00:00+14:00'",
        ("merged", "--as-of", "9999-12-31T23:59:59-14:00"): "no load '9999-12-31T23:59:59-14:00'",
        ("merged", "--into", "merged"): "it has no schema. Name the new table",
        ("merged", "--into", "kept.merged_1"): "a restore overwrites nothing",
        ("merged", "--into", "staging.log"): "a restore overwrites nothing",
        (
            "merged",
            "--into",
            f"audit.{'é' * 32}",
        ): "is longer than PostgreSQL allows (bytes of a name: 63)",
        (
            "merged",
            "--into",
            f"{'a' * 64}.x",
        ): "is longer than PostgreSQL allows (bytes of a name: 63)",
        ("merged", "--into", "loadsheet.x"): "the schema loadsheet is not for tables of users",
        ("merged", "--into", "pg_temp.x"): "the schema pg_temp is not",
        ("merged", "--into", "information_schema.x"): "the schema information_schema is not",
        ("merged", "--into", "audit._loadsheet_7"): "own working tables",
        ("merged", "--into", "audit.a.b"): "without quotes. Name the new table with its schema",
        ("merged", "--into", 'audit."x"'): "without quotes",
        ("merged", "--into", "audit.a\x1b[1mb"): "without quotes",
        ("merged", "--into", "audit.x "): "without quotes",
        ("merged", "--list", "--into", "a.b"): "--list changes nothing",
    }.items():
        if options[-1] == "kept.merged_1":
            options = (*options[:-1], copies["merged"][first])
        assert message in refused(shop, *options, code=2)
    shop.in_warehouse("UPDATE loadsheet.load SET pipeline = 'other' WHERE load_no = %s", last)
    assert "is of the pipeline 'other'" in refused(shop, "merged", "--as-of", str(second))
    # In another table, the other pipeline's later rows are no concern.
    restore(shop, "merged", "--as-of", str(second), "--into", "audit.merged")
    assert not difference(shop, "audit.merged", copies["merged"][second])


def test_a_table_that_a_pattern_matches_is_restored_by_its_name(
    shop: Project, copies: Copies
) -> None:
    shop.spec({"merged": TABLES["merged"], "lo?": TABLES["log"]})
    assert "'lo?' is a pattern" in refused(shop, "lo?", code=2)
    first = load_numbers(shop, "log")[0]
    restore(shop, "log", "--as-of", str(first))
    assert not difference(shop, "staging.log", copies["log"][first])
    assert command(shop, "run", "shop").exit_code == 0
    assert not shop.differences("log")
