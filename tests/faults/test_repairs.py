"""A repair that dies at a boundary of the protocol: the next one makes all equal. In
`test_zombies.py` repairs sleep, and overlap with other runs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet.failpoints import POINTS
from tests.faults.oracle import judge, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.faults.test_zombies import CHANGE, SOURCE
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
