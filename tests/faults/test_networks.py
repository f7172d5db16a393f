"""Lines that break, fall silent, crawl or end early, at any byte of each of the three links."""

from __future__ import annotations

import io
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import NoReturn, get_args
from urllib.parse import urlsplit

import psycopg
import pytest
from minio import Minio

from loadsheet import postgres
from loadsheet.engine import nothing_new
from loadsheet.errors import Refused, TimedOut, Unavailable
from tests.byhand import ByHand
from tests.faults.changing import Changing, errors
from tests.faults.proxy import Direction, Fault, Kind, Proxy, Watch, through
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project, fetch

LINKS = ("shop_source", "lake", "warehouse")
# How long after its limit a step may still be there: the time to wake up and tidy, on a machine
# with other work.
GRACE = 8.0
FOR_EVER = float("inf")
Line = Callable[[str], Tally]


@dataclass
class Networked(Changing):
    """A project whose three links go through a proxy each."""

    proxies: dict[str, Proxy] = field(default_factory=dict)

    def heal(self) -> None:
        """Good lines from now on, and none left over from before."""
        for proxy in self.proxies.values():
            proxy.heal()
            proxy.cut()

    def traffic(self) -> dict[tuple[str, Direction], int]:
        """The bytes of a run with changes, per link and direction."""
        self.change()
        for proxy in self.proxies.values():
            proxy.arm(None)
        self.succeed()
        return {
            (link, way): proxy.passed[way]
            for link, proxy in self.proxies.items()
            for way in get_args(Direction)
        }

    def attempt(self, link: str, fault: Fault, timeout: int, line: Tally) -> None:
        """One change, a run with the fault, a run without: no wrong row after either, and nobody
        hangs."""
        print(link, fault)
        self.change()
        self.proxies[link].arm(fault)
        results = self.run(timeout)
        # A line that fails is nobody's mistake: what cannot be retried would be a wrong diagnosis.
        # Unless a server got half a question and answered it: its word stands.
        said = (
            {"SQLSTATE 28P01", "HTTP 400"}
            if (fault.kind, fault.direction) == ("half_close", "to_server")
            else set()
        )
        assert not [
            error
            for error in errors(results)
            if isinstance(error, Refused) and error.code not in said
        ]
        assert all(result.seconds < timeout + GRACE for result in results.values())
        found = self.judge_what_changed()
        hit = self.proxies[link].struck
        self.heal()
        self.succeed()
        line.add(*found, *self.judge(), hit=min(hit, 1))


@pytest.fixture
def networked(project: Project) -> Iterator[Networked]:
    """Loaded once; all lines good."""
    with ExitStack() as stack:
        targets = {
            link: (c.host, c.port or 0) for link in LINKS if (c := project.connections(link)).host
        }
        lake = urlsplit(project.s3.endpoint)
        targets["lake"] = (lake.hostname or "", lake.port or 0)
        proxies = {link: stack.enter_context(Proxy(target)) for link, target in targets.items()}
        yield Networked(
            project, {link: proxy.port for link, proxy in proxies.items()}, proxies=proxies
        )


@pytest.mark.timeout(scaled(600, 14_400))
@pytest.mark.parametrize("link", LINKS)
def test_a_line_that_fails_at_any_byte_changes_no_row(
    networked: Networked, link: str, chance: random.Random, tally: Line
) -> None:
    traffic = networked.traffic()
    kinds: tuple[Kind, ...] = ("reset", "half_close", "slow", "stall")
    for kind in kinds:
        line = tally(f"network: {kind} on the line to the {link.removeprefix('shop_')}")
        for attempt in range(scaled(2, 100)):
            way: Direction = ("to_server", "to_client")[attempt % 2]
            speed, seconds = chance.choice(
                [(300, 0.3), (30_000, FOR_EVER), *scaled([], [(300, FOR_EVER)])]
            )
            at = chance.randrange(traffic[link, way])
            networked.attempt(link, Fault(kind, at, way, speed=speed, seconds=seconds), 1, line)


@pytest.mark.parametrize("link", LINKS)
def test_a_server_that_takes_connections_and_says_nothing_holds_nobody_up(
    networked: Networked, link: str, tally: Line
) -> None:
    networked.change()
    networked.proxies[link].arm(Fault("stall", 0, "to_client", lasting=True))
    found = errors(networked.run(timeout=1))
    assert found and all(isinstance(error, TimedOut) and error.retryable for error in found)
    assert "took longer than its timeout (1 s)" in str(found[0]) and "tasks.timeout" in str(
        found[0]
    )
    assert networked.is_as_before()
    networked.heal()
    networked.succeed()
    tally("network: a server that accepts and says nothing").add(*networked.judge())


def test_a_login_that_gets_no_answer_ends_by_the_connection_s_own_timeout(
    networked: Networked,
) -> None:
    proxy = networked.proxies["warehouse"]
    proxy.arm(Fault("stall", 0, "to_client", lasting=True))
    connection = networked.project.connections("warehouse")
    started = time.monotonic()
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        postgres.connect_warehouse(
            replace(connection, port=proxy.port, extra={"connect_timeout": "2"})
        )
    assert time.monotonic() - started < 2 + GRACE


class Alarm(BaseException):
    """What Airflow's timeout raises is no Exception either."""


@contextmanager
def alarm_after(seconds: float) -> Iterator[None]:
    """What `airflow.sdk.execution_time.timeout` does: one signal, one exception in the main thread,
    no second one."""

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


MID_WORK = {
    "shop_source": ("extract", Fault("stall", 15_000, "to_client")),
    "lake": ("extract", Fault("stall", 15_000, "to_server")),
    "warehouse": ("load", Fault("stall", 15_000, "to_server")),
}


@pytest.mark.timeout(120, method="thread")  # the signal is taken
@pytest.mark.parametrize("link", LINKS)
def test_airflow_s_timeout_ends_a_step_that_waits_on_a_dead_line(
    networked: Networked, link: str
) -> None:
    """The alarm interrupts the wait, but not the tidying up that then waits on the same line: the
    limit ends that."""
    kind, fault = MID_WORK[link]
    networked.change()
    by_hand = ByHand(networked.project, "", networked.tables)
    by_hand.spec(tasks={"timeout": "1s"})
    load_id = by_hand.step("extract", "run", name="code").load_id if kind == "load" else None
    networked.project.grant()  # not in the time that the alarm gives
    networked.proxies[link].arm(fault)
    started = time.monotonic()
    with pytest.raises((Alarm, TimedOut, Unavailable)), alarm_after(0.4):
        by_hand.step(
            kind,
            "run",
            load_id,
            through(networked.project.connections, networked.ports),
            name="code",
        )
    assert time.monotonic() - started < 2 + GRACE
    assert networked.proxies[link].struck == 1
    networked.heal()
    networked.succeed()
    networked.judge()


def test_without_a_limit_a_dead_line_is_waited_on_for_ever(
    networked: Networked, tally: Line
) -> None:
    """The negative control: psycopg alone on the same stalled line."""
    proxy = networked.proxies["shop_source"]
    proxy.arm(Fault("stall", 15_000, "to_client"))
    ended = threading.Event()

    def read() -> None:
        url = networked.project.source.replace(f":{proxy.target[1]}/", f":{proxy.port}/")
        with pytest.raises(psycopg.OperationalError):
            fetch(url, "SELECT * FROM item")
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    assert not ended.wait(2) and proxy.struck == 1
    tally("network: stall on the line to the source").control("waits without end")
    networked.heal()
    assert ended.wait(GRACE)


def silent_before(statement: bytes) -> Watch:
    """The line falls silent just before `statement`."""
    return lambda way, data: Fault("stall") if way == "to_server" and statement in data else None


LOOKED_AT = b"MODE NOWAIT"
"""Only the look at all tables, before the steps of a run, locks them like this."""


@pytest.fixture
def looking(networked: Networked) -> Iterator[Networked]:
    """With enough tables for a look at all of them, during which the source falls silent."""
    networked.project.in_source("CREATE TABLE kind (id int PRIMARY KEY, what text)")
    networked.tables["kind"] = {}
    networked.succeed()
    networked.change()
    with Proxy(networked.proxies["shop_source"].target, silent_before(LOOKED_AT)) as silent:
        networked.ports["shop_source"] = silent.port
        networked.proxies["shop_source"] = silent
        yield networked


def test_a_source_that_falls_silent_in_the_look_of_a_run_holds_it_up_no_longer_than_a_step(
    looking: Networked, tally: Line
) -> None:
    """It was a minute, whatever the limit. Then the steps do their work."""
    began = time.monotonic()
    assert not errors(looking.run(timeout=4))
    assert 4 <= time.monotonic() - began < 4 + GRACE
    assert looking.proxies["shop_source"].struck == 1
    tally("network: stall on the line to the source").add(*looking.judge())


def test_a_look_without_a_limit_waits_for_a_silent_source(
    looking: Networked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(nothing_new, "limited", lambda *of: nullcontext())
    ended = threading.Event()

    def run() -> None:
        looking.run(timeout=1)
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert not ended.wait(1 + GRACE)
    assert looking.proxies["shop_source"].struck == 1
    looking.proxies["shop_source"].cut()
    assert ended.wait(60)


def locks(project: Project) -> int:
    """The target locks that sessions hold."""
    return int(
        project.in_warehouse(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )[0][0]
    )


@pytest.mark.parametrize("idle", ["1s", "0"])
def test_a_worker_the_network_has_lost_gives_its_locks_back(
    networked: Networked, monkeypatch: pytest.MonkeyPatch, tally: Line, idle: str
) -> None:
    """The server never hears of it: only its own timeout ends the session. With 0, the control,
    nobody does."""
    monkeypatch.setitem(postgres.WAREHOUSE_SETTINGS, "idle_in_transaction_session_timeout", idle)
    networked.change()
    target = networked.proxies["warehouse"].target
    with Proxy(target, silent_before(b"ANALYZE")) as silent:
        networked.ports["warehouse"] = silent.port
        assert errors(networked.run(timeout=1))
        networked.ports["warehouse"] = networked.proxies["warehouse"].port
        assert silent.struck >= 1
        until = time.monotonic() + (1.5 if idle == "0" else 20)
        while (held := locks(networked.project)) and time.monotonic() < until:
            time.sleep(0.05)
    line = tally("network: a worker lost in a transaction")
    if idle == "0":
        assert held, "somebody else has freed the lock: the setting is not what does it"
        line.control("holds its lock")
    else:
        assert not held
        networked.succeed()
        line.add(*networked.judge())


def test_a_client_that_takes_an_early_end_for_the_end_loses_rows(
    networked: Networked, tally: Line
) -> None:
    """The negative control: a csv over a line that half-closes, loaded by what came."""
    server, proxy = networked.project.s3, networked.proxies["lake"]
    client = Minio(
        f"127.0.0.1:{proxy.port}",
        access_key=server.access_key,
        secret_key=server.secret_key,
        secure=False,
    )
    text = b"".join(b"%d\n" % i for i in range(4000))
    client.put_object(networked.project.bucket, "naive.csv", io.BytesIO(text), len(text))
    proxy.arm(Fault("half_close", 9_000, "to_client"))
    address = urlsplit(client.presigned_get_object(networked.project.bucket, "naive.csv"))
    with socket.create_connection(("127.0.0.1", proxy.port)) as line, line.makefile("rb") as answer:
        request = f"GET {address.path}?{address.query} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n"
        line.sendall(request.encode())
        came = answer.read().partition(b"\r\n\r\n")[2]
    with psycopg.connect(networked.project.warehouse) as session, session.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE naive (id text)")
        with cursor.copy("COPY naive FROM STDIN") as copy:
            copy.write(came)
        lost = 4000 - cursor.rowcount
    assert 0 < lost < 4000
    tally("network: half_close on the line to the lake").control(f"lost {lost} of 4000 rows")
