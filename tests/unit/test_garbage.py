"""Which attempts in the lake may go: decided from names, ages and the ledger's word alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from loadsheet.lake.garbage import CommittedLoad, TableRecord, attempts, judge
from loadsheet.lake.store import StoredObject

NOW = datetime(2026, 1, 31, tzinfo=UTC)
ROOT = "shop/orders/"
LOAD_ID = "0123456789abcdef0123"
WEEK = timedelta(days=7)


def prefix(fence: int) -> str:
    return f"{ROOT}{LOAD_ID}/{fence:08d}-deadbeef"


def stored(fence: int, days: float, *names: str) -> list[StoredObject]:
    names = names or ("part-00000.bin.zst", "manifest.json")
    return [
        StoredObject(name=f"{prefix(fence)}/{name}", size=10, modified=NOW - timedelta(days=days))
        for name in names
    ]


def load(
    fence: int, days: float, whole: bool = False, restored: int | None = None
) -> CommittedLoad:
    return CommittedLoad(
        load_no=fence,
        prefix=prefix(restored or fence),
        committed_at=NOW - timedelta(days=days),
        whole=whole,
        restored=restored,
    )


def record(
    fence: int, *loads: CommittedLoad, sealed: str | None = None, wanted: bool = True
) -> TableRecord:
    return TableRecord(
        pipeline="shop",
        table="orders",
        fence=fence,
        sealed=sealed,
        loads=loads,
        now=NOW,
        wanted=wanted,
    )


def verdicts(
    objects: list[StoredObject],
    of: TableRecord,
    keep: int = 1,
    owner: tuple[str, str] | None = ("shop", "orders"),
) -> dict[int, str]:
    """Fence -> why, with a minus before what goes."""
    found = judge(attempts(objects, ROOT), [of], WEEK, keep, lambda attempt: owner)
    return {v.attempt.fence: f"{'-' if v.remove else ''}{v.why}" for v in found}


def test_the_newest_whole_load_and_every_later_one_stay() -> None:
    objects = [item for fence in (1, 2, 3, 4, 5) for item in stored(fence, 30)]
    of = record(5, load(1, 30, True), load(2, 30), load(3, 30, True), load(4, 30), load(5, 30))
    gone, needed = "-a later load replaced the whole table", "a rebuild needs it"
    assert verdicts(objects, of) == {1: gone, 2: gone, 3: needed, 4: needed, 5: needed}


def test_old_loads_go_by_age_and_by_count() -> None:
    objects = [item for fence in (1, 2, 3, 4) for item in stored(fence, 30)]
    of = record(4, load(1, 30, True), load(2, 30, True), load(3, 6, True), load(4, 1, True))
    gone = "-a later load replaced the whole table"
    assert verdicts(objects, of, 1) == {1: gone, 2: gone, 3: "too young", 4: "a rebuild needs it"}
    assert verdicts(objects, of, 3) == {
        1: gone,
        2: "among the newest 3",
        3: "among the newest 3",
        4: "a rebuild needs it",
    }


def test_what_a_restore_to_a_kept_load_needs_stays() -> None:
    objects = [item for fence in range(1, 9) for item in stored(fence, 30)]
    loads = [load(1, 30, True), load(2, 30), load(3, 30, True), load(4, 30), load(5, 30)]
    loads += [load(6, 6), load(7, 5, True), load(8, 4)]
    of = record(8, *loads)
    gone, needed = "-a later load replaced the whole table", "a restore needs it"
    now = "a rebuild needs it"
    young = {3: needed, 4: needed, 5: needed, 6: "too young", 7: now, 8: now}
    assert verdicts(objects, of) == {1: gone, 2: gone} | young
    old = record(8, *(replace(one, committed_at=NOW - WEEK * 2) for one in loads))
    only = dict.fromkeys(range(1, 7), gone) | {7: now, 8: now}
    assert verdicts(objects, old) == only
    third = {3: needed, 4: needed, 5: needed, 6: "among the newest 3", 7: now, 8: now}
    assert verdicts(objects, old, 3) == {1: gone, 2: gone} | third


def test_a_restore_needs_the_loads_that_it_has_replayed() -> None:
    """Load 5 has brought back the rows of load 2, and load 6 was built on them."""
    objects = [item for fence in (1, 2, 3, 4, 6) for item in stored(fence, 30)]
    loads = (load(1, 30, True), load(2, 30), load(3, 30, True), load(4, 30))
    of = record(6, *loads, load(5, 30, True, restored=2), load(6, 30))
    gone, now = "-a later load replaced the whole table", "a rebuild needs it"
    assert verdicts(objects, of) == {1: now, 2: now, 3: gone, 4: gone, 6: now}


def test_without_a_whole_load_every_load_stays() -> None:
    objects = stored(1, 30) + stored(2, 30)
    assert set(verdicts(objects, record(2, load(1, 30), load(2, 30))).values()) == {
        "a rebuild needs it"
    }


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("part-00000.bin.zst",),
        ("part-00000.parquet",),
        ("part-00000.csv.zst", "part-00001.csv.zst"),
    ],
)
def test_the_attempt_on_which_the_table_stands_stays_however_old(names: tuple[str, ...]) -> None:
    assert verdicts(stored(7, 300, *names), record(7)) == {7: "a retry needs it"}


def test_the_sealed_attempt_stays_whatever_its_fence() -> None:
    assert verdicts(stored(6, 300), record(7, sealed=f"{prefix(6)}/manifest.json")) == {
        6: "a retry needs it"
    }


def test_superseded_attempts_go_when_they_are_old() -> None:
    objects = (
        stored(1, 8)
        + stored(2, 8, "part-00000.bin.zst")
        + stored(3, 6)
        + stored(4, 6, "part-00000.bin.zst")
    )
    assert verdicts(objects, record(9)) == {
        1: "-superseded before it was loaded",
        2: "-it has no manifest",
        3: "too young",
        4: "too young",
    }


def test_an_attempt_is_as_young_as_its_newest_object() -> None:
    objects = stored(1, 30, "part-00000.bin.zst") + stored(1, 1, "part-00001.bin.zst")
    assert verdicts(objects, record(9)) == {1: "too young"}


def test_what_another_pipeline_has_stored_under_the_same_prefix_stays() -> None:
    objects = stored(1, 30) + stored(50, 30)
    assert verdicts(objects, record(9), owner=("store", "orders")) == {
        1: "it belongs to store",
        50: "a retry needs it",
    }


def test_a_manifest_that_cannot_be_read_stays() -> None:
    assert verdicts(stored(1, 30), record(9), owner=None) == {1: "its manifest cannot be read"}


def test_an_attempt_that_the_ledger_never_made_keeps_all() -> None:
    objects = stored(1, 30) + stored(2, 30, "part-00000.bin.zst") + stored(10, 30)
    found = verdicts(objects, record(9, load(1, 30, True)))
    assert len(found) == 3 and all(
        "another warehouse uses the same prefix" in why for why in found.values()
    )


def test_of_a_table_that_is_nowhere_any_more_only_age_counts() -> None:
    objects = stored(1, 30) + stored(2, 6) + stored(3, 30) + stored(4, 6)
    gone = "-the table has left the spec and the warehouse"
    of = record(4, load(1, 30, True), load(2, 6), wanted=False)
    assert verdicts(objects, of) == {1: gone, 2: "too young", 3: gone, 4: "too young"}


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        f"{LOAD_ID}/notes.txt",
        f"{LOAD_ID}/00000001-deadbeef/part-00000.bin",
        f"{LOAD_ID}/manifest.json",
        f"{LOAD_ID}/00000001-deadbeef/part-00000.parquet.zst",
        f"{LOAD_ID}/00000001-deadbeef/old/part-00000.bin.zst",
        f"0{LOAD_ID}/00000001-deadbeef/manifest.json",
        f"{LOAD_ID}/1-deadbeef/manifest.json",
        f"{LOAD_ID}/00000001-deadbeef/manifest.json.bak",
    ],
)
def test_objects_not_called_as_ours_are_not_seen(name: str) -> None:
    assert attempts([StoredObject(name=f"{ROOT}{name}", size=1, modified=NOW)], ROOT) == []
