"""`loadsheet restore`: a staging table again from the lake, as it was after any of its loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.engine import fill
from loadsheet.engine import restore as restoring
from loadsheet.engine.execute import execute
from loadsheet.lake.history import History
from loadsheet.lake.manifest import Manifest
from loadsheet.lake.store import Lake
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import Relation, ident, idents, literal
from loadsheet.warehouse.replay import working_table
from tests.faults.scale import scaled
from tests.project import Project

SOURCE = """
CREATE TABLE merged (
    id int PRIMARY KEY, what text, small int, old text DEFAULT 'old',
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE log (n bigserial, what text);
CREATE TABLE whole (id int PRIMARY KEY, what text);
INSERT INTO merged (id, what, small) SELECT n, 'a' || n, n FROM generate_series(1, 60) n;
INSERT INTO log (what) SELECT 'a' || n FROM generate_series(1, 60) n;
INSERT INTO whole SELECT n, 'a' || n FROM generate_series(1, 60) n;
"""
TABLES: dict[str, Any] = {
    "merged": {"incremental": {"cursor": "at", "hold_back": "0s"}},
    "log": {"incremental": {"cursor": "n", "hold_back": "0s"}, "mode": "append"},
}
WHOLE: dict[str, Any] = {"whole": None}
MARTS: dict[str, Any] = {
    "sums": "SELECT count(*) AS rows, max(_load_id) AS newest FROM merged",
    "doubled": "SELECT rows * 2 AS rows FROM sums",
}
A_DAY = """
UPDATE merged SET small = small + 1, at = clock_timestamp() WHERE id % 7 = {day};
INSERT INTO merged (id, small) SELECT max(id) + 1, {day} FROM merged;
INSERT INTO log (what) SELECT 'day {day}' FROM generate_series(1, 3);
DELETE FROM whole WHERE id = {day};
"""
DRIFT = {
    2: "ALTER TABLE merged ADD added numeric(8,2); UPDATE merged SET added = id WHERE id % 7 = 2;",
    3: "ALTER TABLE merged RENAME what TO said; ALTER TABLE merged ALTER small TYPE bigint;",
    4: "ALTER TABLE merged DROP old;",
}
Copies = dict[str, dict[int, str]]
"""By table, a copy of it after each of its loads."""


def command(project: Project, *arguments: str) -> Result:
    """`loadsheet` in this process, which is faster than one of its own."""
    return CliRunner().invoke(
        app, ["--project", str(project.folder), *arguments], env=project.environment()
    )


def restore(project: Project, table: str, *options: str) -> dict[str, Any]:
    """What a restore that succeeds prints."""
    result = command(project, "restore", project.name, table, *options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(project: Project, table: str, *options: str, code: int = 1) -> str:
    """The message of a restore that fails."""
    result = command(project, "restore", project.name, table, *options)
    assert result.exit_code == code, result.output
    return result.stderr


def load_numbers(project: Project, table: str) -> list[int]:
    rows = project.in_warehouse(
        "SELECT load_no FROM loadsheet.load WHERE table_name = %s ORDER BY 1", table
    )
    return [number for (number,) in rows]


def keep_copies(project: Project, copies: Copies) -> None:
    """Copy what each table is now, under the number of its last load."""
    project.in_warehouse("CREATE SCHEMA IF NOT EXISTS kept")
    tables = project.in_warehouse("SELECT DISTINCT table_name FROM loadsheet.load")
    for (table,) in tables:
        number = load_numbers(project, table)[-1]
        name = f"kept.{table}_{number}"
        project.in_warehouse(f"CREATE TABLE IF NOT EXISTS {name} AS TABLE staging.{table}")
        copies.setdefault(table, {})[number] = name


def a_day(project: Project, copies: Copies, day: int, **request: Any) -> None:
    project.in_source(DRIFT.get(day, "") + A_DAY.format(day=day))
    project.succeed(**request)
    keep_copies(project, copies)


@pytest.fixture
def copies() -> Copies:
    return {}


@pytest.fixture
def shop(project: Project, copies: Copies) -> Project:
    """Loaded on three days."""
    return opened(project, copies, 2, TABLES)


def opened(project: Project, copies: Copies, days: int, tables: dict[str, Any]) -> Project:
    project.in_source(SOURCE)
    project.spec(tables)
    project.succeed()
    keep_copies(project, copies)
    for day in range(1, days + 1):
        a_day(project, copies, day)
    return project


def columns(project: Project, table: str) -> dict[str, str]:
    schema, _, name = table.partition(".")
    rows = project.in_warehouse(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid ="
        f" to_regclass({literal(f'{schema}.{ident(name)}')}) AND attnum > 0 AND NOT attisdropped"
    )
    return dict(rows)


def difference(project: Project, one: str, other: str) -> Any:
    """How two tables differ: in types, or in the number of rows that only one has.

    A column without values may be in one alone: a full refresh leaves those that the source has no
    longer, and a restore in place those that came later.
    """
    left, right = columns(project, one), columns(project, other)
    for table, name in [(one, n) for n in left.keys() - right.keys()] + [
        (other, n) for n in right.keys() - left.keys()
    ]:
        if project.in_warehouse(f"SELECT count({ident(name)}) FROM {table}") != [(0,)]:
            return f"only {table} has {name}"
    common = sorted(left.keys() & right.keys())
    if [left[name] for name in common] != [right[name] for name in common]:
        return left, right
    rows = f"SELECT ROW({idents(common)})::text FROM"
    return project.in_warehouse(
        f"SELECT (SELECT count(*) FROM ({rows} {one} EXCEPT ALL {rows} {other}) a)"
        f" + (SELECT count(*) FROM ({rows} {other} EXCEPT ALL {rows} {one}) b)"
    )[0][0]


def leftovers(project: Project) -> list[Any]:
    return project.in_warehouse("SELECT relname FROM pg_class WHERE relname LIKE '\\_loadsheet%'")


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


def test_a_warehouse_that_is_lost_comes_back_from_the_ledger_and_the_lake(
    shop: Project, copies: Copies
) -> None:
    """The source is gone as well."""
    shop.spec(TABLES, MARTS)
    shop.succeed()
    newest = {table: load_numbers(shop, table)[-1] for table in TABLES}
    shop.in_warehouse("DROP SCHEMA staging CASCADE; DROP SCHEMA mart CASCADE")
    shop.in_source("ALTER TABLE merged RENAME TO away")
    for table, number in newest.items():
        restore(shop, table)
        assert not difference(shop, f"staging.{table}", copies[table][number])
    assert shop.in_warehouse("SELECT rows FROM mart.doubled") == [(124,)]
    shop.in_source("ALTER TABLE away RENAME TO merged")
    a_day(shop, copies, 3)
    assert not shop.differences("merged") and not shop.differences("log")


def test_without_a_ledger_nothing_is_restored(shop: Project) -> None:
    shop.in_warehouse("DROP SCHEMA loadsheet CASCADE")
    text = refused(shop, "merged", code=2)
    assert "has no ledger" in text and "Restore it from a backup" in text


def test_a_lake_that_lost_or_changed_an_object_changes_nothing(
    shop: Project, copies: Copies
) -> None:
    first, second, last = load_numbers(shop, "merged")
    lake = Lake(shop.connections("lake"), shop.bucket)
    manifests = dict(shop.in_warehouse("SELECT load_no, manifest FROM loadsheet.load"))
    objects = {name: lake.get(name, 1 << 30) or b"" for name in lake.names("")}
    manifest = manifests[second]
    folder = manifest.removesuffix("manifest.json")
    part = next(name for name in objects if name.startswith(folder) and "part-" in name)
    harms = {
        "part gone": (part, None),
        "part changed": (part, objects[part][:-9] + b"\0" + objects[part][-8:]),
        "part of before": (part, b"".join(v for k, v in objects.items() if "part-" in k)),
        "manifest gone": (manifest, None),
        "manifest of before": (manifest, objects[manifests[first]]),
    }
    for harm, (name, content) in harms.items():
        if content is None:
            lake.remove(name)
        else:
            lake.put(name, content)
        for number in (second, last):
            text = refused(shop, "merged", "--as-of", str(number))
            assert f"load {second} cannot be read from the lake" in text, harm
            assert "Nothing was changed" in text and "extract step" not in text
        lake.put(name, objects[name])
    assert not difference(shop, "staging.merged", copies["merged"][last])
    assert load_numbers(shop, "merged") == [first, second, last] and not leftovers(shop)
    lake.remove(part)
    restore(shop, "merged", "--as-of", str(first))
    assert not difference(shop, "staging.merged", copies["merged"][first])


def test_a_table_that_another_user_changed_is_restored_only_when_asked(
    shop: Project, copies: Copies
) -> None:
    shop.in_warehouse("DELETE FROM staging.merged WHERE id % 7 = 3")
    a_day(shop, copies, 3)
    number = load_numbers(shop, "merged")[-1]
    text = refused(shop, "merged")
    assert f"load {number}: " in text and "Another user has probably changed" in text
    assert not difference(shop, "staging.merged", copies["merged"][number])
    restore(shop, "merged", "--accept-counts")
    assert not shop.differences("merged")


def test_a_target_that_was_emptied_begins_again_at_the_load_that_filled_it(
    shop: Project, copies: Copies
) -> None:
    shop.in_warehouse("TRUNCATE staging.merged")
    a_day(shop, copies, 3)
    a_day(shop, copies, 4)
    numbers = load_numbers(shop, "merged")
    assert restore(shop, "merged", "--into", "audit.merged")["replayed"] == numbers[-2:]
    assert not difference(shop, "audit.merged", copies["merged"][numbers[-1]])


def test_gc_keeps_what_a_restore_to_a_kept_load_needs(shop: Project, copies: Copies) -> None:
    a_day(shop, copies, 3, full_refresh="all")
    a_day(shop, copies, 4)
    shop.in_warehouse("UPDATE loadsheet.load SET committed_at = committed_at - interval '30 days'")
    lake = Lake(shop.connections("lake"), shop.bucket)
    before = set(lake.names(""))

    def restorable() -> list[int]:
        found = command(shop, "restore", "shop", "merged", "--list", "--json")
        loads = json.loads(found.stdout)["loads"]
        return [load["load"] for load in loads if load["can_be_restored"]]

    # The third newest is an increment of the first full load.
    assert command(shop, "gc", "shop", "--keep", "3").exit_code == 0
    merged = load_numbers(shop, "merged")
    assert restorable() == merged
    assert restore(shop, "merged", "--as-of", str(merged[2]), "--into", "audit.m")["rows"] == 62
    assert command(shop, "gc", "shop", "--keep", "2").exit_code == 0
    assert restorable() == merged[-2:]
    assert set(lake.names("")) < before
    listed = command(shop, "restore", "shop", "merged", "--list").stdout
    assert f"no, gone: {merged[0]}, {merged[1]}, {merged[2]}" in listed
    for number in merged[-2:]:
        restore(shop, "merged", "--as-of", str(number))
        assert not difference(shop, "staging.merged", copies["merged"][number])
    assert "cannot be read from the lake" in refused(shop, "merged", "--as-of", str(merged[2]))


def test_a_restored_load_is_kept_by_gc_as_long_as_the_restore_is(
    shop: Project, copies: Copies
) -> None:
    first = load_numbers(shop, "merged")[0]
    a_day(shop, copies, 3, full_refresh="all")
    restore(shop, "merged", "--as-of", str(first))
    shop.in_warehouse("UPDATE loadsheet.load SET committed_at = committed_at - interval '30 days'")
    assert command(shop, "gc", "shop", "--keep", "1").exit_code == 0
    restore(shop, "merged")
    assert not difference(shop, "staging.merged", copies["merged"][first])


def test_a_long_chain_is_replayed_in_several_transactions(
    shop: Project, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "LOADS_PER_TRANSACTION", 1)
    last = load_numbers(shop, "merged")[-1]
    shop.in_warehouse("UPDATE staging.merged SET small = 0")
    restore(shop, "merged")
    assert not difference(shop, "staging.merged", copies["merged"][last])
    # A killed one has left its table.
    left = working_table(Relation("staging", "merged"))
    shop.in_warehouse(f"CREATE TABLE {left.sql} (a int)")
    restore(shop, "merged")
    assert not leftovers(shop)
    # One that fails in its second transaction leaves nothing of the first.
    monkeypatch.setenv("LOADSHEET_FAILPOINT", "load.part_copied:raise:2")
    refused(shop, "merged", "--as-of", str(last))
    assert not leftovers(shop)
    monkeypatch.delenv("LOADSHEET_FAILPOINT")
    # And one that meets a full load between its transactions begins again.
    replayed: Callable[..., Any] = restoring._Restore._transaction

    def then_a_full_load(self: Any, run_id: str) -> Any:
        result = replayed(self, run_id)
        shop.succeed(full_refresh="all")
        return result

    monkeypatch.setattr(restoring._Restore, "_transaction", then_a_full_load)
    assert "another run has loaded the whole table" in refused(shop, "merged")
    assert not shop.differences("merged") and not leftovers(shop)


def test_a_restore_that_is_killed_changes_nothing_and_can_be_repeated(
    shop: Project, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, last = load_numbers(shop, "merged")
    points = ["load.part_copied:kill:2", "swap.dropped:kill", "restore.placed:kill"]
    for point in scaled(points[-1:], points):
        monkeypatch.setenv("LOADSHEET_FAILPOINT", point)
        assert shop.cli("restore", "shop", "merged", "--as-of", str(second)).returncode == -9
        monkeypatch.delenv("LOADSHEET_FAILPOINT")
        assert not difference(shop, "staging.merged", copies["merged"][last])
        assert load_numbers(shop, "merged") == [first, second, last]
    restore(shop, "merged", "--as-of", str(second))
    assert not difference(shop, "staging.merged", copies["merged"][second])
    assert not leftovers(shop)


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
    assert shop.cli("run", "shop", "--sample", "20").returncode == 0
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
        ("merged", "--into", "merged"): "name the new table with its schema",
        ("merged", "--into", "kept.merged_1"): "a restore overwrites nothing",
        ("merged", "--into", "staging.log"): "a restore overwrites nothing",
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
    assert shop.cli("run", "shop").returncode == 0
    assert not shop.differences("log")


ITEMS = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item (id, what) SELECT n, 'a' || n FROM generate_series(1, 40) n;
"""
ITEM: dict[str, Any] = {"incremental": {"cursor": "at", "hold_back": "0s"}}


def opened_items(project: Project, copies: Copies, **table: Any) -> None:
    project.in_source(ITEMS)
    project.spec({"item": ITEM | table})
    project.succeed()
    keep_copies(project, copies)


def after(project: Project, copies: Copies, change: str, **request: Any) -> None:
    """A run after this change of the source."""
    project.in_source(change)
    project.succeed(**request)
    keep_copies(project, copies)


def restore_each_elsewhere(project: Project, copies: Copies) -> list[int]:
    """Restore `item` to each of its loads, into a new table; the loads that the last replayed."""
    found: dict[str, Any] = {}
    for number, copy in copies["item"].items():
        found = restore(project, "item", "--as-of", str(number), "--into", f"audit.i{number}")
        assert not difference(project, f"audit.i{number}", copy), number
    return list(found["replayed"])


def marked(project: Project) -> list[int]:
    rows = project.in_warehouse(
        "SELECT id FROM staging.item WHERE _deleted_at IS NOT NULL ORDER BY 1"
    )
    return [number for (number,) in rows]


def test_rows_that_are_marked_as_deleted_come_back_as_they_were(
    project: Project, copies: Copies
) -> None:
    """Also through a full refresh, which keeps them, and whatever the spec says now."""
    opened_items(project, copies)
    project.spec({"item": ITEM | {"deletes": "soft"}})
    after(project, copies, "DELETE FROM item WHERE id IN (1, 2)")
    after(project, copies, "INSERT INTO item VALUES (1, 'back')")
    after(project, copies, "DELETE FROM item WHERE id = 3", full_refresh="all")
    project.spec({"item": ITEM})
    after(project, copies, "INSERT INTO item VALUES (2, 'back, unmarked by none'), (50, 'new')")
    assert marked(project) == [2, 3]
    numbers = load_numbers(project, "item")
    # The full refresh has not brought the rows that were marked before it.
    assert restore_each_elsewhere(project, copies) == numbers
    project.in_warehouse("UPDATE loadsheet.load SET committed_at = now() - interval '30 days'")
    assert command(project, "gc", "shop", "--keep", "1").exit_code == 0
    restore(project, "item", "--into", "audit.after_gc")
    assert not difference(project, "audit.after_gc", copies["item"][numbers[-1]])
    # In place, also where the target is changed and not swapped.
    project.in_warehouse("CREATE TABLE public.referring (id int REFERENCES staging.item)")
    for number in (numbers[0], numbers[3]):
        restore(project, "item", "--as-of", str(number))
        assert not difference(project, "staging.item", copies["item"][number])
    project.in_warehouse("DROP TABLE public.referring")
    # The next run marks what is gone since, although it has searched lately.
    project.spec({"item": ITEM | {"deletes": {"action": "soft", "every": "9d"}}})
    for number, then in ((numbers[0], []), (numbers[1], [1, 2])):
        restore(project, "item", "--as-of", str(number))
        assert not difference(project, "staging.item", copies["item"][number])
        assert marked(project) == then
        project.succeed()
        assert marked(project) == [3]
        assert project.in_warehouse(
            "SELECT id, what FROM staging.item WHERE _deleted_at IS NULL ORDER BY id"
        ) == project.in_source("SELECT id, what FROM item ORDER BY id")


def test_a_source_that_has_a_column_of_that_name_keeps_its_own(
    project: Project, copies: Copies
) -> None:
    project.in_source(ITEMS + "ALTER TABLE item ADD _deleted_at timestamptz")
    project.spec({"item": ITEM})
    project.succeed()
    keep_copies(project, copies)
    after(project, copies, "UPDATE item SET _deleted_at = at, at = now() WHERE id = 1")
    for number, copy in reversed(copies["item"].items()):
        restore(project, "item", "--as-of", str(number))
        assert not difference(project, "staging.item", copy)


def test_a_full_refresh_that_kept_marked_rows_is_no_beginning(
    project: Project, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lake has those rows only in earlier loads. The control: taken for the whole table, it
    restores too few."""
    opened_items(project, copies, deletes="soft")
    after(project, copies, "DELETE FROM item WHERE id IN (1, 2)")
    after(project, copies, "", full_refresh="all")
    first, _, last = load_numbers(project, "item")
    with monkeypatch.context() as patch:
        patch.setattr(History, "chain", lambda self, number: [self.get(number)])
        assert "built on earlier rows" in refused(project, "item", "--into", "audit.item")
    lake = Lake(project.connections("lake"), project.bucket)
    rows = project.in_warehouse("SELECT manifest FROM loadsheet.load WHERE load_no = %s", first)
    lake.remove(rows[0][0])
    assert f"load {first} cannot be read" in refused(project, "item", "--as-of", str(last))
    assert f"no, gone: {first}" in command(project, "restore", "shop", "item", "--list").stdout
    # One that removes them is.
    project.spec({"item": ITEM | {"deletes": "hard"}})
    after(project, copies, "", full_refresh="all")
    newest = load_numbers(project, "item")[-1]
    assert restore(project, "item", "--into", "audit.item")["replayed"] == [newest]
    assert project.in_warehouse("SELECT count(*) FROM audit.item") == [(38,)]


def test_columns_that_were_filled_come_back_as_far_as_the_fill_had_come(
    project: Project, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next run fills the rest."""
    unfilled: dict[int, Any] = {}
    extract_range: Callable[..., str | None] = fill._Fill._extract_range

    def keep() -> None:
        keep_copies(project, copies)
        recorded = project.in_warehouse("SELECT unfilled FROM loadsheet.scope")[0][0]
        unfilled[load_numbers(project, "item")[-1]] = recorded

    def extract_after_copying(self: Any) -> str | None:
        keep()
        return extract_range(self)

    monkeypatch.setattr(fill, "ROWS_PER_RANGE", 20)
    opened_items(project, copies, fill="auto")
    project.in_source(
        "ALTER TABLE item ADD colour text; UPDATE item SET colour = 'c' || id;"
        "UPDATE item SET at = clock_timestamp() WHERE id = 40"
    )
    with monkeypatch.context() as patch:
        patch.setattr(fill._Fill, "_extract_range", extract_after_copying)
        project.succeed()
    first, *numbers = load_numbers(project, "item")
    assert numbers == list(unfilled) and len(numbers) == 3
    assert [bool(recorded) for recorded in unfilled.values()] == [True, True, False]
    restore_each_elsewhere(project, copies)
    for number in (numbers[1], first):
        restore(project, "item", "--as-of", str(number))
        assert not difference(project, "staging.item", copies["item"][number])
        recorded = project.in_warehouse("SELECT unfilled FROM loadsheet.scope")[0][0]
        # The column came after the first load, so all of its values are missing.
        assert recorded == (unfilled[number] if number != first else unfilled[numbers[0]])
        project.succeed()
        assert not project.differences("item"), number


def test_a_repair_is_replayed_and_what_another_user_did_before_it_is_not(
    project: Project, copies: Copies
) -> None:
    opened_items(project, copies, deletes="hard")
    # No increment finds that.
    project.in_source("UPDATE item SET what = 'missed' WHERE id < 5; DELETE FROM item WHERE id = 9")
    assert command(project, "verify", "shop", "--repair").exit_code == 0
    keep_copies(project, copies)
    assert len(copies["item"]) == 2
    restore_each_elsewhere(project, copies)
    project.in_warehouse("UPDATE staging.item SET what = 'harmed' WHERE id = 20")
    assert command(project, "verify", "shop", "--repair").exit_code == 0
    number = load_numbers(project, "item")[-1]
    assert f"load {number}: " in refused(project, "item")
    restore(project, "item", "--accept-counts")
    assert not project.differences("item")
