"""A source that crashes, and takes back what it had not flushed: nothing that was read is among it,
and the source is not taken for a restored one."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.errors import SourceChanged
from loadsheet.source import identity
from tests.faults.oracle import judge
from tests.faults.tally import Tally
from tests.project import Project, crash, fetch

Tallies = Callable[[str], Tally]

# What lies in the WAL's last page stays in memory until something asks for it to be flushed: there
# is no standby to write snapshots for, and full pages are flushed at once.
_LAZY_WAL = {
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_senders": "0",
    "wal_writer_delay": "10ms",
}
_UNFLUSHED = "SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn()"


def leave_unflushed(session: psycopg.Connection[Any]) -> None:
    """Write into the WAL in an open transaction, until much of its last page is not flushed."""
    for _ in range(100):
        session.execute("INSERT INTO filler SELECT generate_series(1, 10)")
        time.sleep(0.05)
        ((unflushed,),) = session.execute(_UNFLUSHED).fetchall()
        if unflushed > 1000:
            return
    raise AssertionError("the WAL is always flushed")


def crash_of(server: PostgresServer) -> None:
    """Kill a backend: the server recovers from what it has flushed."""
    with psycopg.connect(server.dsn("postgres")) as victim:
        crash(server.dsn("postgres"), victim.info.backend_pid)


# Under the last one a message in the WAL could be read by somebody: the WAL writer is waited for.
@pytest.mark.parametrize("wal_level", ["minimal", "replica", "logical"])
def test_a_crash_of_the_source_is_no_restore_and_takes_back_no_row_that_was_read(
    project: Project, monkeypatch: pytest.MonkeyPatch, tally: Tallies, wal_level: str
) -> None:
    """The worst moment is after the extract has recorded where the source's WAL was, and before the
    source has flushed that far."""
    line = tally(f"crash of the source after it was read, wal_level {wal_level}")
    wait_until_durable = identity.wait_until_durable

    def wait_then_crash(session: psycopg.Connection[Any], found: dict[str, str]) -> None:
        wait_until_durable(session, found)
        crash_of(server)

    def only_crash(session: psycopg.Connection[Any], found: dict[str, str]) -> None:
        crash_of(server)

    with PostgresServer(settings=_LAZY_WAL | {"wal_level": wal_level}) as server:
        project.source = server.create_database("shop")
        project.in_source("CREATE TABLE by_number (id bigserial PRIMARY KEY, what text)")
        project.spec({"by_number": {"incremental": "id"}})
        # Of another database, so that it holds no watermark back.
        fetch(server.dsn("postgres"), "CREATE TABLE filler (n int)")

        def run_into_a_crash(extract_ends_with: Callable[..., None]) -> None:
            project.in_source("INSERT INTO by_number (what) SELECT 'x' FROM generate_series(1, 9)")
            other = psycopg.connect(server.dsn("postgres"))
            leave_unflushed(other)
            with monkeypatch.context() as patch:
                patch.setattr(identity, "wait_until_durable", extract_ends_with)
                project.succeed()
            other.close()

        for _ in range(2):
            run_into_a_crash(wait_then_crash)
            verdict = judge(project, "by_number")
            line.add(verdict)
            assert not verdict

        run_into_a_crash(only_crash)
        error = project.run()["extract.extract_by_number"].result
        assert isinstance(error, SourceChanged)
        line.control("a false alarm: WAL position went back")


@pytest.mark.parametrize(
    ("wal_level", "waits"), [("minimal", False), ("replica", False), ("logical", True)]
)
def test_a_source_that_has_not_flushed_its_wal_is_had_to_instead_of_waited_for(
    project: Project, monkeypatch: pytest.MonkeyPatch, wal_level: str, waits: bool
) -> None:
    """Its WAL writer comes by only every second. Under `logical` nothing is written that somebody
    could read, which is also the control: there the same run waits."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    lazy = {"synchronous_commit": "off", "max_wal_senders": "0", "wal_writer_delay": "1s"}
    with PostgresServer(settings=lazy | {"wal_level": wal_level}) as server:
        project.source = server.create_database("shop")
        project.in_source("CREATE TABLE by_number (id bigserial PRIMARY KEY, what text)")
        project.spec({"by_number": {"incremental": "id"}})
        with monkeypatch.context() as patch:
            patch.setattr(identity, "time", clock)
            # The WAL writer may come by at the right moment.
            for _ in range(10):
                project.in_source("INSERT INTO by_number (what) VALUES ('x')")
                project.succeed()
                if slept:
                    break
        assert not judge(project, "by_number")
    assert bool(slept) == waits
