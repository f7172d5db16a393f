"""The load of a large table begins while the table is still extracted; what comes of it is what
came before, whatever happens to the load's beginning."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import psycopg
import pytest
from psycopg.copy import LibpqWriter

from loadsheet import pinned
from loadsheet.engine import early, load, seal
from loadsheet.engine import sessions as sessions_module
from loadsheet.engine.early import EarlyLoad, _Pipe
from loadsheet.engine.execute import execute
from loadsheet.engine.sessions import KeptServers, Servers
from loadsheet.errors import TimedOut, Unavailable
from loadsheet.lake import parts
from loadsheet.lake.store import Lake
from loadsheet.outcome import RunRequest
from loadsheet.pinned import PinnedSession
from loadsheet.plan.steps import Step
from loadsheet.postgres import Session
from loadsheet.source import stream
from loadsheet.source.stream import Job
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.copying import WireFormat
from loadsheet.warehouse.arrival import Arrival, Begun
from tests.faults.workers import settled
from tests.project import Project

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
MANY = "INSERT INTO merged SELECT i, md5(i::text) FROM generate_series(2001, 40000) i"
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
LOCKS = """
SELECT count(DISTINCT pid), count(*) FILTER (WHERE relation = 'staging.merged'::regclass)
FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'loadsheet:load:%%'
"""
BEGUN = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND (state LIKE 'idle in%%' OR application_name LIKE 'loadsheet:load:%%')"
)
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


def test_a_first_load_of_each_kind_of_table_begins_early(shop: Project, begun: Early) -> None:
    for table in TABLES:
        begun.schemas.clear()
        shop.succeed(**only(table))
        assert set(begun.schemas) == {"staging"}, table
    assert is_right(shop)


def test_increments_begin_early(loaded: Project, begun: Early) -> None:
    for table in ("merged", "log"):
        begun.schemas.clear()
        loaded.succeed(**only(table))
        assert set(begun.schemas) == {"pg_temp"}, table
    assert is_right(loaded, "merged", "log")


@pytest.mark.parametrize(("hung", "schema"), [(False, "staging"), (True, "pg_temp")])
def test_a_full_refresh_begins_early_in_the_table_that_it_needs(
    loaded: Project, begun: Early, hung: bool, schema: str
) -> None:
    if hung:
        loaded.in_warehouse("CREATE VIEW staging.seen AS SELECT * FROM staging.whole")
    loaded.succeed(**only("whole", full_refresh=frozenset({"whole"})))
    assert set(begun.schemas) == {schema}
    assert is_right(loaded, "whole")


def test_columns_that_only_the_target_has_stay(loaded: Project, begun: Early) -> None:
    loaded.in_warehouse("ALTER TABLE staging.whole ADD own int")
    loaded.in_source("ALTER TABLE whole ADD late int DEFAULT 3")
    loaded.succeed(**only("whole", full_refresh=frozenset({"whole"})))
    assert begun.schemas
    assert is_right(loaded, "whole")
    assert loaded.in_warehouse("SELECT count(own), count(late) FROM staging.whole") == [(0, 1999)]


def test_rows_arrive_before_the_lake_has_them(
    shop: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Event()
    begun.meanwhile["early.block_copied"] = arrived.set
    put = Lake.put

    def late(lake: Lake, name: str, data: bytes) -> str:
        assert "/part-" not in name or arrived.wait(20)
        return put(lake, name, data)

    monkeypatch.setattr(Lake, "put", late)
    shop.succeed(**only("merged"))
    assert arrived.is_set() and is_right(shop, "merged")


def test_what_the_lake_has_not_taken_is_not_loaded(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Lake.put

    def refuse(lake: Lake, name: str, data: bytes) -> str:
        if name.endswith("manifest.json"):
            begun.wait_for_rows()
            raise psycopg.OperationalError("the lake is gone")
        return put(lake, name, data)

    before = loaded.in_warehouse(CONTENT)
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "put", refuse)
        assert loaded.run(**only("merged"))["extract.extract_merged"].state == "failed"
    assert begun.schemas and before == loaded.in_warehouse(CONTENT)
    loaded.succeed(**only("merged"))
    assert is_right(loaded, "merged")


def test_a_table_that_may_be_unchanged_does_not_begin_early(loaded: Project, begun: Early) -> None:
    """All of its rows would be copied for nothing on most days."""
    loaded.succeed(**only("whole"))
    assert begun.schemas == []
    assert is_right(loaded, "whole")


def test_overlap_false_keeps_a_table_from_it(shop: Project, begun: Early) -> None:
    shop.spec({name: {**keys, "overlap": False} for name, keys in TABLES.items()})
    shop.succeed()
    assert begun.schemas == []
    assert is_right(shop)


def test_a_small_table_does_not_begin_early(
    shop: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_FIRST_BYTES", 1 << 20)
    shop.succeed()
    assert begun.schemas == []
    assert is_right(shop)


def test_two_parts_of_a_reader_are_stored_at_a_time(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.in_source(MANY)
    shop.spec({"merged": {**TABLES["merged"], "overlap": False}})
    both = threading.Barrier(2)
    now: list[str] = []
    most = []
    put = Lake.put

    def meet(lake: Lake, name: str, data: bytes) -> str:
        now.append(name)
        most.append(len(now))
        # The first two wait for each other; one at a time would wait in vain.
        if name.endswith(("part-00000.bin.zst", "part-00001.bin.zst")):
            both.wait(20)
        sha256 = put(lake, name, data)
        now.remove(name)
        return sha256

    monkeypatch.setattr(Lake, "put", meet)
    shop.succeed(**only("merged"))
    assert max(most) == 2 and len(most) > 4
    assert is_right(shop, "merged")


def test_only_a_table_without_a_cursor_has_the_hash_of_its_content(shop: Project) -> None:
    """It is compared with that of the next run, where there is no other way to know what is new."""
    shop.succeed()
    hashed = shop.in_warehouse("SELECT table_name FROM loadsheet.scope WHERE content_sha256 <> ''")
    assert hashed == [("whole",)]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """How many ranges of pages each table was read in, and by how many sessions."""
    found = []
    copy_parallel = stream.copy_parallel

    def copy(
        source: Session, jobs: list[Job], wire: WireFormat, readers: int, snapshot: str = ""
    ) -> object:
        found.append((len(jobs), readers))
        return copy_parallel(source, jobs, wire, readers, snapshot)

    monkeypatch.setattr(stream, "copy_parallel", copy)
    monkeypatch.setattr(stream, "_LEAST_BYTES", 32 << 10)
    return found


@pytest.mark.parametrize("options", [{}, {"extract_tasks": 2}])
def test_what_is_loaded_meanwhile_is_read_by_one_session(
    shop: Project, begun: Early, sessions: list[tuple[int, int]], options: dict[str, object]
) -> None:
    shop.spec({"whole": options})
    shop.succeed()
    assert begun.schemas
    [(ranges, readers)] = sessions
    assert (ranges > 1, readers) == (True, 1)
    sessions.clear()
    shop.spec({"whole": {**options, "overlap": False}})
    shop.succeed(full_refresh=frozenset({"whole"}))
    assert sessions == [(ranges, 2)]
    assert is_right(shop, "whole")


@pytest.mark.parametrize("in_one_range", [False, True])
def test_a_table_that_began_early_is_known_to_be_unchanged(
    shop: Project,
    sessions: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    in_one_range: bool,
) -> None:
    """It is so by the hashes of its ranges. With other ranges for one session it would be loaded
    again."""
    with monkeypatch.context() as patched:
        if in_one_range:
            patched.setattr(stream, "page_ranges", lambda *_: ["TRUE"])
        shop.succeed(**only("whole"))
    states = shop.succeed(**only("whole"))
    assert states["extract.extract_whole"] == ("done" if in_one_range else "skipped")
    assert is_right(shop, "whole")


def test_while_it_is_extracted_the_target_has_no_lock(loaded: Project, begun: Early) -> None:
    locks: list[tuple[int, int]] = []

    def look() -> None:
        locks.extend(loaded.in_warehouse(LOCKS))

    begun.meanwhile["early.block_copied"] = look
    loaded.succeed(**only("merged"))
    [(sessions, on_target)] = locks
    assert (sessions, on_target) == (1, 0)
    assert is_right(loaded, "merged")


def fail() -> None:
    raise RuntimeError("a fault")


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
    """That of the extraction is of no use meanwhile. The control: it is kept."""
    if not gives_back:
        monkeypatch.setattr(KeptServers, "held_warehouse", lambda servers: nullcontext())
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
    loaded.succeed(**only("merged"))
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


def test_what_is_hung_on_the_target_meanwhile_stays(loaded: Project, begun: Early) -> None:
    """Seen early, the table could be swapped; under the lock it cannot."""
    view = "CREATE VIEW staging.seen AS SELECT * FROM staging.whole"
    begun.meanwhile["early.block_copied"] = lambda: loaded.in_warehouse(view)
    loaded.succeed(**only("whole", full_refresh=frozenset({"whole"})))
    assert "staging" in begun.schemas
    assert is_right(loaded, "whole")
    assert loaded.in_warehouse("SELECT count(*) FROM staging.seen") == [(1999,)]


def test_an_extraction_that_is_overtaken_begins_again(loaded: Project, begun: Early) -> None:
    begun.meanwhile["early.block_copied"] = lambda: loaded.succeed(**only("merged"))
    loaded.succeed(**only("merged"))
    assert begun.meanwhile == {}
    assert is_right(loaded, "merged")


def extracted_again(shop: Project, run_id: str) -> Callable[[], object]:
    """Another process of the same run has extracted the table once more: its manifest is sealed
    under the same load id."""

    def again() -> None:
        shop.in_source("UPDATE merged SET what = 'newer', at = clock_timestamp() WHERE id <= 10")
        pipeline = load_pipeline(shop.folder / "pipelines" / "shop" / "pipeline.yml")
        step, request = Step(kind="extract", name="merged"), RunRequest(run_id=run_id)
        execute(step, pipeline, request, shop.connections)

    return again


def test_what_was_extracted_again_meanwhile_is_loaded(loaded: Project, begun: Early) -> None:
    begun.meanwhile["extract.sealed"] = extracted_again(loaded, "again")
    loaded.succeed(**only("merged", run_id="again"))
    assert begun.meanwhile == {} and begun.schemas
    assert is_right(loaded, "merged")


def damage_the_last_part(shop: Project) -> None:
    """Puts other bytes in its place, in the newest attempt."""
    stored = [name for name in shop.objects() if "/part-" in name]
    # By its fence, which is the last folder.
    newest = max(stored, key=lambda name: name.split("/")[-2:])
    Lake(shop.connections("lake"), shop.bucket).put(newest, b"other bytes")


def test_a_part_that_is_damaged_before_it_is_read_from_the_lake_is_noticed(
    loaded: Project, begun: Early
) -> None:
    begun.held = True
    begun.meanwhile["early.begun"] = fail
    begun.meanwhile["extract.sealed"] = lambda: damage_the_last_part(loaded)
    before = loaded.in_warehouse(CONTENT)
    failed = loaded.run(**only("merged"))["load.load_merged"]
    assert failed.state == "failed" and "does not match its manifest" in str(failed.result)
    assert begun.meanwhile == {} and begun.schemas == []
    assert before == loaded.in_warehouse(CONTENT)
    loaded.succeed(**only("merged"))
    assert is_right(loaded, "merged")


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each load whose rows were accepted: how many of its parts had arrived early."""
    found = []
    copy = Arrival.copy

    def watched(arrival: Arrival, *of: object) -> None:
        found.append(len(arrival.early))
        copy(arrival, *of)  # type: ignore[arg-type]

    monkeypatch.setattr(Arrival, "copy", watched)
    return found


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[parts.Part]:
    """Each part is taken for one with the hash of other bytes, as if the lake had other ones."""
    found = []
    stored = EarlyLoad.stored

    def other(load: EarlyLoad, part: parts.Part) -> None:
        found.append(replace(part, sha256=secrets.token_hex(32)))
        stored(load, found[-1])

    monkeypatch.setattr(EarlyLoad, "stored", other)
    return found


def test_parts_that_are_not_those_of_the_manifest_are_not_loaded(
    loaded: Project, begun: Early, others: list[parts.Part], committed: list[int]
) -> None:
    loaded.succeed(**only("merged"))
    assert begun.schemas and others and committed == [0]
    assert is_right(loaded, "merged")


def test_without_the_comparison_they_are_loaded(
    loaded: Project,
    begun: Early,
    others: list[parts.Part],
    committed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Arrival, "refuse_unforeseen", lambda *of: None)
    loaded.succeed(**only("merged"))
    assert begun.schemas and committed == [len(others)] and committed != [0]


def test_rows_that_the_parts_have_and_the_load_has_not_are_noticed(
    loaded: Project, begun: Early, committed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = _Pipe.put
    left_out: list[int] = []

    def lose(pipe: _Pipe, block: bytes) -> bool:
        if pipe.waiting or left_out:
            return put(pipe, block)
        left_out.append(len(block))
        return True

    monkeypatch.setattr(_Pipe, "put", lose)
    loaded.succeed(**only("merged"))
    assert begun.schemas and left_out and committed == [0]
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
