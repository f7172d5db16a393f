"""A scope is a target, not a name: each target has its own watermark and state, and one that is no
longer what its loads left is noticed before anything is written."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from loadsheet.errors import Refused, Superseded
from loadsheet.outcome import Outcome
from loadsheet.warehouse import integrity
from tests.faults.oracle import judge
from tests.project import Project, client_programs

SOURCE = """
CREATE TABLE merged (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text);
CREATE TABLE log (id bigserial, what text);
CREATE TABLE whole (id bigserial PRIMARY KEY, what text);
"""
TABLES: dict[str, Any] = {
    "merged": {"incremental": "at"},
    "log": {"incremental": "id", "mode": "append"},
    "whole": None,
}
MART = {"sums": "SELECT count(*) AS rows FROM merged"}


def write(project: Project, rows: int) -> None:
    for table in TABLES:
        project.in_source(f"INSERT INTO {table} SELECT FROM generate_series(1, {rows})")


def spec(project: Project, **warehouse: str) -> None:
    project.spec(TABLES, MART, warehouse={"conn_id": "warehouse", **warehouse})


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    spec(project)
    write(project, 100)
    project.succeed()
    return project


def assert_equal(project: Project, staging: str = "staging", marts: str = "mart") -> None:
    for table in TABLES:
        assert not judge(project, table, staging=staging), table
    rows = project.in_source("SELECT count(*) FROM merged")
    assert project.in_warehouse(f"SELECT rows FROM {marts}.sums") == rows


def copy_of(project: Project) -> Project:
    """A developer's copy of the pipeline, with schemas of its own."""
    copy = replace(project, folder=project.folder / "copy")
    spec(copy, schema="staging_dev", mart_schema="mart_dev")
    return copy


def test_a_copy_in_another_schema_has_its_own_watermark_and_marts(shop: Project) -> None:
    """A developer runs production's pipeline with schemas of their own, and production goes on."""
    copy = copy_of(shop)
    write(shop, 50)
    copy.succeed()
    assert_equal(copy, "staging_dev", "mart_dev")
    shop.succeed()
    assert_equal(shop)
    write(shop, 50)
    for project in (shop, copy, shop):
        project.succeed()
    assert_equal(shop)
    assert_equal(copy, "staging_dev", "mart_dev")


def test_a_schema_that_is_changed_and_changed_back_loses_nothing(shop: Project) -> None:
    for schema in ("other", "staging", "other", "staging"):
        spec(shop, schema=schema, mart_schema=f"{schema}_mart")
        write(shop, 20)
        shop.in_source("UPDATE whole SET what = 'new' WHERE id = 1")
        shop.succeed()
        assert_equal(shop, schema, f"{schema}_mart")


def test_the_same_run_id_in_two_targets_is_two_loads(shop: Project) -> None:
    copy = copy_of(shop)
    write(shop, 10)
    for project in (shop, copy):
        project.succeed(run_id="scheduled__2026-01-01")
    assert_equal(shop)
    assert_equal(copy, "staging_dev", "mart_dev")


def collect_garbage(project: Project) -> None:
    """As `loadsheet gc` does for old objects."""
    from loadsheet.engine import garbage
    from loadsheet.lake.store import Lake
    from loadsheet.postgres import connect_warehouse
    from loadsheet.spec.pipeline_file import load_pipeline

    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    lake = Lake(project.connections("lake"), project.bucket)
    with connect_warehouse(project.connections("warehouse")) as session:
        found = garbage.find(pipeline, lake, session, timedelta(0), keep=1)
        garbage.remove(found, lake)


def test_garbage_of_one_target_is_not_that_of_another(shop: Project) -> None:
    copy = copy_of(shop)
    write(shop, 10)
    shop.succeed()
    for full in (frozenset[str](), "all", "all"):
        copy.succeed(full_refresh=full)
    before = shop.objects()
    collect_garbage(copy)
    assert shop.objects() < before
    loads = shop.in_warehouse(
        "SELECT manifest FROM loadsheet.load WHERE target = 'staging.log' ORDER BY load_no"
    )
    assert len(loads) == 2 and {name for (name,) in loads} <= shop.objects()


def test_what_a_target_has_yet_to_load_is_no_garbage_of_another(shop: Project) -> None:
    copy = copy_of(shop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADSHEET_FAILPOINT", "load.manifest_read:kill")
        copy.cli("run", "shop", "--tables", "log")
    ((sealed,),) = shop.in_warehouse(
        "SELECT sealed_manifest FROM loadsheet.scope WHERE target = 'staging_dev.log'"
    )
    assert sealed in shop.objects()
    write(shop, 5)
    shop.succeed()
    collect_garbage(shop)
    assert sealed in shop.objects()


def outcomes(project: Project, **request: Any) -> dict[str, object]:
    results = project.run(**request)
    return {table: results[f"extract.extract_{table}"].result for table in TABLES}


EMPTIED = {
    "truncated": "TRUNCATE staging.{}",
    "emptied": "DELETE FROM staging.{}",
    "truncated in place": "CREATE VIEW v_{0} AS TABLE staging.{0}; TRUNCATE staging.{0}",
    "made again": "CREATE TABLE staging.n_{0} (LIKE staging.{0} INCLUDING ALL);"
    "DROP TABLE staging.{0}; ALTER TABLE staging.n_{0} RENAME TO {0}",
    "dropped": "DROP TABLE staging.{}",
}


@pytest.mark.parametrize("harm", EMPTIED.values(), ids=EMPTIED)
def test_an_emptied_target_is_filled_again_from_the_start(shop: Project, harm: str) -> None:
    for table in TABLES:
        (shop.as_loader if "DROP" in harm else shop.in_warehouse)(harm.format(table))
    for table, outcome in outcomes(shop).items():
        assert isinstance(outcome, Outcome) and not outcome.skipped, table
        if "DROP" not in harm:
            assert f"staging.{table} was emptied (100 rows by the ledger)" in outcome.message
    assert_equal(shop)
    write(shop, 5)
    shop.succeed()
    assert_equal(shop)


def test_without_the_check_a_truncated_target_stays_empty(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "_change", lambda *_: None)
    shop.in_warehouse("TRUNCATE staging.merged")
    assert shop.succeed()["extract.extract_merged"] == "skipped"
    assert judge(shop, "merged").lost == 100


def dump(project: Project, *what: str) -> bytes:
    return _tool(project, "pg_dump", "--clean", "--if-exists", *what)


def restore(project: Project, dumped: bytes) -> None:
    _tool(project, "psql", "-v", "ON_ERROR_STOP=1", "-q", stdin=dumped)


def _tool(project: Project, name: str, *options: str, stdin: bytes = b"") -> bytes:
    program = client_programs(project.warehouse) / name
    command = [str(program), project.warehouse, *options]
    done = subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=60)
    return done.stdout


BACKUPS: dict[str, tuple[str, ...]] = {
    "staging": ("-n", "staging"),
    "ledger": ("-n", "loadsheet"),
}


@pytest.mark.parametrize("what", BACKUPS)
def test_a_target_that_is_not_as_old_as_the_ledger_is_noticed(shop: Project, what: str) -> None:
    backup = dump(shop, *BACKUPS[what])
    write(shop, 50)
    shop.succeed()
    restore(shop, backup)
    before = shop.in_warehouse("SELECT count(*), max(_load_id) FROM staging.log")
    found = outcomes(shop)
    for table in ("merged", "log"):
        error = found[table]
        assert isinstance(error, Refused), error
        assert f"staging.{table} was changed" in str(error)
        assert f"loadsheet run shop --tables {table} --full-refresh" in str(error)
    assert shop.in_warehouse("SELECT count(*), max(_load_id) FROM staging.log") == before
    assert not judge(shop, "whole")  # read whole, so it heals itself
    plan = shop.cli("plan", "shop", "--connect")
    assert "staging.log was changed" in " ".join(plan.stdout.split())
    shop.succeed(full_refresh="all")
    assert_equal(shop)
    write(shop, 5)
    shop.succeed()
    assert_equal(shop)


def test_a_backup_of_both_is_read_on_from(shop: Project) -> None:
    backup = dump(shop, "-n", "staging", "-n", "loadsheet", "-n", "mart")
    write(shop, 50)
    shop.succeed()
    restore(shop, backup)
    shop.succeed()
    assert_equal(shop)


@pytest.mark.parametrize("maintain", ["VACUUM FULL staging.log", "CLUSTER staging.merged USING x"])
def test_maintenance_of_a_target_changes_nothing(shop: Project, maintain: str) -> None:
    shop.in_warehouse("CREATE INDEX x ON staging.merged (what)")
    shop.in_warehouse(maintain)
    assert outcomes(shop)["log"].skipped  # type: ignore[attr-defined]
    write(shop, 5)
    shop.in_warehouse(maintain)
    shop.succeed()
    assert_equal(shop)


def test_a_target_truncated_between_extract_and_load_is_noticed_by_the_load(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadsheet.engine import seal

    write(shop, 5)
    reach = seal.reach

    def truncate(point: str) -> None:
        reach(point)
        if point == "extract.sealed":
            shop.in_warehouse("TRUNCATE staging.merged")

    with monkeypatch.context() as patch:
        patch.setattr(seal, "reach", truncate)
        results = shop.run(only=frozenset({"merged"}))
        assert isinstance(results["load.load_merged"].result, Superseded)
    shop.succeed()
    assert_equal(shop)


def add_views(project: Project) -> None:
    """Something depends on each target, so its rows are changed in place."""
    for table in TABLES:
        project.in_warehouse(f"CREATE VIEW public.v_{table} AS TABLE staging.{table}")


def test_a_restored_target_is_noticed_although_rows_were_deleted_long_ago(shop: Project) -> None:
    add_views(shop)
    shop.in_source("DELETE FROM merged WHERE id = 1")
    shop.succeed(full_refresh="all")
    backup = dump(shop, "-t", "staging.merged")
    shop.in_source("UPDATE merged SET what = 'new', at = clock_timestamp() WHERE id <= 10")
    shop.succeed()
    shop.in_warehouse("DROP VIEW public.v_merged")
    restore(shop, backup)
    assert isinstance(outcomes(shop)["merged"], Refused)


def test_a_target_filled_again_in_place_is_known_after_maintenance(shop: Project) -> None:
    add_views(shop)
    shop.in_warehouse("TRUNCATE staging.merged")
    shop.succeed()
    shop.in_warehouse("VACUUM FULL staging.merged")
    write(shop, 5)
    shop.succeed()
    assert_equal(shop)


def test_marts_of_a_target_filled_again_in_place_are_built_in_full(shop: Project) -> None:
    marts = {
        "m": (
            "SELECT id, what FROM merged WHERE _load_id > :since_load",
            {"materialized": "merge", "unique_key": "id"},
        )
    }
    shop.spec(TABLES, marts)
    add_views(shop)
    shop.succeed()
    shop.in_source("DELETE FROM merged WHERE id <= 10")
    shop.in_warehouse("TRUNCATE staging.merged")
    shop.succeed()
    assert shop.in_warehouse("SELECT count(*) FROM mart.m") == [(90,)]
    shop.in_source("DELETE FROM merged")
    shop.in_warehouse("TRUNCATE staging.merged")
    shop.succeed()
    assert shop.in_warehouse("SELECT count(*) FROM mart.m") == [(0,)]


@pytest.mark.parametrize("table", TABLES)
def test_a_full_refresh_that_fails_proves_nothing_about_a_restored_target(
    shop: Project, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    backup = dump(shop, "-n", "staging")
    write(shop, 50)
    shop.succeed()
    restore(shop, backup)
    with monkeypatch.context() as patch:
        patch.setenv("LOADSHEET_FAILPOINT", "load.locked:kill")
        shop.cli("run", "shop", "--tables", table, "--full-refresh")
    outcome = outcomes(shop)[table]
    assert isinstance(outcome, Refused) == (table != "whole")
    shop.succeed(full_refresh="all")
    assert_equal(shop)


@pytest.mark.parametrize("harm", ["TRUNCATE iv.merged", "DROP TABLE iv.merged"])
def test_an_interval_is_not_all_that_an_emptied_target_by_intervals_gets(
    shop: Project, harm: str
) -> None:
    shop.in_source("UPDATE merged SET at = '2020-01-01' WHERE id <= 10")
    tables = {"merged": {"incremental": {"cursor": "at", "by": "data_interval"}}}
    warehouse = {"conn_id": "warehouse", "schema": "iv"}
    shop.spec(tables, warehouse=warehouse, schedule="@daily")
    interval = {"interval_start": "2019-01-01T00:00:00Z", "interval_end": "2021-01-01T00:00:00Z"}
    shop.succeed(**interval)
    shop.in_warehouse(harm)
    error = shop.run(**interval)["extract.extract_merged"].result
    assert isinstance(error, Refused) and "iv.merged" in str(error)
    shop.succeed(full_refresh="all")
    assert not judge(shop, "merged", staging="iv")


def test_rows_from_before_the_ledger_are_counted(shop: Project) -> None:
    tables = {"merged": {"incremental": {"cursor": "at", "by": "data_interval"}}}
    shop.spec(tables, warehouse={"conn_id": "warehouse", "schema": "iv"}, schedule="@daily")
    interval = {"interval_start": "2019-01-01T00:00:00Z", "interval_end": "2099-01-01T00:00:00Z"}
    shop.succeed(explicit_interval=True, **interval)
    shop.in_warehouse("DROP SCHEMA loadsheet CASCADE")
    shop.succeed(explicit_interval=True, **interval)
    shop.in_warehouse("VACUUM FULL iv.merged")
    shop.succeed(explicit_interval=True, **interval)


def test_the_loads_of_rows_that_only_the_target_has_are_no_garbage(shop: Project) -> None:
    shop.spec({"whole": {"mode": "merge"}})
    shop.succeed()
    backup = dump(shop, "-n", "staging")
    shop.in_source("DELETE FROM whole WHERE id <= 50")  # the target keeps them
    write(shop, 5)
    shop.succeed()
    restore(shop, backup)
    shop.succeed()
    before = shop.objects()
    collect_garbage(shop)
    assert shop.objects() == before


def test_a_run_is_resumed_on_a_target_that_was_emptied_in_between(shop: Project) -> None:
    write(shop, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADSHEET_FAILPOINT", "extract.sealed:kill")
        patch.setenv("LOADSHEET_STATE", str(shop.folder / "state"))
        shop.cli("run", "shop", "--tables", "merged")
        shop.in_warehouse("TRUNCATE staging.merged")
        patch.delenv("LOADSHEET_FAILPOINT")
        resumed = shop.cli("run", "shop", "--resume")
    assert resumed.returncode == 0, resumed.stdout
    assert not judge(shop, "merged")


def test_a_table_that_was_made_by_hand_is_not_overwritten(shop: Project) -> None:
    shop.as_loader("DROP TABLE staging.merged; CREATE TABLE staging.merged AS SELECT 1 AS id")
    error = shop.run()["extract.extract_merged"].result
    assert isinstance(error, Refused) and "a table that Loadsheet did not make" in str(error)
    error = shop.run(full_refresh="all")["load.load_merged"].result
    assert isinstance(error, Refused) and "was not made by Loadsheet" in str(error)


def test_a_schema_with_a_percent_sign_is_a_name_like_others(shop: Project) -> None:
    spec(shop, schema="per%cent", mart_schema="m%s")
    for _ in range(2):
        write(shop, 2)
        shop.succeed()


@pytest.mark.parametrize("harm", ["TRUNCATE staging.merged", "DROP TABLE staging.merged"])
def test_an_interval_is_not_all_that_an_emptied_target_gets(shop: Project, harm: str) -> None:
    shop.in_source("UPDATE merged SET at = '2020-01-01' WHERE id <= 10")
    shop.succeed(full_refresh="all")
    shop.in_warehouse(harm)
    interval = {
        "interval_start": "2019-01-01T00:00:00Z",
        "interval_end": "2021-01-01T00:00:00Z",
        "explicit_interval": True,
    }
    results = shop.run(only=frozenset({"merged"}), **interval)
    assert isinstance(results["extract.extract_merged"].result, Refused)
    shop.succeed()
    assert_equal(shop)


def test_a_copys_load_ends_no_session_of_productions(shop: Project) -> None:
    from loadsheet.lake.manifest import Manifest
    from loadsheet.postgres import connect_warehouse
    from loadsheet.sql.text import Relation
    from loadsheet.warehouse import older_sessions

    def manifest(fence: int) -> Manifest:
        return cast(Manifest, SimpleNamespace(pipeline="shop", table="merged", fence=fence))

    with (
        connect_warehouse(shop.connections("warehouse")) as production,
        connect_warehouse(shop.connections("warehouse")) as copy,
        connect_warehouse(shop.connections("warehouse")) as newer,
        pytest.raises(psycopg.OperationalError),
        production.transaction(),
    ):
        older_sessions.end(production, manifest(1), Relation("staging", "merged"))
        with copy.transaction():
            older_sessions.end(copy, manifest(2), Relation("staging_dev", "merged"))
        assert production.execute("SELECT 1").fetchone() == (1,)
        with newer.transaction():
            older_sessions.end(newer, manifest(2), Relation("staging", "merged"))
        production.execute("SELECT pg_sleep(5)")  # the control: its session was ended


def test_a_copy_that_works_does_not_hide_productions_failure(shop: Project) -> None:
    copy = copy_of(shop)
    shop.in_warehouse("ALTER TABLE staging.merged RENAME TO gone")
    shop.in_warehouse("CREATE TABLE staging.merged (x int)")
    write(shop, 3)
    shop.run(only=frozenset({"merged"}))
    copy.succeed()
    assert "failed" in shop.cli("status", "shop").stdout
    assert "failed" not in copy.cli("status", "shop").stdout


def test_a_ledger_of_the_version_before_goes_on_without_a_reload(shop: Project) -> None:
    shop.in_warehouse(
        "ALTER TABLE loadsheet.scope DROP COLUMN storage;"
        "ALTER TABLE loadsheet.scope DROP CONSTRAINT scope_pkey;"
        "ALTER TABLE loadsheet.scope ADD PRIMARY KEY (pipeline, table_name);"
        "COMMENT ON SCHEMA loadsheet IS 'ledger version 4'"
    )
    write(shop, 5)
    results = shop.run()
    message = results["extract.extract_merged"].result.message  # type: ignore[union-attr]
    assert message.startswith("5 rows,")
    assert_equal(shop)


def test_a_mart_of_all_columns_keeps_each_rows_load(shop: Project) -> None:
    """`SELECT t.*` has `_load_id`, by which a mart upon the mart finds the rows that are new."""
    marts = {
        "everything": (
            "SELECT t.*, 1 AS _place FROM merged t WHERE t._load_id > :since_load",
            {"materialized": "merge", "unique_key": "id"},
        ),
        "upon": (
            "SELECT id, what FROM everything WHERE _load_id > :since_load",
            {"materialized": "merge", "unique_key": "id"},
        ),
    }
    shop.spec(TABLES, marts)
    shop.succeed()
    write(shop, 20)
    shop.in_source("UPDATE merged SET what = 'new', at = clock_timestamp() WHERE id <= 10")
    shop.succeed()
    loads = "SELECT id, _load_id FROM {} ORDER BY id"
    assert shop.in_warehouse(loads.format("mart.everything")) == shop.in_warehouse(
        loads.format("staging.merged")
    )
    rows = "SELECT id, what FROM {} ORDER BY id"
    assert shop.in_warehouse(rows.format("mart.upon")) == shop.in_source(rows.format("merged"))


def test_a_mart_that_was_damaged_is_built_again(shop: Project) -> None:
    shop.in_warehouse("DELETE FROM mart.sums")
    assert shop.succeed()["transform.transform_sums"] == "skipped"
    done = shop.cli("run", "shop", "--rebuild", "sums")
    assert done.returncode == 0 and "full refresh" in done.stdout
    assert_equal(shop)
    wrong = shop.cli("run", "shop", "--rebuild", "sum")
    assert wrong.returncode == 2
    assert "--rebuild: shop has no transform 'sum' (did you mean 'sums'?)" in wrong.stderr
