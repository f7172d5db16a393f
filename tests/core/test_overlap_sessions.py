"""The sessions of early loads: others that need one get it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import psycopg
import pytest

from loadsheet.engine import early, load
from loadsheet.engine import sessions as sessions_module
from loadsheet.engine.both_steps import extract_and_load, servers_for_both
from loadsheet.engine.early import EarlyLoad, EarlyLoads
from loadsheet.engine.sessions import KeptServers, Servers
from loadsheet.outcome import RunRequest
from loadsheet.pinned import PinnedSession
from loadsheet.source import stream
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.warehouse.arrival import Begun
from tests.core.overlapping import *  # noqa: F403
from tests.core.overlapping import Early, is_right, only
from tests.project import Project

BEGUN = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND (state LIKE 'idle in%%' OR application_name LIKE 'loadsheet:load:%%')"
)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[KeptServers]:
    """The servers of each run that begins."""
    found: list[KeptServers] = []
    opened = KeptServers.__init__

    def remember(servers: KeptServers, *of: object) -> None:
        opened(servers, *of)  # type: ignore[arg-type]
        found.append(servers)

    monkeypatch.setattr(KeptServers, "__init__", remember)
    return found


def test_an_early_load_may_be_ended_at_the_moment_that_it_begins(
    loaded: Project, begun: Early, runs: list[KeptServers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a step that needs a session: its thread cannot be waited for before it runs."""
    start = threading.Thread.start
    ended: list[KeptServers] = []

    def end_and_start(thread: threading.Thread) -> None:
        if thread.name == "loadsheet-early":
            assert runs[0].early
            runs[0].early.drop_all()
            ended.append(runs[0])
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", end_and_start)
    loaded.succeed(**only("merged"))
    assert len(ended) == 1
    assert is_right(loaded, "merged")


def test_an_early_load_gives_its_session_to_a_step_that_needs_it(
    loaded: Project, begun: Early, runs: list[KeptServers]
) -> None:
    def need_a_session() -> None:
        # The extraction has one, and the early load the other.
        loaded.in_warehouse(f"ALTER USER {loaded.loader} CONNECTION LIMIT 2")
        runs[0].new_warehouse().close()

    begun.meanwhile["extract.sealed"] = need_a_session
    loaded.succeed(**only("merged"))
    assert begun.meanwhile == {} and begun.schemas
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("looks", [True, False])
def test_an_early_load_gives_its_session_to_another_process_that_needs_it(
    loaded: Project,
    begun: Early,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    looks: bool,
) -> None:
    """As a task of another table is, which would fail for want of a session. The control: an early
    load that does not look whether there is one."""
    caplog.set_level("INFO", logger="loadsheet")
    monkeypatch.setattr(stream, "_BLOCK_BYTES", 4096)
    monkeypatch.setattr(early, "_LOOK_EVERY_SECONDS", 0.1 if looks else 1000.0)
    monkeypatch.setattr(sessions_module, "_ENDING_SECONDS", 2.0)
    found = {name: loaded.connections(name) for name in ("shop_source", "warehouse")}
    pipeline = load_pipeline(loaded.folder / "pipelines" / "shop" / "pipeline.yml")
    other = Servers(pipeline, found.__getitem__)
    got: list[bool] = []

    def need() -> None:
        try:
            with other.warehouse():
                got.append(True)
        except psycopg.OperationalError:
            got.append(False)

    needing = threading.Thread(target=need)

    def limit() -> None:
        # The extraction has one, and the early load the other.
        loaded.in_warehouse(f"ALTER USER {loaded.loader} CONNECTION LIMIT 2")
        needing.start()

    begun.meanwhile["early.block_copied"] = limit
    begun.held = looks
    offer = EarlyLoad.offer

    def slowly(load: EarlyLoad, rows: bytes) -> None:
        offer(load, rows)
        if not got:
            time.sleep(0.3)

    monkeypatch.setattr(EarlyLoad, "offer", slowly)
    loaded.succeed(**only("merged"))
    needing.join(20)
    assert got == [looks] and (begun.schemas == []) == looks
    told = "staging.merged: not loaded early: the warehouse gives no further session"
    assert (told in caplog.messages) == looks
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("gives_back", [True, False])
def test_a_load_that_began_early_has_no_more_sessions_than_others(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch, gives_back: bool
) -> None:
    """In a task that extracts and loads one table. The extraction's session is of no use meanwhile.
    The control: it is kept."""
    if not gives_back:
        monkeypatch.setattr(EarlyLoads, "has", lambda loads, load_id: False)
    used: list[int] = []
    going_on = EarlyLoad.going_on

    @contextmanager
    def count(load: EarlyLoad) -> Iterator[tuple[PinnedSession, Begun]]:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        with going_on(load) as begun:
            # The server takes a moment to end one.
            deadline = time.monotonic() + (10 if gives_back else 1)
            while used != [1] and time.monotonic() < deadline:
                used[:] = [count for (count,) in loaded.in_warehouse(query, loaded.loader)]
            yield begun

    monkeypatch.setattr(EarlyLoad, "going_on", count)
    pipeline = load_pipeline(loaded.folder / "pipelines" / "shop" / "pipeline.yml")
    request, find = RunRequest(run_id="both"), loaded.connections
    with servers_for_both(pipeline, find) as servers:
        extract_and_load("merged", pipeline, request, find, servers, lambda *sizes: None)
    assert begun.schemas
    assert used == [1 if gives_back else 2]
    assert is_right(loaded, "merged")


@pytest.mark.parametrize("is_known", [True, False])
def test_a_step_waits_for_the_last_session_where_a_load_that_began_early_has_it(
    loaded: Project,
    begun: Early,
    runs: list[KeptServers],
    monkeypatch: pytest.MonkeyPatch,
    is_known: bool,
) -> None:
    """As it does for any other step's."""
    monkeypatch.setattr("loadsheet.engine.sessions._ENDING_SECONDS", 0.5)
    if not is_known:
        monkeypatch.setattr(KeptServers, "held_warehouse", lambda servers: nullcontext())
    outcomes: list[str] = []

    def need_a_session() -> None:
        try:
            runs[0].new_warehouse().close()
        except psycopg.OperationalError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("given")

    other = threading.Thread(target=need_a_session)
    with psycopg.connect(loaded.uri("warehouse")):

        def leave_none(point: str) -> None:
            if point == "load.manifest_read" and other.ident is None:
                loaded.in_warehouse(f"ALTER USER {loaded.loader} CONNECTION LIMIT 2")
                runs[0].close()
                other.start()
                other.join(3)

        monkeypatch.setattr(load, "reach", leave_none)
        loaded.succeed(**only("merged"))
        other.join(20)
    assert begun.schemas
    [outcome] = outcomes
    assert outcome == "given" if is_known else "too many connections" in outcome
    assert is_right(loaded, "merged")


def test_an_early_load_that_is_ended_before_it_has_a_session_gives_it_back(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extraction goes on meanwhile, and may take hours."""
    asked, ended = threading.Event(), threading.Event()
    runs: list[KeptServers] = []
    spare_warehouse = KeptServers.spare_warehouse

    def slow(servers: KeptServers) -> AbstractContextManager[PinnedSession]:
        runs.append(servers)
        asked.set()
        ended.wait(20)
        return spare_warehouse(servers)

    monkeypatch.setattr(KeptServers, "spare_warehouse", slow)
    monkeypatch.setattr(early, "_ENDING_SECONDS", 0.1)
    begun.held = True
    sessions: list[tuple[int]] = []

    def end_it() -> None:
        assert asked.wait(20) and runs[0].early
        runs[0].early.drop_all()
        ended.set()
        for thread in threading.enumerate():
            if thread.name == "loadsheet-early":
                thread.join(20)
        sessions.extend(loaded.in_warehouse(BEGUN))

    begun.meanwhile["extract.sealed"] = end_it
    loaded.succeed(**only("merged"))
    assert begun.meanwhile == {} and sessions == [(0,)]
    assert is_right(loaded, "merged")


def test_threads_that_take_the_last_kept_session_at_once_both_get_one(loaded: Project) -> None:
    """An early load's thread takes sessions and gives them back next to the steps' threads."""

    class Raced(list[PinnedSession]):
        """Another thread takes the last session whenever this one has looked."""

        def __bool__(self) -> bool:
            had = len(self) > 0
            self.clear()
            return had

    pipeline = load_pipeline(loaded.folder / "pipelines" / "shop" / "pipeline.yml")
    servers = KeptServers(pipeline, loaded.connections)
    with servers.warehouse() as session:
        pass
    for connect, sessions in servers._idle.items():
        servers._idle[connect] = Raced(sessions)
    with servers.warehouse() as again:
        assert again is session
    servers.close()
    assert again.closed
