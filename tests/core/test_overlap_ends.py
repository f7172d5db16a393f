"""What ends an early load: its table is loaded from the lake then, as without it, and the log says
why."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from psycopg.copy import LibpqWriter

from loadsheet import pinned
from loadsheet.engine import early
from loadsheet.engine.early import EarlyLoad, _Pipe
from loadsheet.errors import TimedOut, Unavailable
from loadsheet.lake import parts
from loadsheet.source import stream
from tests.core.overlapping import *  # noqa: F403
from tests.core.overlapping import CONTENT, LEFT, TABLES, Early, fail, is_right, only
from tests.faults.workers import settled
from tests.project import Project


def end_sessions(shop: Project) -> Callable[[], object]:
    """Ends the session of an early load, which carries the name of its load."""
    return lambda: shop.in_warehouse(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name LIKE 'loadsheet:load:%%'"
    )


@pytest.mark.parametrize(
    ("point", "table"), [("early.begun", "whole"), ("early.block_copied", "merged")]
)
def test_an_early_load_that_fails_is_loaded_from_the_lake(
    loaded: Project, begun: Early, point: str, table: str
) -> None:
    begun.meanwhile[point] = fail
    loaded.succeed(**only(table, full_refresh=frozenset({"whole"})))
    assert begun.meanwhile == {}
    assert is_right(loaded, table)


def test_where_there_is_no_further_thread_the_load_does_not_begin_early(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refused: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "loadsheet-early":
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    loaded.succeed(**only("merged"))
    assert len(refused) == 1 and begun.schemas == []
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("point", ["early.block_copied", "extract.sealed"])
def test_an_early_load_that_loses_its_session_is_loaded_from_the_lake(
    loaded: Project, begun: Early, point: str
) -> None:
    begun.meanwhile[point] = end_sessions(loaded)
    loaded.succeed(**only("merged"))
    assert begun.meanwhile == {}
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("is_quiet", [True, False])
def test_an_early_load_that_is_ended_within_its_copy_logs_no_warning(
    loaded: Project,
    begun: Early,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_quiet: bool,
) -> None:
    """Airflow shows those of psycopg in the task's log. The control: psycopg's writer."""
    if not is_quiet:
        monkeypatch.setattr(pinned, "_Writer", LibpqWriter)
    ended = threading.Event()
    begun.meanwhile["early.block_copied"] = lambda: (ended.set(), time.sleep(0.5))
    offer = EarlyLoad.offer

    def stop(load: EarlyLoad, rows: bytes) -> None:
        offer(load, rows)
        if load.is_expected and load._thread:
            assert ended.wait(20)
            raise Unavailable("the worker was told to stop")

    monkeypatch.setattr(EarlyLoad, "offer", stop)
    caplog.set_level("INFO", logger="loadsheet")
    assert loaded.run(**only("merged"))["extract.extract_merged"].state == "failed"
    settled(loaded.warehouse)
    told = "staging.merged: not loaded early: the extraction has failed, or "
    assert next(one for one in caplog.messages if "early" in one).startswith(told)
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert ended.is_set() and (warned == []) == is_quiet, warned
    assert loaded.in_warehouse(LEFT) == []


@pytest.mark.parametrize("is_over", [True, False])
def test_a_session_that_is_shut_as_time_is_up_is_not_called_a_server_that_is_gone(
    loaded: Project,
    begun: Early,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_over: bool,
) -> None:
    """The control: another session that was ended, while there is time."""
    caplog.set_level("INFO", logger="loadsheet")

    def up() -> float:
        if is_over and threading.current_thread().name == "loadsheet-early":
            raise TimedOut("the extract took too long")
        return 1000.0

    begun.meanwhile["early.block_copied"] = end_sessions(loaded)
    begun.held = True
    monkeypatch.setattr(early, "remaining", up)
    loaded.succeed(**only("merged"))
    settled(loaded.warehouse)
    line = next(one for one in caplog.messages if "not loaded early" in one)
    assert line.endswith("not loaded early: the extraction's time is up") == is_over
    assert ("(connection 'warehouse')" in line) != is_over
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("room", [1 << 10, 4 << 20])
def test_an_early_load_that_hangs_is_loaded_from_the_lake(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Whether it keeps the extraction waiting, or the load step."""
    monkeypatch.setattr(early, "_MOST_WAITING_BYTES", room)
    monkeypatch.setattr(early, "_PATIENCE_SECONDS", 0.2)
    released = threading.Event()
    begun.held = True
    hung: list[bool] = []
    begun.meanwhile["early.block_copied"] = lambda: hung.append(released.wait(20))
    loaded.succeed(**only("merged"))
    assert begun.meanwhile == {} and begun.schemas == [] and hung == []
    released.set()
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("minds_the_limit", [True, False])
def test_a_warehouse_that_stands_still_leaves_the_extraction_half_of_its_time(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch, minds_the_limit: bool
) -> None:
    """Its own patience is longer than such a step may take."""
    monkeypatch.setattr(early, "_MOST_WAITING_BYTES", 1 << 10)
    monkeypatch.setattr(early, "_PATIENCE_SECONDS", 12.0)
    if not minds_the_limit:
        monkeypatch.setattr(early, "remaining", lambda: math.inf)
    loaded.spec(TABLES, tasks={"timeout": "6s"})
    released = threading.Event()
    begun.held = True
    begun.meanwhile["early.block_copied"] = lambda: released.wait(30)
    before = loaded.in_warehouse(CONTENT)
    result = loaded.run(**only("merged"))
    released.set()
    assert begun.meanwhile == {} and begun.schemas == []
    if minds_the_limit:
        assert result["load.load_merged"].state == "done"
        assert is_right(loaded, "merged")
    else:
        assert "longer than its timeout" in str(result["extract.extract_merged"].result)
        settled(loaded.warehouse)
        assert before == loaded.in_warehouse(CONTENT)


def test_a_source_that_sends_no_rows_ends_an_early_load(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its transaction would keep the warehouse from cleaning up for as long."""
    monkeypatch.setattr(early, "_PATIENCE_SECONDS", 0.2)
    ended = threading.Event()
    shut, offer = _Pipe.shut, EarlyLoad.offer
    offered: list[int] = []

    def note(pipe: _Pipe) -> None:
        shut(pipe)
        ended.set()

    def pause(load: EarlyLoad, rows: bytes) -> None:
        offer(load, rows)
        offered.append(len(rows))
        if sum(offered) > 16384:
            assert ended.wait(20)

    monkeypatch.setattr(_Pipe, "shut", note)
    monkeypatch.setattr(EarlyLoad, "offer", pause)
    begun.held = True
    loaded.succeed(**only("merged"))
    assert ended.is_set() and begun.schemas == []
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("has_bound", [True, False])
def test_a_slow_warehouse_leaves_few_rows_in_memory(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch, has_bound: bool
) -> None:
    room = 20_000
    monkeypatch.setattr(stream, "_BLOCK_BYTES", 4096)
    monkeypatch.setattr(early, "_MOST_WAITING_BYTES", room if has_bound else 4 << 20)
    waiting: list[int] = []
    put, blocks = _Pipe.put, _Pipe.blocks

    def note(pipe: _Pipe, block: bytes) -> bool:
        waiting.append(pipe.waiting + len(block))
        return put(pipe, block)

    def slowly(pipe: _Pipe) -> Iterator[bytes]:
        for block in blocks(pipe):
            time.sleep(0.05)
            yield block

    monkeypatch.setattr(_Pipe, "put", note)
    monkeypatch.setattr(_Pipe, "blocks", slowly)
    loaded.succeed(**only("merged"))
    assert begun.schemas
    largest = 2 * parts.BLOCK_BYTES
    assert (max(waiting) <= room + largest) == has_bound
    assert is_right(loaded, "merged")
