"""Workers that sleep in the middle of their work and wake up when somebody else has done it; runs
that overlap."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from loadsheet import postgres
from loadsheet.errors import LoadsheetError, Superseded, Unavailable
from loadsheet.outcome import Outcome
from loadsheet.sql import merging
from loadsheet.warehouse import fence, older_sessions
from tests.byhand import ByHand, Worker, may_be_retried, wait_until
from tests.faults.oracle import judge, violations, watermark_violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, 500) i;
"""
CHANGE = "UPDATE item SET what = md5(what), at = clock_timestamp() WHERE id % 3 = {third}"
MERGING = (
    *(
        "load.manifest_read",
        "load.locked",
        "load.fence_checked",
        "load.part_copied",
        "load.filled",
        "merge.written",
    ),
    *("load.applied", "load.recorded", "load.advanced", "load.committed"),
)
REPLACING = (*(point for point in MERGING if point != "merge.written"), "swap.dropped")
EXTRACTING = (
    *(
        "extract.observed",
        "extract.decided",
        "extract.snapshot",
        "extract.fenced",
        "extract.part_stored",
    ),
    *("extract.copied", "extract.parts_stored", "extract.manifest_stored", "extract.sealed"),
)
TRANSFORMING = (
    *("transform.recorded", "transform.committed"),
    *scaled((), ("transform.locked", "transform.built")),
)
RANDOM = ""
# A retry takes a fraction of a second. Without the eviction it waits for a lock until lock_timeout,
# which is 60 s.
SECONDS_FOR_A_RETRY = 20


@pytest.fixture
def by_hand(project: Project) -> Iterator[ByHand]:
    """Loaded once."""
    by_hand = ByHand(project, SOURCE)
    by_hand.both("first")
    yield by_hand
    by_hand.close()


def put_to_sleep(by_hand: ByHand, load_id: str | None, point: str, chance: random.Random) -> Worker:
    """A load that sleeps at `point`, or wherever a random moment finds it."""
    worker = by_hand.start("load", "sleeper", load_id, point)
    if point == RANDOM:
        time.sleep(chance.uniform(0, 0.25))
        worker.stop()
    worker.wait_until_stopped()
    return worker


def watermark(project: Project) -> datetime:
    [(stands,)] = project.in_warehouse(
        "SELECT watermark::timestamptz FROM loadsheet.scope WHERE table_name = 'item'"
    )
    assert isinstance(stands, datetime)
    return stands


@pytest.mark.timeout(scaled(600, 7200))
def test_a_load_that_wakes_up_after_its_retry_writes_nothing(
    by_hand: ByHand, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally("a load stopped (SIGSTOP), its retry commits, the load wakes up")
    longest = 0.0
    for number in range(scaled(4, 100)):
        whole = chance.random() < 0.3
        point = chance.choice([*(REPLACING if whole else MERGING), RANDOM])
        before = watermark(by_hand.project)
        by_hand.project.in_source(CHANGE.format(third=number % 3))
        load_id = by_hand.step(
            "extract", f"run {number}", full_refresh="all" if whole else frozenset()
        ).load_id
        worker = put_to_sleep(by_hand, load_id, point, chance)
        asleep = worker.is_stopped
        began = time.monotonic()
        done = by_hand.step("load", f"run {number}", load_id)
        longest = max(longest, time.monotonic() - began)
        assert longest < SECONDS_FOR_A_RETRY, point
        committed = watermark(by_hand.project)
        first = judge(by_hand.project, "item")
        worker.wake()
        woken = worker.result()
        assert (isinstance(woken, Outcome) and woken.counts == done.counts) or may_fail(woken), (
            point,
            woken,
        )
        line.add(first, judge(by_hand.project, "item"), hit=asleep)
        assert not (line.lost or line.doubled), (number, point)
        assert before <= committed == watermark(by_hand.project)
    assert line.hit > line.tried / 2
    assert violations(by_hand.project) == [] == watermark_violations(by_hand.project, "item", "at")
    print(f"the slowest retry took {longest:.1f} s")


def may_fail(error: object) -> bool:
    """Superseded, or what a retry mends."""
    return isinstance(error, LoadsheetError) and (error.retryable or isinstance(error, Superseded))


def has_changed_nothing(result: Outcome | Exception) -> bool:
    """Whether a load that was overtaken has extracted again, and found no row to write: its message
    tells."""
    return (
        isinstance(result, Outcome)
        and "so it was extracted again" in result.message
        and not any(result.counts.get(what) for what in ("inserted", "updated", "deleted"))
    )


@pytest.mark.timeout(scaled(600, 7200))
def test_a_load_that_wakes_up_after_a_newer_run_writes_nothing(
    by_hand: ByHand, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally("a load stopped (SIGSTOP), a newer run commits, the load wakes up")
    # Past `advance` it also holds the row that the newer extraction must change: that one waits for
    # the server to end a transaction that idles for 30 s.
    points = [point for point in MERGING if point != "load.advanced"]
    for number, point in enumerate(
        chance.sample(points, 4) if scaled(True, False) else MERGING * 3
    ):
        by_hand.project.in_source(CHANGE.format(third=0))
        worker = put_to_sleep(
            by_hand, by_hand.step("extract", f"old {number}").load_id, point, chance
        )
        by_hand.project.in_source(CHANGE.format(third=0))
        began = time.monotonic()
        by_hand.both(f"new {number}")
        assert time.monotonic() - began < SECONDS_FOR_A_RETRY + 30 * (point == "load.advanced"), (
            point
        )
        worker.wake()
        woken = worker.result()
        assert has_changed_nothing(woken) or point == "load.committed", (point, woken)
        line.add(judge(by_hand.project, "item"))
        assert not (line.lost or line.doubled), point
    assert violations(by_hand.project) == []


OLD_LOADS: dict[str, dict[str, Any]] = {
    "full refresh": {"full_refresh": "all"},
    "repair": {"repair": frozenset({"item"})},
}


def old_load_wakes_after_a_newer_one(
    by_hand: ByHand, request: dict[str, Any], prepare: Callable[[], None] | None
) -> Outcome | Exception:
    """A load of old rows stopped just before its transaction, and woken when newer rows are
    there."""
    by_hand.project.in_warehouse("UPDATE staging.item SET what = 'wrong' WHERE id % 3 = 0")
    load_id = by_hand.step("extract", "old", **request).load_id
    # Extracted again, a full refresh would write all rows.
    repairs = {name: value for name, value in request.items() if name == "repair"}
    worker = by_hand.start("load", "old", load_id, "load.manifest_read", prepare=prepare, **repairs)
    assert worker.wait_until_stopped()
    by_hand.project.in_source(CHANGE.format(third=0))
    by_hand.both("new")
    assert not judge(by_hand.project, "item")
    worker.wake()
    return worker.result()


@pytest.mark.parametrize("old", OLD_LOADS)
def test_an_old_load_extracts_again_and_writes_none_of_its_old_rows(
    by_hand: ByHand, old: str
) -> None:
    assert has_changed_nothing(old_load_wakes_after_a_newer_one(by_hand, OLD_LOADS[old], None))
    assert not judge(by_hand.project, "item")


def without_fence() -> None:
    fence.check_fence = lambda session, manifest, target: None
    fence._refuse_if_superseded = lambda manifest, ours: None


def test_without_the_fence_an_old_load_brings_stale_rows_back(
    by_hand: ByHand, tally: Callable[[str], Tally]
) -> None:
    """The negative control."""
    request = OLD_LOADS["full refresh"]
    assert isinstance(old_load_wakes_after_a_newer_one(by_hand, request, without_fence), Outcome)
    verdict = judge(by_hand.project, "item")
    assert verdict
    tally("a load stopped (SIGSTOP), a newer run commits, the load wakes up").control(
        f"no fence: {verdict.lost} of {verdict.rows} rows stale"
    )


def test_without_the_eviction_a_retry_waits_for_a_sleeper(
    by_hand: ByHand, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: each retry runs into its lock timeout while the sleeper sleeps."""
    by_hand.project.in_source(CHANGE.format(third=0))
    load_id = by_hand.step("extract", "run").load_id
    worker = by_hand.start("load", "run", load_id, "load.filled")
    assert worker.wait_until_stopped()
    with monkeypatch.context() as patch:
        patch.setattr(older_sessions, "end", lambda *_: None)
        patch.setitem(postgres.WAREHOUSE_SETTINGS, "lock_timeout", "500ms")
        for _ in range(2):
            with pytest.raises(Unavailable, match="55P03"):
                by_hand.step("load", "run", load_id)
    by_hand.step("load", "run", load_id)
    worker.wake()
    assert isinstance(worker.result(), Outcome)
    assert not judge(by_hand.project, "item")
    tally("a load stopped (SIGSTOP), its retry commits, the load wakes up").control(
        "no eviction: lock timeouts"
    )


def impatient() -> None:
    """The 30 s after which the server ends a transaction that idles, made short."""
    postgres.WAREHOUSE_SETTINGS["idle_in_transaction_session_timeout"] = "1s"


def test_a_sleeper_in_nobodys_way_but_a_newer_extraction_is_ended_by_the_server(
    by_hand: ByHand,
) -> None:
    """Past `advance` it locks the row that the extraction must change; no retry ends it."""
    by_hand.project.in_source(CHANGE.format(third=0))
    load_id = by_hand.step("extract", "old").load_id
    worker = by_hand.start("load", "old", load_id, "load.advanced", prepare=impatient)
    assert worker.wait_until_stopped()
    by_hand.project.in_source(CHANGE.format(third=0))
    by_hand.both("new")
    worker.wake()
    assert has_changed_nothing(worker.result())
    assert not judge(by_hand.project, "item") and violations(by_hand.project) == []


def test_a_transform_that_wakes_up_after_its_retry_does_nothing(by_hand: ByHand) -> None:
    by_hand.spec({"total": "SELECT count(*) AS n FROM staging.item"})
    for number, point in enumerate(TRANSFORMING, start=1):
        worker = by_hand.start(
            "transform", f"run {number}", stop_at=point, prepare=impatient, name="total"
        )
        assert worker.wait_until_stopped()
        again = by_hand.step("transform", f"run {number}", name="total")
        assert again.skipped == (point == "transform.committed")
        worker.wake()
        woken = worker.result()
        assert may_be_retried(woken) or point == "transform.committed", (point, woken)
        runs = by_hand.project.in_warehouse(
            "SELECT count(*), max(n) FROM loadsheet.transform_run, mart.total"
        )
        assert runs == [(number, 500)], point
        by_hand.project.in_source(CHANGE.format(third=0))
        by_hand.both(f"run {number + 1}")


def test_a_sleeper_never_ends_the_retry_that_has_taken_over(by_hand: ByHand) -> None:
    """Of two tries only the older is ended, so that they cannot end each other for ever."""
    by_hand.project.in_source(CHANGE.format(third=0))
    load_id = by_hand.step("extract", "run").load_id
    older = by_hand.start("load", "run", load_id, "load.manifest_read")
    assert older.wait_until_stopped()
    younger = by_hand.start("load", "run", load_id, "load.filled")
    assert younger.wait_until_stopped()
    older.wake()
    wait_until(
        lambda: waiting_for_a_lock(by_hand.project) == 1, "the older try to ask for the lock"
    )
    younger.wake()
    outcomes = [younger.result(), older.result()]
    assert [isinstance(o, Outcome) and "was committed already" in o.message for o in outcomes] == [
        False,
        True,
    ]
    assert not judge(by_hand.project, "item") and violations(by_hand.project) == []


def waiting_for_a_lock(project: Project) -> int:
    question = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND"
        " wait_event_type = 'Lock'"
    )
    return int(project.in_warehouse(question)[0][0])


def test_a_load_of_another_table_or_pipeline_is_left_alone(by_hand: ByHand) -> None:
    project = by_hand.project
    project.in_source(CHANGE.format(third=0))
    worker = by_hand.start("load", "run", by_hand.step("extract", "run").load_id, "load.filled")
    assert worker.wait_until_stopped()
    project.in_source("CREATE TABLE other AS SELECT * FROM item")
    other = replace(project, name="another")
    other.spec({"other": None}, warehouse={"conn_id": "warehouse", "schema": "elsewhere"})
    for number in range(4):
        project.in_source("UPDATE other SET what = %s", str(number))
        other.succeed()
    worker.wake()
    assert isinstance(worker.result(), Outcome)
    assert not judge(project, "item")


@pytest.mark.timeout(scaled(600, 7200))
def test_an_extract_that_wakes_up_after_its_retry_was_loaded_does_no_harm(
    by_hand: ByHand, tally: Callable[[str], Tally]
) -> None:
    """It sleeps with old rows in its hands; whoever then loads what it stored gets nothing, or is
    refused."""
    line = tally("an extract stopped (SIGSTOP), its retry is loaded, the extract wakes up")
    for number, point in enumerate(EXTRACTING * scaled(1, 12)):
        by_hand.project.in_source(CHANGE.format(third=0))
        worker = by_hand.start("extract", f"run {number}", stop_at=point)
        assert worker.wait_until_stopped()
        by_hand.project.in_source(CHANGE.format(third=0))
        by_hand.both(f"run {number}")
        stands = watermark(by_hand.project)
        worker.wake()
        woken = worker.result()
        # It has extracted again, unless it was done: the rows that it held are in nobody's way.
        assert isinstance(woken, Outcome), (point, woken)
        if woken.load_id:
            again = by_hand.step("load", f"run {number}", woken.load_id)
            assert (
                again.skipped
                or not again.counts["inserted"] + again.counts["updated"]
                or (point == "extract.sealed" and "was committed already" in again.message)
            ), (point, again)
        line.add(judge(by_hand.project, "item"))
        assert not (line.lost or line.doubled)
        assert watermark(by_hand.project) == stands
    assert violations(by_hand.project) == [] == watermark_violations(by_hand.project, "item", "at")


VERSIONED = """
CREATE TABLE item (
    id int PRIMARY KEY, version int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, 1 FROM generate_series(1, 300) i;
CREATE TABLE thing (LIKE item INCLUDING ALL);
INSERT INTO thing SELECT * FROM item;
"""
TABLES = ("item", "thing")
KINDS: dict[str, dict[str, Any]] = {
    "increment": {},
    "backfill": {"interval_start": "2000-01-01T00:00:00+00:00", "explicit_interval": True},
    "full refresh": {"full_refresh": "all"},
    "repair": {"repair": frozenset(TABLES)},
}


class Watching:
    """Threads beside the runs, until the end: one writes the source, one looks at staging and the
    watermarks."""

    def __init__(self, project: Project, seed: int):
        self.project, self.chance = project, random.Random(seed)
        self.over = threading.Event()
        self.problems: list[str] = []
        self.looks = 0
        self.threads = [threading.Thread(target=work) for work in (self._write, self._look)]

    def __enter__(self) -> Watching:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _write(self) -> None:
        with psycopg.connect(self.project.source) as source:
            while not self.over.wait(0.01):
                for table in TABLES:
                    start = self.chance.randrange(300)
                    source.execute(
                        f"UPDATE {table} SET version = version + 1, at = clock_timestamp() WHERE id"
                        " BETWEEN %s AND %s",
                        (start, start + 20),
                    )
                    source.execute(f"INSERT INTO {table} SELECT max(id) + 1, 1 FROM {table}")
                    # No cursor tells of this one: only a full refresh or a repair reads it.
                    source.execute(
                        f"UPDATE {table} SET version = version + 1 WHERE id = %s",
                        ((start + 150) % 300 + 1,),
                    )
                source.commit()

    def _look(self) -> None:
        seen: dict[tuple[str, Any], Any] = {}
        question = " UNION ALL ".join(
            f"SELECT '{t}', id::text, version::text FROM staging.{t}" for t in TABLES
        )
        marks = "SELECT table_name, 'watermark', watermark::timestamptz FROM loadsheet.scope"
        with psycopg.connect(self.project.warehouse, autocommit=True) as warehouse:
            while not self.over.wait(0.02):
                found = {row[:2]: int(row[2]) for row in warehouse.execute(question)}
                found |= {row[:2]: row[2] for row in warehouse.execute(marks)}
                self.problems += [
                    f"{key}: {was} -> {found.get(key)}"
                    for key, was in seen.items()
                    if goes_back(was, found.get(key))
                ]
                seen = found
                self.looks += 1


def goes_back(was: Any, now: Any) -> bool:
    return now is None or now < was


@pytest.mark.timeout(scaled(600, 7200))
def test_runs_that_overlap_never_put_an_older_row_over_a_newer_one(
    project: Project, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    project.in_source(VERSIONED)
    project.spec({table: {"incremental": "at"} for table in TABLES})
    project.succeed()
    line = tally("backfill, increment, full refresh and repair at once, beside a writer")
    rounds = scaled(3, 150)
    loads: dict[str, int] = dict.fromkeys(KINDS, 0)

    def runs(kind: str) -> None:
        done = 0
        # the slowest wins once the others are through
        while done < rounds or (not loads[kind] and done < 10 * rounds):
            done += 1
            end = {"interval_end": datetime.now(UTC).isoformat()} if kind == "backfill" else {}
            results = project.run(**KINDS[kind], **end)
            loads[kind] += sum(
                r.state == "done" and r.step.kind == "load" for r in results.values()
            )
            errors = [r.result for r in results.values() if isinstance(r.result, Exception)]
            unforeseen.extend(error for error in errors if not may_fail(error))

    unforeseen: list[Exception] = []
    with Watching(project, chance.randrange(10**6)) as watching:
        threads = [threading.Thread(target=runs, args=(kind,)) for kind in KINDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert unforeseen == [] == watching.problems
    assert watching.looks > rounds and all(loads.values()), loads
    project.succeed()
    project.succeed(**KINDS["repair"])
    line.add(*(judge(project, table) for table in TABLES), tried=rounds * len(KINDS))
    assert not (line.lost or line.doubled)
    assert violations(project) == []
    assert [
        problem for table in TABLES for problem in watermark_violations(project, table, "at")
    ] == []
    print(f"loads that committed: {loads}")


def old_rows_arrive_after_newer_ones(project: Project) -> int:
    """Two pipelines feed one table, so that no fence orders their loads; how many rows are older
    than before."""
    tables = {"item": {"incremental": "at"}}
    slow, fast = (
        ByHand(project, VERSIONED, tables),
        ByHand(replace(project, name="fast"), "", tables),
    )
    for one in (slow, fast):
        one.both("first")
    project.in_source("UPDATE item SET version = 2, at = clock_timestamp() WHERE id <= 100")
    late = slow.step("extract", "late").load_id
    project.in_source("UPDATE item SET version = 3, at = clock_timestamp() WHERE id <= 50")
    fast.both("soon")
    assert not judge(project, "item")
    slow.step("load", "late", late)
    return judge(project, "item").lost


def test_of_two_pipelines_that_feed_one_table_none_puts_older_rows_over_newer_ones(
    project: Project,
) -> None:
    assert old_rows_arrive_after_newer_ones(project) == 0


def test_without_the_guard_of_a_merge_older_rows_win(
    project: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(merging, "not_older", lambda cursor, type_name, read_at: "TRUE")
    assert old_rows_arrive_after_newer_ones(project) == 50
    tally("backfill, increment, full refresh and repair at once, beside a writer").control(
        "no guard: 50 of 50 rows went back"
    )
