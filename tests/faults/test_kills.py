"""SIGKILL at random moments, of the worker, the S3 server and PostgreSQL's backends: one more run
makes all equal."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median

import psycopg
import pytest

from demo.servers import PostgresServer, S3Server
from tests.faults import naive
from tests.faults.oracle import Verdict, judge
from tests.faults.scale import scaled
from tests.faults.shop import change, open_shop, verdicts
from tests.faults.tally import Tally
from tests.faults.workers import Killable, Worker, settled
from tests.project import Project, crash, fetch

# Rows that move with every run: 1 M in the long form.
ROWS = scaled(
    {"merged": 8_000, "appended": 4_000, "swapped": 6_000, "viewed": 1_000},
    {"merged": 400_000, "appended": 200_000, "swapped": 350_000, "viewed": 25_000},
)
PART_BYTES = scaled(64 << 10, 4 << 20)
WORKERS, S3_SERVERS, BACKENDS = scaled((6, 3, 3), (200, 50, 50))
LONG_RUN = pytest.mark.timeout(scaled(600, 7200))
# What a crash of PostgreSQL keeps is what this test assumes: a commit that was reported is not lost
# with the server's memory, and a page half written by a killed process is mended. The disk itself
# (fsync) does not fail here.
KEEPS_COMMITS = {"synchronous_commit": "on", "full_page_writes": "on"}
# One table must not grow for ever: after so many runs it begins again.
ROUNDS = 5


class Sweep:
    """A shop, and how long a run of it takes now: the next blow falls somewhere into that time."""

    def __init__(self, project: Project, tally: Tally, chance: random.Random):
        self.project, self.tally, self.chance = project, tally, chance
        open_shop(project, ROWS, tasks={"retries": 0})
        self.undisturbed()  # the first one warms up what later ones share
        self.seconds = [self.undisturbed()]
        self.blows = self.hits = 0

    def undisturbed(self) -> float:
        """Seconds that a run takes from the worker's start to its end."""
        change(self.project, ROWS)
        worker = Worker(self.project, part_bytes=PART_BYTES)
        assert worker.wait() == 0, worker.text
        return time.monotonic() - worker.began

    def moment(self) -> float:
        """Somewhere in the time of a run."""
        return self.chance.uniform(0, median(self.seconds[-5:]))

    def run(self, blow: Callable[[Worker], bool], hits: int) -> None:
        """Strike until `hits` blows have met something alive, which `blow` says; a run may end
        before its blow falls.

        AssertionError when too few do: then the sweep would prove little.
        """
        while self.hits < hits and self.blows < 2 * hits:
            self.strike(blow)
        print(f"a run took {median(self.seconds):.1f} s, {self.hits} of {self.blows} blows met it")
        assert 2 * self.hits >= hits

    def strike(self, blow: Callable[[Worker], bool]) -> None:
        """One run that is struck, one that is not, and the oracle."""
        self.blows += 1
        if self.blows % ROUNDS == 0:
            self.project.in_source("TRUNCATE appended")
            self.project.succeed(full_refresh=frozenset({"appended"}))
            self.seconds.append(self.undisturbed())
        change(self.project, ROWS)
        worker = Worker(self.project, part_bytes=PART_BYTES)
        moment = self.moment()
        if worker.ends_within(moment):  # runs have become faster than they were
            self.seconds.append(time.monotonic() - worker.began)
        hit = blow(worker)
        print(
            f"blow {self.blows} after {moment:.2f} s of some {median(self.seconds[-5:]):.2f}:"
            f" {hit=}",
            flush=True,
        )
        self.hits += hit
        settled(self.project.source, self.project.warehouse)
        self.project.succeed()
        found = verdicts(self.project)
        self.tally.add(*found, hit=hit)
        assert not any(found), f"blow {self.blows}: {found}"


@LONG_RUN
def test_a_worker_killed_at_any_moment_loses_and_doubles_nothing(
    project: Project, tally: Callable[[str], Tally], chance: random.Random
) -> None:
    Sweep(project, tally("SIGKILL of the worker"), chance).run(Worker.kill, WORKERS)


@LONG_RUN
def test_an_s3_server_killed_at_any_moment_loses_and_doubles_nothing(
    project: Project, tally: Callable[[str], Tally], chance: random.Random
) -> None:
    """It comes back while the run still tries, or after the run has given up."""

    def blow(worker: Worker) -> bool:
        hit = worker.alive
        server.kill()
        time.sleep(chance.choice([0.0, 0.3, 2.0]))
        server.restart()
        assert worker.wait() in (0, 1), worker.text
        return hit

    with S3Server() as server:
        project.s3 = server
        Sweep(project, tally("SIGKILL of the S3 server"), chance).run(blow, S3_SERVERS)


@LONG_RUN
def test_a_backend_killed_at_any_moment_loses_and_doubles_nothing(
    project: Project, tally: Callable[[str], Tally], chance: random.Random
) -> None:
    """If one backend dies, PostgreSQL ends all others and recovers from its log."""

    def blow(worker: Worker) -> bool:
        while not (backends := _backends(project)) and worker.alive:
            time.sleep(0.002)
        hit = False
        for database, pid in chance.sample(backends, min(1, len(backends))):
            with suppress(ProcessLookupError):  # it has just ended by itself
                crash(database, pid)
                hit = True
        assert worker.wait() in (0, 1), worker.text
        return hit

    with (
        PostgresServer(settings=KEEPS_COMMITS) as source,
        PostgresServer(settings=KEEPS_COMMITS) as warehouse,
    ):
        project.source, project.warehouse = (
            source.create_database("shop"),
            warehouse.create_database("shop"),
        )
        Sweep(project, tally("SIGKILL of a PostgreSQL backend"), chance).run(blow, BACKENDS)


def _backends(project: Project) -> list[tuple[str, int]]:
    """The database and the process of each session of the worker, in the source and in the
    warehouse."""
    ours = (
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'loadsheet%%' AND datname ="
        " current_database()"
    )
    return [
        (database, pid)
        for database in (project.source, project.warehouse)
        for (pid,) in fetch(database, ours)
    ]


def test_a_killed_load_leaves_the_target_as_it_was(project: Project) -> None:
    """The transaction of a dead client ends by itself; nothing of it is ever visible."""
    open_shop(project, {"merged": 100, "appended": 10, "swapped": 10, "viewed": 10})
    project.in_source("UPDATE merged SET what = 'later', at = clock_timestamp()")
    with psycopg.connect(project.warehouse) as blocker:
        blocker.execute("LOCK TABLE staging.merged IN SHARE MODE")
        worker = Worker(project)
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation ="
            " 'staging.merged'::regclass"
        )
        while fetch(project.warehouse, waiting) == [(0,)]:
            assert worker.alive, worker.text
            time.sleep(0.02)
        assert worker.kill()
        settled(project.source, project.warehouse)
    assert project.in_warehouse("SELECT count(*) FROM staging.merged WHERE what = 'later'") == [
        (0,)
    ]
    project.succeed()
    assert not any(verdicts(project))


@pytest.mark.parametrize("mark_first", [False, True])
def test_the_naive_way_killed_like_this_loses_or_doubles_rows(
    project: Project, tally: Callable[[str], Tally], chance: random.Random, mark_first: bool
) -> None:
    mark = project.folder / "mark"
    mark.write_text("0")
    project.in_source(
        "CREATE TABLE event (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text)"
    )
    project.in_warehouse("CREATE SCHEMA naive CREATE TABLE event (id bigint, what text)")
    verdict, kills = Verdict(rows=0), 0
    while not verdict and kills < 20:
        project.in_source(
            "INSERT INTO event (what) SELECT md5(i::text) FROM generate_series(1, 20000) i"
        )
        before = project.in_warehouse("SELECT count(*) FROM naive.event")
        loader = Killable(naive.load, project.source, project.warehouse, str(mark), mark_first)
        while loader.alive and project.in_warehouse("SELECT count(*) FROM naive.event") == before:
            pass
        time.sleep(chance.uniform(0, 0.02))
        kills += loader.kill()
        naive.load(project.source, project.warehouse, str(mark), mark_first)
        verdict = judge(project, "event", staging="naive")
    assert verdict.lost if mark_first else verdict.doubled
    tally("SIGKILL of the worker").control(
        f"lost {verdict.lost:,}, doubled {verdict.doubled:,} of {verdict.rows:,} rows ({kills}"
        " kills)"
    )
