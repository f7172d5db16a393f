"""The commit protocol: load ids, fences, first runs. What breaks it is in tests/faults."""

from __future__ import annotations

import threading
from functools import partial

import psycopg
import pytest

from loadsheet import postgres
from loadsheet.engine import load
from loadsheet.errors import Fenced, Superseded
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence, ledger, tables
from loadsheet.warehouse import turn as turns
from tests.byhand import ByHand
from tests.project import Project


@pytest.fixture
def by_hand(project: Project) -> ByHand:
    return ByHand(project)


def test_a_load_that_is_repeated_changes_nothing(by_hand: ByHand) -> None:
    load_id = by_hand.step("extract", "run").load_id
    first = by_hand.step("load", "run", load_id)
    again = by_hand.step("load", "run", load_id)
    assert again.counts == first.counts and "was committed already" in again.message
    assert by_hand.project.in_warehouse("SELECT count(*) FROM loadsheet.load") == [(1,)]


def test_a_retry_of_an_extract_keeps_the_load_id_until_it_is_committed(by_hand: ByHand) -> None:
    first = by_hand.step("extract", "run").load_id
    assert by_hand.step("extract", "run").load_id == first
    by_hand.step("load", "run", first)
    by_hand.project.in_source("INSERT INTO item VALUES (0, 'late')")
    assert by_hand.step("extract", "run").load_id != first


def test_a_load_whose_extract_step_was_cleared_loads_what_that_has_stored(
    by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed for good: the newer extraction has its own load id, so it was not taken for one."""
    first = by_hand.step("extract", "run").load_id
    extracted = []

    def clear(point: str) -> None:
        if point == "load.manifest_read" and not extracted:
            by_hand.project.in_source("UPDATE item SET what = 'new', at = clock_timestamp()")
            extracted.append(by_hand.step("extract", "run").load_id)

    monkeypatch.setattr(load, "reach", clear)
    done = by_hand.step("load", "run", first)
    assert extracted == [first] and not done.skipped
    assert by_hand.project.differences("item") == 0
    assert by_hand.project.in_warehouse("SELECT load_id FROM loadsheet.load") == [(first,)]
    # It was loaded as it was: a third extraction would have stored a third manifest.
    manifests = [name for name in by_hand.project.objects() if name.endswith("manifest.json")]
    assert len(manifests) == 2


def test_an_older_extraction_never_overwrites_a_newer_one(by_hand: ByHand) -> None:
    """Its load extracts again: it failed, and nothing but a new run of the extract step helped."""
    old = by_hand.step("extract", "old").load_id
    by_hand.project.in_source("UPDATE item SET what = 'new', at = clock_timestamp()")
    new = by_hand.step("extract", "new").load_id
    done = by_hand.step("load", "old", old)
    assert done.counts["inserted"] == 5000 and "so it was extracted again" in done.message
    assert by_hand.project.differences("item") == 0
    # It has overtaken the newer one in turn, which finds that all its rows are there.
    done = by_hand.step("load", "new", new)
    assert done.counts.get("updated", 0) == 0 and "so it was extracted again" in done.message
    assert by_hand.project.in_warehouse("SELECT count(DISTINCT load_id) FROM loadsheet.load") == [
        (1 + (not done.skipped),)
    ]


def test_loads_of_intervals_that_overtake_each_other_all_load(by_hand: ByHand) -> None:
    """A week's backfill: every extraction takes the fence from the one before it."""
    project = by_hand.project
    project.in_source("UPDATE item SET at = timestamptz '2026-01-01 UTC' + id * interval '2 min'")
    by_hand.tables = {"item": {"incremental": {"cursor": "at", "by": "data_interval"}}}
    by_hand.spec(schedule="@daily")
    days = []
    for day in range(1, 8):
        bounds = (f"2026-01-0{day}T00:00:00+00:00", f"2026-01-0{day + 1}T00:00:00+00:00")
        days.append(dict(zip(("interval_start", "interval_end"), bounds, strict=True)))
    errors: list[Exception] = []

    def run(number: int) -> None:
        try:
            extracted = by_hand.step("extract", f"day {number}", **days[number])
            together.wait(60)
            by_hand.step("load", f"day {number}", extracted.load_id, **days[number])
        except Exception as error:
            errors.append(error)

    together = threading.Barrier(len(days))
    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(days))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert project.differences("item") == 0
    # A day that is read again, later than another that has its row now, brings no old row back.
    one = by_hand.step("extract", "again 1", **days[0]).load_id
    project.in_source("UPDATE item SET what = 'moved', at = '2026-01-07 01:00+00' WHERE id = 1")
    other = by_hand.step("extract", "again 7", **days[6]).load_id
    by_hand.step("load", "again 7", other, **days[6])
    by_hand.step("load", "again 1", one, **days[0])
    assert project.differences("item") == 0


def test_a_step_that_never_gets_the_fence_ends_and_may_be_retried(
    by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand.both("first")
    by_hand.project.in_source("UPDATE item SET at = clock_timestamp() WHERE id = 1")
    tries = []

    def fenced(*_: object) -> int:
        tries.append(1)
        raise Fenced("another run was faster")

    monkeypatch.setattr(fence, "take_fence", fenced)
    with pytest.raises(Fenced, match="have overtaken this one 20 times") as raised:
        by_hand.step("extract", "second")
    assert raised.value.retryable and len(tries) == 21


def test_a_load_takes_the_turn_of_one_that_sleeps(
    by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that sleeps sends nothing, and the server ends its transaction."""
    monkeypatch.setitem(postgres.WAREHOUSE_SETTINGS, "idle_in_transaction_session_timeout", "1s")
    monkeypatch.setattr(turns, "_PING_SECONDS", 3600.0)
    connect = partial(postgres.connect_warehouse, by_hand.project.connections("warehouse"))
    with turns.turn(connect, "shop", Relation("staging", "item")):
        old = by_hand.step("extract", "old").load_id
        by_hand.step("extract", "new")
        assert not by_hand.step("load", "old", old).skipped
    assert by_hand.project.differences("item") == 0


def test_steps_that_wait_for_their_turn_hold_no_transaction(by_hand: ByHand) -> None:
    """Behind a pooler they took all sessions, and the one that had the turn needed another."""
    project = by_hand.project
    connect = partial(postgres.connect_warehouse, project.connections("warehouse"))
    target = Relation("staging", "item")

    def wait_for_the_turn() -> None:
        with turns.turn(connect, "shop", target):
            pass

    waiting = [threading.Thread(target=wait_for_the_turn) for _ in range(3)]
    sessions = (
        "SELECT count(*), count(*) FILTER (WHERE clock_timestamp() - xact_start > interval '1 s')"
        " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name = 'loadsheet'"
    )
    with turns.turn(connect, "shop", target):
        for thread in waiting:
            thread.start()
        found = project.in_warehouse(sessions)
        while found[0][0] < 4 or found[0][1] == 0:
            found = project.in_warehouse(sessions)
        assert found == [(4, 1)]
    for thread in waiting:
        thread.join()


def test_an_older_copy_is_not_loaded_after_a_newer_run_found_nothing_new(project: Project) -> None:
    """It was: the newer extraction, which stored nothing, left the older one its fence."""
    table = "CREATE TABLE item (id int PRIMARY KEY, what text); INSERT INTO item VALUES (1, 'x')"
    by_hand = ByHand(project, table)
    by_hand.tables = {"item": None}
    by_hand.spec()
    by_hand.both("first")
    project.in_source("INSERT INTO item VALUES (2, 'a')")
    old = by_hand.step("extract", "old").load_id
    project.in_source("DELETE FROM item WHERE id = 2")
    assert by_hand.step("extract", "new").skipped
    assert by_hand.step("load", "old", old).skipped
    assert project.differences("item") == 0


def test_without_the_fence_the_older_one_would_win(by_hand: ByHand) -> None:
    """The negative control: give the old load the current fence, and stale rows return."""
    old = by_hand.step("extract", "old").load_id
    [sealed] = by_hand.project.in_warehouse(
        "SELECT sealed_load_id, sealed_manifest, sealed_sha256 FROM loadsheet.scope"
    )
    by_hand.project.in_source("DELETE FROM item WHERE id > 10")
    by_hand.step("load", "new", by_hand.step("extract", "new").load_id)
    assert by_hand.project.differences("item") == 0
    by_hand.project.in_warehouse(
        "UPDATE loadsheet.scope SET fence = 1, sealed_load_id = %s, sealed_manifest = %s,"
        " sealed_sha256 = %s",
        *sealed,
    )
    by_hand.step("load", "old", old)
    assert by_hand.project.differences("item") == 4990


def test_an_increment_is_not_loaded_into_a_table_that_lost_the_rest(by_hand: ByHand) -> None:
    by_hand.step("load", "first", by_hand.step("extract", "first").load_id)
    by_hand.project.in_source("INSERT INTO item VALUES (0, 'late')")
    load_id = by_hand.step("extract", "second").load_id
    by_hand.project.in_warehouse("DROP TABLE staging.item")
    # Not extracted again without a word: someone has dropped the table.
    with pytest.raises(Superseded, match="re-run the extract step"):
        by_hand.step("load", "second", load_id)
    by_hand.step("load", "second", by_hand.step("extract", "second").load_id)
    assert by_hand.project.differences("item") == 0


def test_first_runs_at_once_create_the_ledger_once(project: Project) -> None:
    errors: list[Exception] = []

    def first() -> None:
        try:
            with psycopg.connect(login, autocommit=True) as session:
                together.wait()
                ledger.ensure(session)
                tables.ensure_schema(session, "staging")
        except Exception as error:
            errors.append(error)

    project.spec({"item": None})
    login = project.uri("warehouse")
    for _ in range(5):
        project.in_warehouse("DROP SCHEMA IF EXISTS loadsheet, staging CASCADE")
        together = threading.Barrier(8)
        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
