"""The load of a large table begins while the table is still extracted; what comes of it is what
came before, whatever happens to the target and the lake meanwhile."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from loadsheet.engine import early
from loadsheet.engine.early import EarlyLoad, _Pipe
from loadsheet.engine.execute import execute
from loadsheet.lake import parts
from loadsheet.lake.store import Lake
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.postgres import Session
from loadsheet.source import stream
from loadsheet.source.stream import Job
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.copying import WireFormat
from loadsheet.warehouse.arrival import Arrival
from tests.core.overlapping import *  # noqa: F403
from tests.core.overlapping import CONTENT, TABLES, Early, fail, is_right, only
from tests.project import Project

MANY = "INSERT INTO merged SELECT i, md5(i::text) FROM generate_series(2001, 40000) i"
LOCKS = """
SELECT count(DISTINCT pid), count(*) FILTER (WHERE relation = 'staging.merged'::regclass)
FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'loadsheet:load:%%'
"""


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
