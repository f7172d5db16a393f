"""`fill: auto` next to writers, other runs, kills and workers that sleep: older rows get the values
of new columns, and never older ones than an increment has brought."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import psycopg
import pytest

from loadsheet import failpoints
from loadsheet.engine import fill, load
from loadsheet.engine.table_step import TableStep
from loadsheet.lake.manifest import Manifest
from loadsheet.outcome import Outcome
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence
from loadsheet.warehouse.fence import SealedAttempt
from tests import byhand
from tests.byhand import ByHand
from tests.faults.at_once import at_once
from tests.faults.oracle import judge, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.faults.workers import Worker, settled
from tests.project import Project

ROWS = scaled(300, 20_000)
RANGE = ROWS // 3
WRITERS = 4
SOURCE = f"""
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, {ROWS}) i;
"""
# The values come with the column and do not touch the cursor: no increment brings them.
ADD = "ALTER TABLE item ADD {0} text; UPDATE item SET {0} = md5(id || '{0}')"
TABLES = {"item": {"incremental": "at", "fill": "auto"}}
POINTS = (
    *("extract.fenced", "extract.part_stored", "extract.manifest_stored", "extract.sealed"),
    *("load.manifest_read", "load.fence_checked", "load.filled", "fill.updated"),
    *("load.applied", "load.recorded", "load.advanced", "load.committed"),
)


@pytest.fixture
def loaded(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Loaded once. In this process, too, a range has a third of the rows."""
    monkeypatch.setattr(fill, "ROWS_PER_RANGE", RANGE)
    project.in_source(SOURCE)
    project.spec(TABLES, tasks={"retries": 0})
    project.succeed()
    return project


def add_column(project: Project, name: str) -> None:
    project.in_source(ADD.format(name))
    project.in_source("UPDATE item SET at = clock_timestamp() WHERE id = 1")


def write(project: Project, columns: list[str], seed: int, stop: threading.Event) -> None:
    """Transactions that change new and old columns of a row each, and commit late."""
    chance = random.Random(seed)
    with psycopg.connect(project.source) as session:
        while not stop.is_set():
            for name in chance.sample(columns, min(2, len(columns))):
                session.execute(
                    f"UPDATE item SET {name} = md5({name}), at = now() WHERE id = %s",
                    (chance.randint(1, ROWS),),
                )
                time.sleep(chance.uniform(0, 0.05))
            session.commit()


def writers(
    project: Project, columns: list[str], chance: random.Random
) -> AbstractContextManager[None]:
    seeds = [chance.randrange(10**6) for _ in range(WRITERS)]
    return at_once(*(partial(write, project, columns, seed) for seed in seeds))


@pytest.mark.timeout(scaled(300, 7200))
def test_older_rows_are_filled_next_to_writers_overlapping_runs_and_kills(
    loaded: Project, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally("a fill next to 4 writers, two runs at a time, one of them killed")
    columns = ["what"]
    for number in range(scaled(3, 60)):
        name = f"c{number}"
        add_column(loaded, name)
        columns.append(name)
        with writers(loaded, columns, chance):
            # A point of the load, or of one of the ranges after it.
            armed = f"{chance.choice(POINTS)}:kill:{chance.randint(1, 4)}"
            runs = [
                Worker(loaded, failpoint=armed, part_bytes=4096, range_rows=RANGE),
                Worker(loaded, part_bytes=4096, range_rows=RANGE),
            ]
            ended = [run.wait() for run in runs]
        settled(loaded.source, loaded.warehouse)
        assert ended[0] in (0, 1, -9) and ended[1] in (0, 1), [run.text for run in runs]
        loaded.succeed()
        verdict = judge(loaded, "item")
        line.add(verdict, hit=int(ended[0] == -9))
        assert not verdict, (armed, [run.text for run in runs])
        assert violations(loaded) == []


@pytest.mark.parametrize("point", scaled(("extract.sealed", "load.filled"), POINTS))
def test_a_fill_that_sleeps_while_other_runs_load_changes_nothing_when_it_wakes_up(
    loaded: Project, tally: Callable[[str], Tally], point: str
) -> None:
    by_hand = ByHand(loaded, source="", tables=TABLES)
    try:
        add_column(loaded, "colour")
        load_id = by_hand.step("extract", "sleeper").load_id
        sleeper = by_hand.start("load", "sleeper", load_id, prepare=partial(sleep_at, point))
        assert sleeper.wait_until_stopped()
        loaded.in_source("UPDATE item SET colour = 'newer', at = clock_timestamp()")
        by_hand.both("other")
        by_hand.both("another")
        assert not judge(loaded, "item")
        sleeper.wake()
        sleeper.result()
        verdict = judge(loaded, "item")
        tally("a fill stopped (SIGSTOP), other runs load, the fill wakes up").add(verdict)
        assert not verdict and violations(loaded) == []
    finally:
        by_hand.close()


def sleep_at(point: str) -> None:
    """In a worker's process: the first range that is filled stops at the `point`."""
    fill.ROWS_PER_RANGE = RANGE
    next_range = fill._next_range

    def arm(*arguments: Any) -> Any:
        fill._next_range = next_range
        os.environ[failpoints.VARIABLE] = point
        failpoints._fire = byhand._stop_there
        return next_range(*arguments)

    fill._next_range = arm


def overtaken(loaded: Project, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """A run whose first range is read, and loaded only after the rows that another run has read
    later."""
    add_column(loaded, "colour")
    load = TableStep.load
    loads: list[str] = []

    def load_later(step: TableStep, load_id: str) -> Outcome:
        loads.append(load_id)
        if len(loads) == 1:  # the increment's, before the first range
            return load(step, load_id)
        monkeypatch.setattr(TableStep, "load", load)
        loaded.in_source("UPDATE item SET colour = 'newer', at = clock_timestamp()")
        loaded.spec({"item": {"incremental": "at"}})
        loaded.succeed()
        # It ends with this range: the next ones would put right what it has done.
        monkeypatch.setattr(fill, "is_quiet", lambda *_: False)
        return load(step, load_id)

    monkeypatch.setattr(TableStep, "load", load_later)
    result = loaded.run()["load.load_item"].result
    assert isinstance(result, Outcome)
    return result


def test_a_range_that_another_run_overtakes_is_not_applied(
    loaded: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = overtaken(loaded, monkeypatch).message
    assert "another run has overtaken it; the next run goes on with it" in said
    assert not judge(loaded, "item")


def test_without_the_fence_the_same_range_puts_older_values_back(
    loaded: Project, monkeypatch: pytest.MonkeyPatch, tally: Callable[[str], Tally]
) -> None:
    """The negative control: an UPDATE from what was read, whenever it was read."""
    attempts: dict[str, SealedAttempt] = {}
    seal = fence.seal_attempt

    def remember(
        session: Session, manifest: Manifest, target: Relation, name: str, sha256: str
    ) -> None:
        attempts[manifest.load_id] = SealedAttempt(manifest=name, sha256=sha256)
        seal(session, manifest, target, name, sha256)

    monkeypatch.setattr(fence, "seal_attempt", remember)
    monkeypatch.setattr(load, "find_attempt", lambda *of: attempts[of[-1]])
    monkeypatch.setattr(fence, "_refuse_if_superseded", lambda *_: None)
    overtaken(loaded, monkeypatch)
    verdict = judge(loaded, "item")
    assert verdict.lost == RANGE
    tally("a fill next to 4 writers, two runs at a time, one of them killed").control(
        f"older values in {verdict.lost} of {verdict.rows} rows"
    )
