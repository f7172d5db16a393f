"""The load of a large table begins while the table is still extracted; what comes of it is what
came before, whatever happens to the load's beginning."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import pytest

from loadsheet.engine import early, reading, seal
from loadsheet.engine.execute import execute
from loadsheet.engine.sessions import KeptServers
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
from loadsheet.warehouse.arrival import Arrival
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

    parts: list[str] = field(default_factory=list)
    """The schema of the table that each part has arrived in."""
    meanwhile: dict[str, Callable[[], object]] = field(default_factory=dict)
    """By point of the protocol; called once."""
    held: bool = False
    """Whether the first part is kept from arriving until the attempt is sealed."""

    def reached(self, point: str) -> None:
        if do := self.meanwhile.pop(point, None):
            if point == "extract.sealed":
                self.wait_for_a_part()
            do()

    def wait_for_a_part(self) -> None:
        """The early load is in a thread of its own, which may be late."""
        deadline = time.monotonic() + 20
        while not self.parts and not self.held:
            assert time.monotonic() < deadline, "no part has arrived early"
            time.sleep(0.01)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Early:
    found = Early()
    copy_early = Arrival.copy_early

    def copy(arrival: Arrival, *part: object) -> None:
        copy_early(arrival, *part)  # type: ignore[arg-type]
        found.parts.append(arrival.table.schema)

    monkeypatch.setattr(Arrival, "copy_early", copy)
    monkeypatch.setattr(early, "reach", found.reached)
    monkeypatch.setattr(seal, "reach", found.reached)
    return found


@pytest.fixture
def shop(project: Project, begun: Early, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(parts, "PART_BYTES", 4096)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 8192)
    project.in_source(SOURCE)
    project.spec(TABLES)
    return project


@pytest.fixture
def loaded(shop: Project, begun: Early) -> Project:
    """Loaded once, with changes since."""
    shop.succeed()
    shop.in_source(CHANGE)
    begun.parts.clear()
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
        begun.parts.clear()
        shop.succeed(**only(table))
        assert set(begun.parts) == {"staging"}, table
    assert is_right(shop)


def test_increments_begin_early(loaded: Project, begun: Early) -> None:
    for table in ("merged", "log"):
        begun.parts.clear()
        loaded.succeed(**only(table))
        assert set(begun.parts) == {"pg_temp"}, table
    assert is_right(loaded, "merged", "log")


@pytest.mark.parametrize(("hung", "schema"), [(False, "staging"), (True, "pg_temp")])
def test_a_full_refresh_begins_early_in_the_table_that_it_needs(
    loaded: Project, begun: Early, hung: bool, schema: str
) -> None:
    if hung:
        loaded.in_warehouse("CREATE VIEW staging.seen AS SELECT * FROM staging.whole")
    loaded.succeed(**only("whole", full_refresh=frozenset({"whole"})))
    assert set(begun.parts) == {schema}
    assert is_right(loaded, "whole")


def test_columns_that_only_the_target_has_stay(loaded: Project, begun: Early) -> None:
    loaded.in_warehouse("ALTER TABLE staging.whole ADD own int")
    loaded.in_source("ALTER TABLE whole ADD late int DEFAULT 3")
    loaded.succeed(**only("whole", full_refresh=frozenset({"whole"})))
    assert begun.parts
    assert is_right(loaded, "whole")
    assert loaded.in_warehouse("SELECT count(own), count(late) FROM staging.whole") == [(0, 1999)]


def test_a_table_that_may_be_unchanged_does_not_begin_early(loaded: Project, begun: Early) -> None:
    """All of its rows would be copied for nothing on most days."""
    loaded.succeed(**only("whole"))
    assert begun.parts == []
    assert is_right(loaded, "whole")


def test_overlap_false_keeps_a_table_from_it(shop: Project, begun: Early) -> None:
    shop.spec({name: {**keys, "overlap": False} for name, keys in TABLES.items()})
    shop.succeed()
    assert begun.parts == []
    assert is_right(shop)


def test_a_table_of_one_part_does_not_begin_early(
    shop: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 8 << 20)
    shop.succeed()
    assert begun.parts == []
    assert is_right(shop)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the parts, in the order in which they went to the lake."""
    found = []
    put = Lake.put

    def note(lake: Lake, name: str, data: bytes) -> None:
        if "/part-" in name:
            found.append(len(data))
        put(lake, name, data)

    monkeypatch.setattr(Lake, "put", note)
    return found


def test_the_first_parts_of_what_is_loaded_meanwhile_are_small(
    shop: Project, begun: Early, stored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load waits for the first part."""
    least = [64 << 10, 128 << 10, 256 << 10]
    monkeypatch.setattr(parts, "PART_BYTES", least[2])
    monkeypatch.setattr(parts, "_UPLOADS", 1)
    monkeypatch.setattr(reading, "_FIRST_BYTES", least[0])
    shop.in_source(MANY)
    shop.succeed(**only("merged"))
    assert begun.parts and is_right(shop, "merged")
    assert least[0] <= stored[0] < least[1] <= stored[1] < least[2] <= stored[2]
    stored.clear()
    shop.spec({"merged": {**TABLES["merged"], "overlap": False}})
    shop.succeed(**only("merged", full_refresh=frozenset({"merged"})))
    assert stored[0] >= least[2]


def test_two_parts_of_a_reader_are_stored_at_a_time(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.in_source(MANY)
    shop.spec({"merged": {**TABLES["merged"], "overlap": False}})
    both = threading.Barrier(2)
    now: list[str] = []
    most = []
    put = Lake.put

    def meet(lake: Lake, name: str, data: bytes) -> None:
        now.append(name)
        most.append(len(now))
        # The first two wait for each other; one at a time would wait in vain.
        if name.endswith(("part-00000.bin.zst", "part-00001.bin.zst")):
            both.wait(20)
        put(lake, name, data)
        now.remove(name)

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
    assert begun.parts
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

    begun.meanwhile["early.part_copied"] = look
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
    ("point", "table"), [("early.begun", "whole"), ("early.part_copied", "merged")]
)
def test_an_early_load_that_fails_is_loaded_from_the_lake(
    loaded: Project, begun: Early, point: str, table: str
) -> None:
    begun.meanwhile[point] = fail
    loaded.succeed(**only(table, full_refresh=frozenset({"whole"})))
    assert begun.meanwhile == {}
    assert is_right(loaded, table)


@pytest.mark.parametrize("point", ["early.part_copied", "extract.sealed"])
def test_an_early_load_that_loses_its_session_is_loaded_from_the_lake(
    loaded: Project, begun: Early, point: str
) -> None:
    begun.meanwhile[point] = end_sessions(loaded)
    loaded.succeed(**only("merged"))
    assert begun.meanwhile == {}
    assert is_right(loaded, "merged")


def test_an_early_load_that_hangs_is_loaded_from_the_lake(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_PATIENCE_SECONDS", 0.2)
    released = threading.Event()
    begun.meanwhile["early.part_copied"] = lambda: released.wait(20)
    loaded.succeed(**only("merged"))
    released.set()
    assert is_right(loaded, "merged")


def test_an_early_load_gives_its_session_to_a_step_that_needs_it(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[KeptServers] = []
    opened = KeptServers.__init__

    def remember(servers: KeptServers, *of: object) -> None:
        opened(servers, *of)  # type: ignore[arg-type]
        runs.append(servers)

    monkeypatch.setattr(KeptServers, "__init__", remember)

    def need_a_session() -> None:
        # The extraction has one, and the early load the other.
        loaded.in_warehouse(f"ALTER USER {loaded.loader} CONNECTION LIMIT 2")
        runs[0].new_warehouse().close()

    begun.meanwhile["extract.sealed"] = need_a_session
    loaded.succeed(**only("merged"))
    assert begun.meanwhile == {} and begun.parts
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
    begun.meanwhile["early.part_copied"] = lambda: loaded.in_warehouse(view)
    loaded.succeed(**only("whole", full_refresh=frozenset({"whole"})))
    assert "staging" in begun.parts
    assert is_right(loaded, "whole")
    assert loaded.in_warehouse("SELECT count(*) FROM staging.seen") == [(1999,)]


def test_an_extraction_that_is_overtaken_begins_again(loaded: Project, begun: Early) -> None:
    begun.meanwhile["early.part_copied"] = lambda: loaded.succeed(**only("merged"))
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
    assert begun.meanwhile == {} and begun.parts
    assert is_right(loaded, "merged")


def damage_the_last_part(shop: Project) -> None:
    """Puts other bytes in its place, in the newest attempt."""
    stored = [name for name in shop.objects() if "/part-" in name]
    # By its fence, which is the last folder.
    newest = max(stored, key=lambda name: name.split("/")[-2:])
    Lake(shop.connections("lake"), shop.bucket).put(newest, b"other bytes")


def test_a_part_that_is_damaged_in_the_lake_before_it_arrives_is_noticed(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No part but the first finds room.
    monkeypatch.setattr(early, "_MOST_IN_MEMORY", 1)
    held = threading.Event()
    begun.held = True
    begun.meanwhile["early.begun"] = lambda: held.wait(20)

    def damage() -> None:
        damage_the_last_part(loaded)
        held.set()

    begun.meanwhile["extract.sealed"] = damage
    before = loaded.in_warehouse(CONTENT)
    failed = loaded.run(**only("merged"))["load.load_merged"]
    assert failed.state == "failed" and "does not match its manifest" in str(failed.result)
    assert begun.parts == ["pg_temp"]
    assert before == loaded.in_warehouse(CONTENT)
    loaded.succeed(**only("merged"))
    assert is_right(loaded, "merged")


def with_other_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each early part arrives with the hash of other bytes, as if the lake had other ones."""
    copy = Arrival.copy_early

    def other(arrival: Arrival, part: parts.Part, stored: bytes) -> None:
        copy(arrival, replace(part, sha256=secrets.token_hex(32)), stored)

    monkeypatch.setattr(Arrival, "copy_early", other)


def test_parts_that_are_not_those_of_the_manifest_are_not_loaded(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_other_parts(monkeypatch)
    committed: list[int] = []
    copy = Arrival.copy

    def watched(arrival: Arrival, *of: object) -> None:
        committed.append(arrival.early)
        copy(arrival, *of)  # type: ignore[arg-type]

    monkeypatch.setattr(Arrival, "copy", watched)
    loaded.succeed(**only("merged"))
    assert begun.parts and committed == [0]
    assert is_right(loaded, "merged")


def test_without_the_comparison_they_are_loaded(
    loaded: Project, begun: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_other_parts(monkeypatch)
    monkeypatch.setattr(Arrival, "refuse_unforeseen", lambda *of: None)
    committed: list[int] = []
    copy = Arrival.copy

    def watched(arrival: Arrival, *of: object) -> None:
        committed.append(arrival.early)
        copy(arrival, *of)  # type: ignore[arg-type]

    monkeypatch.setattr(Arrival, "copy", watched)
    loaded.succeed(**only("merged"))
    assert committed == [len(begun.parts)] and committed != [0]


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
