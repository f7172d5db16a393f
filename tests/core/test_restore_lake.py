"""What `loadsheet restore` needs of the lake and the ledger, and what happens if it is stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.engine import garbage
from loadsheet.engine import restore as restoring
from loadsheet.lake.store import Lake
from loadsheet.sql.text import Relation
from loadsheet.warehouse.replay import working_table
from tests.core.restoring import (
    MARTS,
    TABLES,
    Copies,
    a_day,
    command,
    difference,
    leftovers,
    load_numbers,
    refused,
    restore,
)
from tests.faults.scale import scaled
from tests.project import Project


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


def until_only_the_newest_is_kept(project: Project, copies: Copies) -> int:
    """Two full loads, of which a gc keeps the second alone; the number of the first."""
    first = load_numbers(project, "merged")[0]
    a_day(project, copies, 3, full_refresh="all")
    project.in_warehouse("UPDATE loadsheet.load SET committed_at = committed_at - '30 d'::interval")
    return first


@pytest.mark.parametrize("guarded", [True, False])
def test_a_gc_that_has_judged_before_a_restore_removes_nothing(
    shop: Project, copies: Copies, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """The restore's own load needs objects that were garbage before it."""
    first = until_only_the_newest_is_kept(shop, copies)
    find: Callable[..., Any] = garbage.find

    def find_and_restore(*given: Any) -> Any:
        found = find(*given)
        restore(shop, "merged", "--as-of", str(first))
        return found

    monkeypatch.setattr(garbage, "find", find_and_restore)
    if not guarded:
        monkeypatch.setattr(garbage, "_refuse_restored", lambda *given: None)
    answer = command(shop, "gc", "shop", "--keep", "1")
    if not guarded:
        assert answer.exit_code == 0
        assert f"load {first} cannot be read from the lake" in refused(shop, "merged")
        return
    assert answer.exit_code == 1 and "nothing was removed: merged was restored" in answer.stderr
    restore(shop, "merged")
    assert not difference(shop, "staging.merged", copies["merged"][first])


def test_a_gc_waits_for_a_restore_and_a_restore_for_a_gc(
    shop: Project, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = until_only_the_newest_is_kept(shop, copies)
    environment = shop.environment()
    environment["AIRFLOW_CONN_WAREHOUSE"] += "?options=-c%20lock_timeout%3D50ms"
    answers = []

    def meanwhile(work: Callable[..., Any], *arguments: str) -> Callable[..., Any]:
        def working(*given: Any) -> Any:
            arguments_of_it = ["--project", str(shop.folder), *arguments]
            answers.append(CliRunner().invoke(app, arguments_of_it, env=environment))
            return work(*given)

        return working

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "reach", meanwhile(restoring.reach, "gc", "shop", "--keep", "1"))
        restore(shop, "merged", "--as-of", str(first))
    assert "nothing was removed" in answers[-1].stderr
    assert "loadsheet:restore:staging.merged, " in answers[-1].stderr
    with monkeypatch.context() as patch:
        patch.setattr(garbage, "remove", meanwhile(garbage.remove, "restore", "shop", "merged"))
        assert command(shop, "gc", "shop", "--keep", "1").exit_code == 0
    assert answers[-1].exit_code == 1 and "loadsheet:gc:shop, " in answers[-1].stderr
    assert len(answers) == 2
    restore(shop, "merged")


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
