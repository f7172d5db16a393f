"""A repair that dies at a boundary of the protocol, sleeps, or is overtaken: the next one makes all
equal, and no older row comes back. `test_zombies.py` lets repairs overlap with other runs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet.failpoints import POINTS
from loadsheet.outcome import Outcome
from tests.byhand import ByHand
from tests.faults.oracle import judge, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.faults.test_zombies import CHANGE, SOURCE, has_changed_nothing, without_fence
from tests.faults.workers import Worker, settled
from tests.project import Project

REPAIR = {"repair": frozenset({"item"})}
DAMAGE = """
DELETE FROM staging.item WHERE id % 7 = 1;
UPDATE staging.item SET what = 'wrong' WHERE id % 7 = 2;
"""
# What a repair of a merged table does not meet.
_OTHERS = ("extract.unchanged", "extract.deletes_found", "load.altered")
MET = tuple(
    point
    for point in POINTS
    if point.split(".")[0] in ("extract", "repair", "load") and point not in _OTHERS
)
POINTS_TRIED = scaled(
    ("repair.compared", "extract.sealed", "load.gone_removed", "load.advanced", "load.committed"),
    MET,
)


@pytest.fixture(scope="module")
def repaired(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Project]:
    """A table that has been loaded once, and is damaged by each test."""
    source, warehouse = (postgres.create_database(f"test_{secrets.token_hex(6)}") for _ in range(2))
    project = Project(tmp_path_factory.mktemp("shop"), source, warehouse, s3)
    project.in_source(SOURCE)
    project.spec({"item": {"incremental": "at", "deletes": "hard"}}, tasks={"retries": 0})
    project.succeed()
    yield project


@pytest.mark.parametrize("point", POINTS_TRIED)
def test_a_repair_killed_at_a_point_is_healed_by_the_next(
    repaired: Project, tally: Callable[[str], Tally], point: str
) -> None:
    repaired.in_source(CHANGE.format(third=0))
    repaired.succeed()
    repaired.in_source("DELETE FROM item WHERE id = (SELECT max(id) FROM item WHERE id % 7 = 0)")
    repaired.in_warehouse(DAMAGE)
    worker = Worker(repaired, "--repair", command="verify", failpoint=f"{point}:kill")
    assert worker.wait(60) == -9, worker.text
    assert f"failpoint {point}: kill" in worker.text
    settled(repaired.source, repaired.warehouse)
    repaired.succeed(**REPAIR)
    verdict = judge(repaired, "item")
    tally("kill of a repair at a named point").add(verdict)
    assert not verdict and violations(repaired) == []


@pytest.fixture
def by_hand(project: Project) -> Iterator[ByHand]:
    """Loaded once."""
    by_hand = ByHand(project, SOURCE)
    by_hand.both("first")
    yield by_hand
    by_hand.close()


def old_repair_wakes_after_a_newer_run(
    by_hand: ByHand, prepare: Callable[[], None] | None
) -> Outcome | Exception:
    """A repair that holds old rows, stopped just before its transaction, and woken when newer rows
    are there."""
    by_hand.project.in_warehouse("UPDATE staging.item SET what = 'wrong' WHERE id % 3 = 0")
    load_id = by_hand.step("extract", "repair", **REPAIR).load_id
    worker = by_hand.start(
        "load", "repair", load_id, "load.manifest_read", prepare=prepare, **REPAIR
    )
    assert worker.wait_until_stopped()
    by_hand.project.in_source(CHANGE.format(third=0))
    by_hand.both("new")
    assert not judge(by_hand.project, "item")
    worker.wake()
    return worker.result()


def test_a_repair_that_wakes_up_after_a_newer_run_brings_no_old_row_back(by_hand: ByHand) -> None:
    assert has_changed_nothing(old_repair_wakes_after_a_newer_run(by_hand, None))
    assert not judge(by_hand.project, "item")


def test_without_the_fence_an_old_repair_brings_stale_rows_back(
    by_hand: ByHand, tally: Callable[[str], Tally]
) -> None:
    """The negative control."""
    assert isinstance(old_repair_wakes_after_a_newer_run(by_hand, without_fence), Outcome)
    verdict = judge(by_hand.project, "item")
    assert verdict
    tally("kill of a repair at a named point").control(
        f"no fence: {verdict.lost} of {verdict.rows} rows stale"
    )
