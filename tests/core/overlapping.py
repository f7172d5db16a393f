"""What the tests of early loads share: three kinds of small tables, which are loaded while they are
extracted all the same, and what is seen of their loads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from loadsheet.engine import early, seal
from loadsheet.lake import parts
from loadsheet.warehouse.arrival import Arrival
from tests.faults.workers import settled
from tests.project import Project

__all__ = [
    "CONTENT",
    "LEFT",
    "TABLES",
    "Early",
    "begun",
    "fail",
    "is_right",
    "loaded",
    "only",
    "shop",
]

SOURCE = """
CREATE TABLE merged (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE log (what text, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE whole (id int PRIMARY KEY, what text);
INSERT INTO merged SELECT i, md5(i::text) FROM generate_series(1, 2000) i;
INSERT INTO log SELECT md5(i::text) FROM generate_series(1, 2000) i;
INSERT INTO whole SELECT i, md5(i::text) FROM generate_series(1, 2000) i;
"""
CHANGE = """
UPDATE merged SET what = md5(what), at = clock_timestamp();
INSERT INTO merged SELECT 2000 + i, 'new' FROM generate_series(1, 3) i;
INSERT INTO log SELECT md5(i::text) FROM generate_series(1, 2000) i;
DELETE FROM whole WHERE id = 1;
UPDATE whole SET what = md5(what);
"""
TABLES: dict[str, dict[str, object]] = {
    "merged": {"incremental": "at"},
    "log": {"incremental": "at"},
    "whole": {},
}
CONTENT = "SELECT md5(string_agg(m::text, ' ' ORDER BY id)) FROM staging.merged m"
LEFT = "SELECT relname FROM pg_class WHERE relname ~ '^_loadsheet_'"


@dataclass
class Early:
    """What early loads have done, and what is to happen meanwhile."""

    schemas: list[str] = field(default_factory=list)
    """Of the tables that rows have arrived in."""
    meanwhile: dict[str, Callable[[], object]] = field(default_factory=dict)
    """By point of the protocol; called once."""
    held: bool = False
    """Whether the rows are kept from arriving until the attempt is sealed."""

    def reached(self, point: str) -> None:
        if do := self.meanwhile.pop(point, None):
            if point == "extract.sealed":
                self.wait_for_rows()
            do()

    def wait_for_rows(self) -> None:
        """The early load is in a thread of its own, which may be late."""
        deadline = time.monotonic() + 20
        while not self.schemas and not self.held:
            assert time.monotonic() < deadline, "no rows have arrived early"
            time.sleep(0.01)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Early:
    found = Early()
    copy_early = Arrival.copy_early

    def copy(arrival: Arrival, blocks: Iterator[bytes]) -> None:
        copy_early(arrival, blocks)
        found.schemas.append(arrival.table.schema)

    monkeypatch.setattr(Arrival, "copy_early", copy)
    monkeypatch.setattr(early, "reach", found.reached)
    monkeypatch.setattr(seal, "reach", found.reached)
    return found


@pytest.fixture
def shop(project: Project, begun: Early, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(parts, "PART_BYTES", 4096)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 8192)
    monkeypatch.setattr(early, "_FIRST_BYTES", 8192)
    project.in_source(SOURCE)
    project.spec(TABLES)
    return project


@pytest.fixture
def loaded(shop: Project, begun: Early) -> Project:
    """Loaded once, with changes since."""
    shop.succeed()
    shop.in_source(CHANGE)
    begun.schemas.clear()
    return shop


def only(table: str, **more: object) -> dict[str, object]:
    return {"only": frozenset({table}), **more}


def is_right(shop: Project, *tables: str) -> bool:
    """Whether staging equals the source, and nothing of an early load is left."""
    settled(shop.warehouse)
    assert shop.in_warehouse(LEFT) == []
    return not any(shop.differences(table) for table in tables or TABLES)


def fail() -> None:
    raise RuntimeError("a fault")
