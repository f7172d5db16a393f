"""Large tables are read by several sessions in parallel, in one snapshot; every row comes once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from loadsheet.postgres import EXTRACTOR_LOCK, Session, connect_source
from loadsheet.source import catalog, stream
from loadsheet.spec.models import Table
from tests.project import Project

ROWS = 40_000
FILL = f"""
CREATE TABLE item (id int PRIMARY KEY, what text);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, {ROWS}) i;
"""
HOLES = "DELETE FROM item WHERE id % 3 = 0; UPDATE item SET what = 'new' WHERE id % 5 = 0"


@pytest.fixture
def source(project: Project) -> Iterator[Session]:
    """A session in an open snapshot of a table with holes and moved rows; rows come in after the
    snapshot."""
    project.in_source(FILL + HOLES)
    project.in_source(f"GRANT SELECT ON item TO {project.extractor}")
    with connect_source(project.connections("shop_source")) as session, session.snapshot():
        session.fix_snapshot()
        project.in_source(
            "INSERT INTO item SELECT i, 'late' FROM generate_series(100001, 100100) i"
        )
        yield session


def select(condition: str = "TRUE") -> str:
    return f"SELECT id, what FROM public.item WHERE {condition}"


def ids(blocks: list[bytes]) -> list[int]:
    return [int(line.split(b",")[0]) for line in b"".join(blocks).splitlines()]


def expected(session: Session) -> list[int]:
    return [row[0] for row in session.execute("SELECT id FROM public.item ORDER BY id")]


def test_ranges_read_side_by_side_hold_every_row_once(
    source: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_LEAST_BYTES", 200_000)
    conditions = stream.page_ranges(
        source, catalog.describe(source, "public", Table(name="item")), readers=2
    )
    assert len(conditions) == 8
    taken: list[list[bytes]] = [[] for _ in conditions]
    jobs = [stream.Job(select(c), took.append) for c, took in zip(conditions, taken, strict=True)]
    counts = stream.copy_parallel(source, jobs, "csv", readers=2)
    assert counts == [len(ids(blocks)) for blocks in taken]
    assert sorted(i for blocks in taken for i in ids(blocks)) == expected(source)
    assert all(counts)


def test_a_small_table_and_a_single_reader_are_one_range(source: Session) -> None:
    item = catalog.describe(source, "public", Table(name="item"))
    assert (
        stream.page_ranges(source, item, readers=2)
        == ["TRUE"]
        == stream.page_ranges(source, item, readers=1)
    )


def test_both_ways_of_reading_send_the_same(source: Session) -> None:
    slow: list[bytes] = []
    fast: list[bytes] = []
    for wire in ("binary", "csv"):
        assert stream.copy(source, stream.Job(select(), slow.append), wire) == len(expected(source))
        assert stream.copy_parallel(source, [stream.Job(select(), fast.append)], wire, 1) == [
            len(expected(source))
        ]
    assert b"".join(slow) == b"".join(fast)


def test_a_reader_holds_the_lock_by_which_other_extractions_know_it(
    source: Session, project: Project
) -> None:
    """Without it (as in the control of hold-back's own test) they wait for the reader."""
    holders: list[int] = []

    def look(block: bytes) -> None:
        rows = project.in_source(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND datname = current_database()"
            " AND (classid, objid) = (%s, %s)",
            *EXTRACTOR_LOCK,
        )
        holders.append(rows[0][0])

    stream.copy_parallel(source, [stream.Job(select("id < 100"), look)], "csv", 1)
    assert set(holders) == {2}  # the snapshot's session, and the reader


def test_without_the_snapshot_late_rows_would_be_read(source: Session, project: Project) -> None:
    """The negative control of the tests above."""
    assert project.in_source("SELECT count(*) FROM item")[0][0] == len(expected(source)) + 100


def test_the_server_s_error_comes_as_the_other_driver_has_it(source: Session) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"):
        stream.copy_parallel(
            source, [stream.Job(select("1 / (id - 100) < 9"), lambda block: None)], "csv", 1
        )


def test_a_session_that_is_ended_between_two_jobs_is_lost_like_any_other(
    source: Session, project: Project
) -> None:
    """Its end is read together with the last rows of the first job."""
    ended = False

    def end_it(block: bytes) -> None:
        nonlocal ended
        if ended:
            return
        readers = "pid <> %s AND datname = current_database() AND usename = %s"
        who = (source.info.backend_pid, project.extractor)
        ask = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {readers}"
        ended = project.in_source(ask, *who) == [(True,)]

    jobs = [stream.Job(select(f"id < {rows}"), end_it) for rows in (12_000, 100)]
    with pytest.raises(psycopg.OperationalError):
        stream.copy_parallel(source, jobs, "csv", 1)
    assert ended


def test_what_fails_while_storing_ends_all_readers_and_comes_as_it_is(source: Session) -> None:
    def full(block: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        stream.copy_parallel(
            source, [stream.Job(select(), full), stream.Job(select(), lambda block: None)], "csv", 2
        )
    source.execute("SELECT 1")


def test_a_role_without_a_further_connection_reads_in_the_one_it_has(project: Project) -> None:
    project.in_source(FILL + "CREATE ROLE narrow LOGIN PASSWORD 'narrow' CONNECTION LIMIT 1")
    project.in_source(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO narrow; GRANT pg_read_all_stats TO narrow"
    )
    project.source = project.source.replace(
        project.source.split("//")[1].split("@")[0], "narrow:narrow"
    )
    project.spec({"item": None})
    try:
        project.succeed()
        assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(ROWS,)]
    finally:
        project.source = (
            project.warehouse.rpartition("/")[0] + "/" + project.source.rpartition("/")[2]
        )
        project.in_source("DROP OWNED BY narrow; DROP ROLE narrow")


def test_options_that_only_libpq_knows_are_kept_to_libpq(
    source: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_COMMON_OPTIONS", stream._COMMON_OPTIONS - {"host"})
    assert (
        stream.copy_parallel(source, [stream.Job(select(), lambda block: None)], "csv", 1) is None
    )


@pytest.mark.parametrize("wire", ["auto", "csv"])
def test_a_large_table_is_read_by_further_sessions(
    project: Project, monkeypatch: pytest.MonkeyPatch, wire: str
) -> None:
    read: list[int] = []

    def watched(session: Session, jobs: Any, *more: Any) -> Any:
        read.append(len(jobs))
        return copy_parallel(session, jobs, *more)

    copy_parallel = stream.copy_parallel
    monkeypatch.setattr(stream, "copy_parallel", watched)
    monkeypatch.setattr(stream, "_LEAST_BYTES", 500_000)
    project.in_source(
        FILL + HOLES + "; CREATE TABLE tiny (id int PRIMARY KEY); INSERT INTO tiny VALUES (1)"
    )
    project.spec({"item": None, "tiny": None}, lake={"format": wire})
    project.succeed()
    assert len(read) == 1 and read[0] > 1
    assert project.differences("item") == 0 == project.differences("tiny")
    states = project.succeed()
    assert states["extract.extract_item"] == "skipped"  # the same content in the same ranges
