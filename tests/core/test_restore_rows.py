"""`loadsheet restore` of rows that were marked as deleted, filled or repaired."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from loadsheet.engine import fill
from loadsheet.lake.history import History
from loadsheet.lake.store import Lake
from tests.core.restoring import (
    Copies,
    command,
    difference,
    keep_copies,
    load_numbers,
    refused,
    restore,
)
from tests.project import Project

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
    after(project, copies, "INSERT INTO item VALUES (2, 'back'), (50, 'new')")
    assert marked(project) == [3]
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


WIDENED = {
    "what": ("varchar(10)", "text", "repeat('x', 20)"),
    "n": ("int", "bigint", "5000000000"),
    "price": ("numeric(8,2)", "numeric(12,2)", "1234567890.12"),
}


REFERS = "CREATE TABLE public.r (id int REFERENCES staging.item)"


@pytest.mark.parametrize(("deletes", "hangs"), [("soft", ""), ("soft", REFERS), ("hard", REFERS)])
def test_a_column_that_was_widened_later_has_its_type_of_then(
    project: Project, copies: Copies, deletes: str, hangs: str
) -> None:
    columns = ", ".join(f"{name} {before}" for name, (before, _, _) in WIDENED.items())
    project.in_source(
        f"CREATE TABLE item (id int PRIMARY KEY, {columns}, at timestamptz DEFAULT"
        " clock_timestamp()); INSERT INTO item SELECT n, 'a', n, n FROM generate_series(1, 90) n"
    )
    project.spec({"item": ITEM | {"deletes": deletes}})
    project.succeed()
    keep_copies(project, copies)
    after(project, copies, "DELETE FROM item WHERE id = 1")
    for name, (_, wide, value) in WIDENED.items():
        project.in_source(f"ALTER TABLE item ALTER {name} TYPE {wide}")
        project.in_source(f"UPDATE item SET {name} = {value}, at = clock_timestamp() WHERE id = 2")
    after(project, copies, "DELETE FROM item WHERE id = 3")
    project.in_warehouse(hangs or "SELECT")
    for number, copy in copies["item"].items():
        found = restore(project, "item", "--as-of", str(number))
        assert not difference(project, "staging.item", copy), number
        assert found["columns_with_wider_types"] == []
        project.succeed()
        assert project.verify()["item"].state == "equal"
    # A column that a view uses cannot be altered: its values are those of then.
    project.as_loader("CREATE VIEW staging.seen AS SELECT n FROM staging.item")
    first = load_numbers(project, "item")[0]
    result = command(project, "restore", "shop", "item", "--as-of", str(first))
    assert result.exit_code == 0, result.output
    assert "with the wider types of later, because something uses them: n\n" in result.stdout
    columns = "SELECT id, what, n, price FROM {} ORDER BY 1"
    assert project.in_warehouse(columns.format("staging.item")) == project.in_warehouse(
        columns.format(copies["item"][first])
    )
    project.succeed()
    assert project.verify()["item"].state == "equal"
