"""COMMITs whose answer is lost, and clients that die in the middle: what was done counts once, what
was not, never."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from loadsheet import postgres
from loadsheet.engine import load
from loadsheet.errors import Unavailable
from loadsheet.outcome import Outcome
from tests.byhand import ByHand, may_be_retried, wait_until
from tests.faults.oracle import judge, violations, watermark_violations
from tests.faults.proxy import Direction, Fault, Proxy, Watch, losing_answers, through
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, 500) i;
"""
CHANGE = "UPDATE item SET what = md5(what), at = clock_timestamp() WHERE id % 3 = 0"
TRANSFORMS = {
    "total": (
        "SELECT count(*) AS rows, md5(string_agg(what, ',' ORDER BY id)) AS content FROM"
        " staging.item"
    ),
    "latest": (
        "SELECT id, what FROM staging.item WHERE _load_id > :since_load",
        {"materialized": "merge", "unique_key": "id"},
    ),
    "counted": (
        (
            "CREATE TABLE IF NOT EXISTS mart.counted (n int); INSERT INTO mart.counted SELECT"
            " count(*) FROM staging.item"
        ),
        {"materialized": "script"},
    ),
}
# The message that ends a transaction of several statements; one statement alone has another.
COMMIT, FENCE, SEAL = b"Q\0\0\0\x0bCOMMIT\0", b"fence = 1 + (", b"SET sealed_load_id"
# How long a COMMIT takes on the server: before and after it notices, within 2 s, that the client is
# gone.
SLOW_COMMIT = """
CREATE FUNCTION loadsheet.wait() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON loadsheet.load DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION loadsheet.wait();
"""
SLOW_UPDATE = """
CREATE FUNCTION staging.wait() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END';
CREATE TRIGGER wait BEFORE UPDATE ON staging.item FOR EACH ROW EXECUTE FUNCTION staging.wait();
"""
SECONDS_TO_BE_GONE = 10
SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'loadsheet%%'
"""


@pytest.fixture
def by_hand(project: Project) -> Iterator[ByHand]:
    """Loaded once."""
    by_hand = ByHand(project, SOURCE)
    by_hand.spec(TRANSFORMS)
    by_hand.both("first")
    for name in TRANSFORMS:
        by_hand.step("transform", "first", name=name)
    yield by_hand
    by_hand.close()


def never_sent(statement: bytes) -> Watch:
    """A watch that cuts the line, once, before `statement` reaches the server."""
    left = threading.Semaphore(1)

    def watch(direction: Direction, data: bytes) -> Fault | None:
        hit = direction == "to_server" and statement in data and left.acquire(blocking=False)
        return Fault("reset", at=0) if hit else None

    return watch


def nothing_after(statement: bytes) -> Watch:
    """A watch that loses the answer to `statement` and lets nobody in afterwards."""
    lose = losing_answers(statement)
    lost = threading.Event()

    def watch(direction: Direction, data: bytes) -> Fault | None:
        if lost.is_set():
            return Fault("reset", at=0)
        if fault := lose(direction, data):
            lost.set()
        return fault

    return watch


def losing_its_commit(statement: bytes) -> Watch:
    """A watch that loses the answer to the COMMIT that follows `statement`, which takes effect."""
    lose = losing_answers(b"COMMIT\0")
    seen = threading.Event()

    def watch(direction: Direction, data: bytes) -> Fault | None:
        if direction == "to_server" and statement in data:
            seen.set()
        return lose(direction, data) if seen.is_set() else None

    return watch


FAULTS = (losing_answers, never_sent)


@contextmanager
def behind(by_hand: ByHand, watch: Watch) -> Iterator[Callable[..., object]]:
    """`step` through a proxy between Loadsheet and the warehouse: its outcome, or the error it
    failed with."""
    warehouse = by_hand.project.connections("warehouse")
    with Proxy((warehouse.host, warehouse.port or 0), watch) as proxy:
        connections = through(by_hand.project.connections, {"warehouse": proxy.port})

        def step(
            kind: str, run: str, load_id: str | None = None, name: str = "item"
        ) -> Outcome | Exception:
            try:
                outcome: Outcome | Exception = by_hand.step(kind, run, load_id, connections, name)
            except Exception as error:
                outcome = error
            assert proxy.struck, "the fault met nothing"
            return outcome

        yield step


def loads(project: Project) -> int:
    return int(project.in_warehouse("SELECT count(*) FROM loadsheet.load")[0][0])


@pytest.mark.timeout(scaled(600, 7200))
def test_a_commit_whose_answer_is_lost_counts_once(
    by_hand: ByHand, tally: Callable[[str], Tally]
) -> None:
    line = tally("the answer to a load's COMMIT lost")
    for number in range(scaled(4, 100)):
        by_hand.project.in_source(CHANGE)
        load_id = by_hand.step("extract", f"run {number}").load_id
        with behind(by_hand, losing_answers(COMMIT)) as step:
            outcome = step("load", f"run {number}", load_id)
        assert isinstance(outcome, Outcome) and "was committed already" in outcome.message
        assert outcome.counts["updated"] == 166 and loads(by_hand.project) == number + 2
        line.add(judge(by_hand.project, "item"))
        assert not (line.lost or line.doubled)
    assert violations(by_hand.project) == [] == watermark_violations(by_hand.project, "item", "at")


@pytest.mark.timeout(scaled(600, 7200))
def test_a_commit_that_never_arrived_is_reported_as_a_failure_and_retried(
    by_hand: ByHand, tally: Callable[[str], Tally]
) -> None:
    line = tally("a load's COMMIT lost on its way")
    for number in range(scaled(2, 100)):
        by_hand.project.in_source(CHANGE)
        load_id = by_hand.step("extract", f"run {number}").load_id
        with behind(by_hand, never_sent(COMMIT)) as step:
            error = step("load", f"run {number}", load_id)
        assert may_be_retried(error), error
        assert loads(by_hand.project) == number + 1 and judge(by_hand.project, "item").lost == 166
        by_hand.step("load", f"run {number}", load_id)
        line.add(judge(by_hand.project, "item"))
        assert not (line.lost or line.doubled)
    assert violations(by_hand.project) == []


def test_when_nobody_can_be_asked_the_load_fails_and_its_retry_finds_it_committed(
    by_hand: ByHand,
) -> None:
    by_hand.project.in_source(CHANGE)
    load_id = by_hand.step("extract", "run").load_id
    with behind(by_hand, nothing_after(COMMIT)) as step:
        error = step("load", "run", load_id)
    assert isinstance(error, Unavailable) and may_be_retried(error)
    wait_until(lambda: loads(by_hand.project) == 2, "the server to commit")
    assert "was committed already" in by_hand.step("load", "run", load_id).message
    assert not judge(by_hand.project, "item") and violations(by_hand.project) == []


@pytest.mark.parametrize("seconds", [1, 5])
def test_a_commit_that_takes_its_time_is_waited_for(by_hand: ByHand, seconds: int) -> None:
    """The ledger is asked under the target's lock, so the answer is not given before the server has
    decided."""
    by_hand.project.in_source(CHANGE)
    load_id = by_hand.step("extract", "run").load_id
    by_hand.project.in_warehouse(SLOW_COMMIT.format(seconds=seconds))
    with behind(by_hand, losing_answers(COMMIT)) as step:
        outcome = step("load", "run", load_id)
    decided = loads(by_hand.project)
    assert decided == (2 if isinstance(outcome, Outcome) else 1)
    assert isinstance(outcome, Outcome) or may_be_retried(outcome)
    by_hand.project.in_warehouse("DROP FUNCTION loadsheet.wait CASCADE")
    by_hand.step("load", "run", load_id)
    assert loads(by_hand.project) == 2 and not judge(by_hand.project, "item")


def test_without_asking_the_ledger_a_committed_load_is_reported_as_failed(
    by_hand: ByHand, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(load._Load, "_find_after_lost_session", lambda *_: None)
    by_hand.project.in_source(CHANGE)
    load_id = by_hand.step("extract", "run").load_id
    with behind(by_hand, losing_answers(COMMIT)) as step:
        assert isinstance(step("load", "run", load_id), Unavailable)
    wait_until(lambda: loads(by_hand.project) == 2, "the server to commit")
    tally("the answer to a load's COMMIT lost").control(
        "ledger not asked: committed, reported as failed"
    )


@pytest.mark.timeout(scaled(600, 7200))
@pytest.mark.parametrize("fault", (*FAULTS, losing_its_commit))
def test_an_extract_that_does_not_hear_of_its_fence_or_seal_asks_again_or_is_retried(
    by_hand: ByHand, fault: Callable[[bytes], Watch], tally: Callable[[str], Tally]
) -> None:
    """It asks in another session: one that was ended because it was idle looks the same."""
    line = tally("an extract's fence or seal, or the answer to it, lost")
    for number in range(scaled(2, 50)):
        by_hand.project.in_source(CHANGE)
        with behind(by_hand, fault((FENCE, SEAL)[number % 2])) as step:
            result = step("extract", f"run {number}")
        assert isinstance(result, Outcome) or may_be_retried(result), result
        by_hand.both(f"run {number}")
        line.add(judge(by_hand.project, "item"))
        assert not (line.lost or line.doubled) and loads(by_hand.project) == number + 2
    assert violations(by_hand.project) == [] == watermark_violations(by_hand.project, "item", "at")


@pytest.mark.timeout(scaled(600, 7200))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_transform_whose_commit_is_lost_takes_effect_once(
    by_hand: ByHand, fault: Callable[[bytes], Watch], tally: Callable[[str], Tally]
) -> None:
    """When it did commit, its retry has nothing to do; else the retry does it."""
    line = tally("a transform's COMMIT, or the answer to it, lost")
    for number in range(scaled(1, 20)):
        by_hand.project.in_source(CHANGE)
        by_hand.both(f"run {number}")
        for name in TRANSFORMS:
            with behind(by_hand, after_building(fault)) as step:
                error = step("transform", f"run {number}", name=name)
            assert may_be_retried(error), error
            again = by_hand.step("transform", f"run {number}", name=name)
            assert again.skipped == (fault is losing_answers), again
            assert runs(by_hand.project, name) == number + 2
            line.add(judge(by_hand.project, "item"))
    wrong = {
        name for name, check in RIGHT.items() if by_hand.project.in_warehouse(check) != [(True,)]
    }
    assert not wrong and violations(by_hand.project) == []


def after_building(fault: Callable[[bytes], Watch]) -> Watch:
    """`fault` on the COMMIT of the transaction that records the run, not on those before it."""
    recorded, watch = threading.Event(), fault(COMMIT)

    def later(direction: Direction, data: bytes) -> Fault | None:
        if b"INSERT INTO loadsheet.transform_run" in data:
            recorded.set()
        return watch(direction, data) if recorded.is_set() else None

    return later


def runs(project: Project, name: str) -> int:
    question = "SELECT count(*) FROM loadsheet.transform_run WHERE transform = %s"
    return int(project.in_warehouse(question, name)[0][0])


# A script that inserts has inserted once for each run that the ledger knows.
RIGHT = {
    "total": (
        "SELECT content = (SELECT md5(string_agg(what, ',' ORDER BY id)) FROM staging.item) FROM"
        " mart.total"
    ),
    "latest": (
        """
        SELECT count(*) = 0 FROM (
            SELECT id, what FROM mart.latest EXCEPT ALL SELECT id, what FROM staging.item
        ) wrong
    """
    ),
    "counted": (
        """
        SELECT count(*)
             = (SELECT count(*) FROM loadsheet.transform_run WHERE transform = 'counted')
        FROM mart.counted
    """
    ),
}


class Merging:
    """A load in a process of its own, in one of the states in which a client may die; `standing`
    waits for it."""

    def __init__(self, by_hand: ByHand, number: int):
        self.by_hand, self.project = by_hand, by_hand.project
        self.project.in_source(CHANGE)
        self.load_id = by_hand.step("extract", f"run {number}").load_id
        self.before = self.content()

    def content(self) -> list[tuple[object, ...]]:
        """Staging and the ledger's loads."""
        return self.project.in_warehouse(
            "SELECT (SELECT md5(string_agg(i::text, ',' ORDER BY id)) FROM staging.item i), "
            "(SELECT count(*) FROM loadsheet.load)"
        )

    def die(self, waiting: str, lake: str | None = None) -> float:
        """Start, SIGKILL it as soon as a session is `waiting` (SQL); how long the server kept that
        session."""
        worker = self.by_hand.start("load", "killed", self.load_id, lake=lake)
        standing = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND"
            f" {waiting}"
        )
        wait_until(lambda: self.project.in_warehouse(standing) != [(0,)], waiting)
        assert worker.kill()
        return wait_until(
            lambda: self.project.in_warehouse(SESSIONS) == [(0,)], "the session to end", 60
        )

    def in_long_update(self) -> float:
        """Dies while the server updates rows, slowly."""
        self.project.in_warehouse(SLOW_UPDATE)
        try:
            return self.die("wait_event = 'PgSleep' AND query LIKE 'UPDATE%'")
        finally:
            self.project.in_warehouse("DROP FUNCTION staging.wait CASCADE")

    def in_commit(self) -> float:
        """Dies while the server commits, slowly."""
        self.project.in_warehouse(SLOW_COMMIT.format(seconds=30))
        try:
            return self.die("wait_event = 'PgSleep' AND query LIKE 'COMMIT%'")
        finally:
            self.project.in_warehouse("DROP FUNCTION loadsheet.wait CASCADE")

    def waiting_for_a_lock(self) -> float:
        """Dies while its statement waits for somebody's lock on the table."""
        with psycopg.connect(self.project.warehouse) as blocker:
            blocker.execute("LOCK TABLE staging.item IN SHARE MODE")
            return self.die("wait_event_type = 'Lock' AND query LIKE 'UPDATE%'")

    def in_copy(self) -> float:
        """Dies while the server waits for the rest of a COPY: the lake does not answer."""
        lake = self.project.s3
        host, port = lake.address.split(":")

        def stall_part(direction: Direction, data: bytes) -> Fault | None:
            return Fault("stall", at=0) if direction == "to_server" and b"/part-" in data else None

        with Proxy((host, int(port)), stall_part) as proxy:
            return self.die(
                "query LIKE 'COPY%' AND wait_event = 'ClientRead'", f"http://127.0.0.1:{proxy.port}"
            )


DEATHS = (Merging.in_long_update, Merging.waiting_for_a_lock, Merging.in_copy, Merging.in_commit)


@pytest.mark.timeout(scaled(600, 7200))
def test_a_client_killed_in_the_middle_never_commits_later(
    by_hand: ByHand, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line, longest = tally("client killed (SIGKILL) in the middle of a merge"), 0.0
    for number in range(scaled(4, 50)):
        merging = Merging(by_hand, number)
        death = DEATHS[number] if number < len(DEATHS) else chance.choice(DEATHS)
        longest = max(longest, death(merging))
        assert longest < SECONDS_TO_BE_GONE, death
        # No session is left that could commit.
        assert merging.content() == merging.before, death
        by_hand.step("load", f"run {number}", merging.load_id)
        line.add(judge(by_hand.project, "item"))
        assert not (line.lost or line.doubled)
    assert violations(by_hand.project) == [] == watermark_violations(by_hand.project, "item", "at")
    print(f"the longest a dead client's session lived: {longest:.1f} s")


def without_checks() -> None:
    postgres.WAREHOUSE_SETTINGS["client_connection_check_interval"] = "0"


def test_without_checks_of_the_client_its_session_lives_on(
    by_hand: ByHand, tally: Callable[[str], Tally]
) -> None:
    """The negative control: the server keeps running the dead client's statement to its end."""
    by_hand.project.in_source(CHANGE)
    load_id = by_hand.step("extract", "run").load_id
    by_hand.project.in_warehouse(SLOW_UPDATE)
    worker = by_hand.start("load", "killed", load_id, prepare=without_checks)
    updating = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE"
        " 'UPDATE%%'"
    )
    wait_until(lambda: by_hand.project.in_warehouse(updating) != [(0,)], "the update")
    assert worker.kill()
    with pytest.raises(AssertionError, match="the session to end"):
        wait_until(
            lambda: by_hand.project.in_warehouse(SESSIONS) == [(0,)], "the session to end", 4
        )
    by_hand.project.in_warehouse(SESSIONS.replace("count(*)", "pg_terminate_backend(pid)"))
    tally("client killed (SIGKILL) in the middle of a merge").control(
        "no checks: session alive after 4 s"
    )
