"""The commit protocol: load ids, fences, first runs. What breaks it is in tests/faults."""

from __future__ import annotations

import threading

import psycopg
import pytest

from loadsheet.errors import Superseded
from loadsheet.warehouse import ledger, tables
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


def test_an_older_extraction_never_overwrites_a_newer_one(by_hand: ByHand) -> None:
    old = by_hand.step("extract", "old").load_id
    by_hand.project.in_source("UPDATE item SET what = 'new', at = clock_timestamp()")
    new = by_hand.step("extract", "new").load_id
    with pytest.raises(Superseded, match="Re-run the extract step"):
        by_hand.step("load", "old", old)
    by_hand.step("load", "new", new)
    with pytest.raises(Superseded):
        by_hand.step("load", "old", old)
    assert by_hand.project.differences("item") == 0


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
    with pytest.raises(Superseded, match="re-run the extract step"):
        by_hand.step("load", "second", load_id)
    by_hand.step("load", "second", by_hand.step("extract", "second").load_id)
    assert by_hand.project.differences("item") == 0


def test_first_runs_at_once_create_the_ledger_once(project: Project) -> None:
    errors: list[Exception] = []

    def first() -> None:
        try:
            with psycopg.connect(project.warehouse, autocommit=True) as session:
                together.wait()
                ledger.ensure(session)
                tables.ensure_schema(session, "staging")
        except Exception as error:
            errors.append(error)

    for _ in range(5):
        project.in_warehouse("DROP SCHEMA IF EXISTS loadsheet, staging CASCADE")
        together = threading.Barrier(8)
        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
