"""A pipeline that is renamed: what a run under the new name says and refuses, and `adopt`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.errors import Overtaken, Refused, Superseded
from loadsheet.outcome import Outcome
from tests.core.test_targets import collect_garbage
from tests.faults.oracle import judge
from tests.faults.scale import scaled
from tests.project import Project

SOURCE = """
CREATE TABLE merged (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text);
CREATE TABLE log (id bigserial, what text);
CREATE TABLE whole (id bigserial PRIMARY KEY, what text);
"""
TABLES: dict[str, Any] = {
    "merged": {"incremental": {"cursor": "at", "hold_back": "0s"}},
    "log": {"incremental": {"cursor": "id", "hold_back": "0s"}, "mode": "append"},
    "whole": None,
}
MARTS: dict[str, Any] = {
    "sums": "SELECT count(*) AS rows FROM merged",
    "copied": (
        "INSERT INTO public.copied SELECT id FROM log WHERE _load_id > :since_load",
        {"materialized": "script"},
    ),
}


def write(project: Project, rows: int) -> None:
    for table in TABLES:
        project.in_source(f"INSERT INTO {table} SELECT FROM generate_series(1, {rows})")


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    # The script's own table: `loadsheet grants` says that it may need more.
    project.in_warehouse(
        "CREATE TABLE public.copied (id bigint);"
        f"ALTER TABLE public.copied OWNER TO {project.loader}"
    )
    project.spec(TABLES, MARTS)
    write(project, 100)
    project.succeed()
    return project


@pytest.fixture
def store(shop: Project) -> Project:
    """The pipeline `shop` under its new name."""
    return renamed(shop)


def renamed(shop: Project, name: str = "store") -> Project:
    home = shop.folder / "pipelines"
    (home / shop.name).rename(home / name)
    return replace(shop, name=name)


def assert_equal(project: Project, scripted: bool = True) -> None:
    for table in TABLES:
        assert not judge(project, table), table
    rows = project.in_source("SELECT count(*) FROM merged")
    assert project.in_warehouse("SELECT rows FROM mart.sums") == rows
    if scripted:
        rows = project.in_source("SELECT count(*), count(DISTINCT id) FROM log")
        copied = project.in_warehouse("SELECT count(*), count(DISTINCT id) FROM public.copied")
        assert copied == rows


def cli(project: Project, *arguments: str) -> Result:
    """The command line in this process, which is faster than one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in project.environment().items():
            patch.setenv(name, value)
        return CliRunner().invoke(app, ["--project", str(project.folder), *arguments])


def adopt(project: Project, old: str = "shop") -> str:
    done = cli(project, "adopt", old, project.name)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def refused(project: Project, code: int, *arguments: str) -> str:
    done = cli(project, "adopt", *arguments)
    assert done.exit_code == code, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def ledger(project: Project) -> list[tuple[Any, ...]]:
    return project.in_warehouse(
        "SELECT 'scope', pipeline, target, watermark FROM loadsheet.scope"
        " UNION ALL SELECT 'load', pipeline, target, load_id FROM loadsheet.load"
        " UNION ALL SELECT 'run', pipeline, target, run_id FROM loadsheet.transform_run"
        " ORDER BY 1, 2, 3, 4"
    )


def test_an_adopted_pipeline_continues_where_it_was(store: Project) -> None:
    assert "store has taken over 3 tables and 2 transforms of shop" in adopt(store)
    # `store` has nothing new: before, every table was a first load.
    states = store.succeed()
    del states["create_bucket"]
    assert set(states.values()) == {"skipped"}
    assert {name for _, name, *_ in ledger(store)} == {"store"}
    write(store, 7)
    results = store.run()
    for table in TABLES:
        outcome = results[f"load.load_{table}"].result
        assert isinstance(outcome, Outcome)
        assert outcome.counts["inserted"] == (107 if table == "whole" else 7)
    assert_equal(store)


def test_the_verdicts_on_tables_and_marts_keep_their_owner(shop: Project) -> None:
    shop.verify()
    verdicts = "SELECT pipeline, target, verdict FROM loadsheet.verified ORDER BY target"
    before = shop.in_warehouse(verdicts)
    store = renamed(shop)
    adopt(store)
    assert store.in_warehouse(verdicts) == [("store", *rest) for _, *rest in before] != []


def test_a_row_that_commits_late_is_read_after_the_adoption(shop: Project) -> None:
    with psycopg.connect(shop.source) as late:
        late.execute("INSERT INTO merged DEFAULT VALUES")
        late.execute("INSERT INTO log DEFAULT VALUES")
        write(shop, 5)
        shop.succeed()
        store = renamed(shop)
        write(store, 3)
        adopt(store)
        store.succeed()
        late.commit()
    store.succeed()
    assert_equal(store)


def test_without_adoption_appended_rows_and_scripts_are_refused(store: Project) -> None:
    """Before, the appended table was replaced by what the source had, without a word, and the
    script inserted every row again."""
    store.in_source("DELETE FROM log WHERE id <= 50")  # the source keeps no history
    before = store.in_warehouse("SELECT count(*) FROM staging.log")
    plan = cli(store, "plan", "store", "--connect")
    assert plan.exit_code == 1
    text = " ".join(plan.stdout.split())
    assert text.count("loadsheet adopt shop store") == 3
    results = store.run()
    for step in ("extract.extract_log", "transform.transform_copied"):
        result = results[step]
        if result.state == "upstream_failed":
            result = store.run(only=frozenset({"merged"}))[step]
        assert isinstance(result.result, Refused), step
        assert "`loadsheet adopt shop store`" in str(result.result)
    assert "--full-refresh" in str(results["extract.extract_log"].result)
    for table in ("merged", "whole"):
        outcome = results[f"extract.extract_{table}"].result
        assert "`loadsheet adopt shop store`" in outcome.message  # type: ignore[union-attr]
    assert store.in_warehouse("SELECT count(*) FROM staging.log") == before
    assert store.in_warehouse("SELECT count(*) FROM public.copied") == [(100,)]
    assert "failed" in cli(store, "status", "store").stdout
    # What the new name has loaded itself since then stays; the rest is taken over.
    said = adopt(store)
    assert "1 table and 1 transform" in said
    assert "kept so: staging.merged, staging.whole, mart.sums" in said
    write(store, 5)
    store.succeed()
    assert store.in_warehouse("SELECT count(*), max(id) FROM staging.log") == [(105, 105)]
    assert store.in_warehouse("SELECT count(*), max(id) FROM public.copied") == [(105, 105)]
    assert "failed" not in cli(store, "status", "store").stdout
    assert "renamed" not in cli(store, "plan", "store", "--connect").stdout


def test_with_another_mart_schema_a_script_does_not_start_from_0(store: Project) -> None:
    """It did: its rows were doubled. Nor does an adoption leave it behind."""
    other = {"conn_id": "warehouse", "schema": "staging", "mart_schema": "mart2"}
    store.spec(TABLES, MARTS, warehouse=other)
    assert "Set warehouse.mart_schema as it was" in refused(store, 2, "shop", "store")
    store.spec(TABLES, MARTS)
    adopt(store)
    store.spec(TABLES, MARTS, warehouse=other)
    write(store, 10)
    failed = store.run()["transform.transform_copied"].result
    assert isinstance(failed, Refused) and "has run as mart.copied" in str(failed)
    store.spec(TABLES, MARTS)
    store.succeed()
    assert_equal(store)


def test_the_first_run_under_a_new_name_may_read_everything_again(store: Project) -> None:
    store.in_warehouse("TRUNCATE public.copied")
    store.succeed(full_refresh="all")
    assert_equal(store)
    assert "has loaded every table of 'shop' itself" in refused(store, 2, "shop", "store")


def test_a_full_refresh_under_a_new_name_replaces_no_rows_by_fewer(store: Project) -> None:
    """Before, the open transaction left an empty table: the new name had no watermark yet."""
    with psycopg.connect(store.source) as writing:
        writing.execute("INSERT INTO log DEFAULT VALUES")
        error = store.run(only=frozenset({"log"}), full_refresh="all")["extract.extract_log"].result
        assert "may still write rows" in str(error)
        writing.rollback()
    assert not judge(store, "log")


def test_what_cannot_be_taken_over_is_refused(shop: Project) -> None:
    before = ledger(shop)
    assert "is the name in" in refused(shop, 2, "shop", "shop")
    home = shop.folder / "pipelines"
    store = replace(shop, name="store")
    store.spec(TABLES, MARTS)
    assert "pipelines/shop/pipeline.yml is still a pipeline 'shop'" in refused(
        shop, 2, "shop", "store"
    )
    (home / "shop").rename(shop.folder / "old")
    assert "no pipeline 'shpo' (did you mean 'shop'?)" in refused(shop, 2, "shpo", "store")
    assert "there is no pipeline 'sotre'" in refused(shop, 2, "shop", "sotre")
    store.spec(TABLES, MARTS, warehouse={"conn_id": "warehouse", "schema": "x", "mart_schema": "y"})
    assert "no table of 'shop' in the schemas of 'store'" in refused(shop, 2, "shop", "store")
    assert ledger(shop) == before


def test_without_a_ledger_there_is_nothing_to_take_over(project: Project) -> None:
    project.spec(TABLES)
    assert "has no ledger" in refused(project, 2, "store", "shop")


def test_two_names_that_load_in_turns_are_not_made_one(shop: Project) -> None:
    home = shop.folder / "pipelines"
    store = replace(shop, folder=shop.folder / "other", name="store")
    store.spec({"merged": {"incremental": "at"}})
    for number in range(2):
        write(shop, 1)
        store.succeed()
        if number == 0:
            write(shop, 1)
            shop.succeed()
    shop.succeed(full_refresh="all", only=frozenset({"merged"}))
    (home / "shop").rename(shop.folder / "old")
    before = ledger(shop)
    assert "the state of neither is complete" in refused(store, 1, "shop", "store")
    assert ledger(shop) == before


def test_a_step_that_writes_is_not_robbed(store: Project) -> None:
    with psycopg.connect(store.warehouse) as writing:
        writing.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('loadsheet:staging.log', 0))"
        )
        before = ledger(store)
        assert "a step is writing staging.log now" in refused(store, 1, "shop", "store")
        assert ledger(store) == before
    adopt(store)


@pytest.mark.parametrize(
    "point", scaled(["extract.sealed"], ["extract.decided", "extract.fenced", "extract.sealed"])
)
def test_an_extraction_under_the_old_name_cannot_load_any_more(
    shop: Project, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    from loadsheet.engine import attempt, extract, seal

    reach = extract.reach
    write(shop, 5)

    def adopt_at(reached: str) -> None:
        reach(reached)
        if reached == point:
            monkeypatch.setattr(extract, "reach", reach)
            monkeypatch.setattr(attempt, "reach", reach)
            monkeypatch.setattr(seal, "reach", reach)
            adopt(renamed(shop))

    monkeypatch.setattr(extract, "reach", adopt_at)
    monkeypatch.setattr(attempt, "reach", adopt_at)
    monkeypatch.setattr(seal, "reach", adopt_at)
    results = shop.run(only=frozenset({"log"}))
    errors = [result.result for result in results.values()]
    assert any(isinstance(error, (Overtaken, Superseded)) for error in errors), errors
    store = replace(shop, name="store")
    assert judge(store, "log").lost == 5
    store.succeed()
    assert_equal(store)


def old_objects(project: Project) -> set[str]:
    return {name for name in project.objects() if name.startswith("shop/")}


def test_garbage_of_the_old_name_is_collected_and_what_is_needed_stays(shop: Project) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADSHEET_FAILPOINT", "extract.sealed:kill")
        write(shop, 1)
        shop.cli("run", "shop", "--tables", "log")  # an attempt that is never loaded
    store = renamed(shop)
    adopt(store)
    store.succeed()
    needed = {
        manifest
        for (manifest,) in store.in_warehouse(
            "SELECT manifest FROM loadsheet.load WHERE target <> 'staging.whole'"
        )
    }
    before = old_objects(store)
    collect_garbage(store)
    after = old_objects(store)
    # Only the attempt that was never loaded, and the whole table's earlier load, have gone.
    assert needed <= store.objects()
    gone = {name.rpartition("/")[0] for name in before - after}
    assert sorted(name.split("/")[1] for name in gone) == ["log", "whole"]


def test_a_new_pipeline_with_the_old_name_leaves_the_adopted_loads_alone(store: Project) -> None:
    adopt(store)
    store.succeed()
    adopted = old_objects(store)
    other = replace(store, name="shop")
    schemas = {"conn_id": "warehouse", "schema": "other", "mart_schema": "other_mart"}
    other.spec(TABLES, warehouse=schemas)
    for full in (frozenset[str](), "all", "all"):
        other.succeed(full_refresh=full)
    collect_garbage(other)
    assert adopted <= store.objects()
    newest = store.in_warehouse(
        "SELECT DISTINCT ON (target) manifest FROM loadsheet.load WHERE pipeline = 'shop'"
        " ORDER BY target, load_no DESC"
    )
    collect_garbage(store)
    assert len(newest) == 3 and {manifest for (manifest,) in newest} <= store.objects()


def test_a_chain_of_names_is_followed(store: Project) -> None:
    adopt(store)
    write(store, 3)
    store.succeed()
    third = renamed(store, "third")
    done = cli(third, "adopt", "store", "third", "--json")
    assert json.loads(done.stdout)["tables"] == ["staging.log", "staging.merged", "staging.whole"]
    write(third, 3)
    third.succeed()
    assert_equal(third)
    sources = third.in_warehouse("SELECT DISTINCT source ->> 'pipeline' FROM loadsheet.load")
    assert {name for (name,) in sources} == {"shop", "store", None}


@pytest.mark.parametrize(
    ("incremental", "request_", "reads"),
    [
        ({"cursor": "at"}, {}, "it reads the whole table"),
        (
            {"cursor": "at", "initial_value": "2020-01-01T00:00:00Z"},
            {},
            "it reads all rows from at 2020-01-01T00:00:00Z on",
        ),
        (
            {"cursor": "at", "by": "data_interval"},
            {
                "interval_start": "2020-01-01T00:00:00+00:00",
                "interval_end": "2020-01-02T00:00:00+00:00",
            },
            "it reads the run's interval, and which intervals 'shop' has read is not known to it",
        ),
    ],
)
def test_the_first_run_under_a_new_name_says_what_it_reads(
    project: Project, incremental: dict[str, Any], request_: dict[str, Any], reads: str
) -> None:
    """Of a table that is read by interval it said that all of it is read."""
    project.in_source(SOURCE)
    write(project, 3)
    project.spec({"merged": {"incremental": incremental}}, schedule="@daily")
    project.succeed(**request_)
    store = renamed(project)
    plan = cli(store, "plan", "store", "--connect")
    assert reads in " ".join(plan.stdout.split())
    outcome = store.run(**request_)["extract.extract_merged"].result
    assert isinstance(outcome, Outcome) and reads in outcome.message
