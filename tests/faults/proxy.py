"""A TCP proxy on 127.0.0.1 that breaks the line to a server where it is told to.

`Fault(kind, at, direction)` strikes when byte number `at` is about to pass in that direction,
counted over all connections since `arm`. It strikes once, or, when it is `lasting`, every
connection from then on. A `watch` sees all bytes before they pass, may wait or kill somebody, and
may answer with a Fault whose `at` counts from these bytes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

from loadsheet.connections.lookup import Connection, Connections

Direction = Literal["to_server", "to_client"]
Kind = Literal["reset", "stall", "slow", "half_close", "lose_answer"]
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Fault:
    """What happens to the line.

    reset: RST to both. half_close: the receiver sees the end of the stream, the other direction
    works on. stall: nothing passes, both ends stay connected; slow: `speed` bytes/s. Both for
    `seconds`, or until `heal`. lose_answer: what came before `at` reaches the server, the client's
    line is cut: the server acts, nobody hears.
    """

    kind: Kind
    at: int = 0
    direction: Direction = "to_server"
    lasting: bool = False
    speed: int = 20_000
    seconds: float = float("inf")


Watch = Callable[[Direction, bytes], Fault | None]


class Proxy:
    """A line to `target`; clients connect to `port`. A context manager; at its end every connection
    is cut."""

    def __init__(self, target: tuple[str, int], watch: Watch | None = None):
        self.target = target
        self._watch = watch or (lambda direction, data: None)
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.closing = threading.Event()
        self.arm(None)
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def arm(self, fault: Fault | None) -> None:
        """The next fault; counting starts again at 0."""
        with self._lock:
            self._fault = fault
            self.struck = 0
            self.passed: dict[Direction, int] = {"to_server": 0, "to_client": 0}
            self.healed = threading.Event()

    def heal(self) -> None:
        """No fault from now on; lines that stall are cut. The counts stay to be read."""
        with self._lock:
            self._fault = None
            self.healed.set()

    def cut(self) -> None:
        """Cut every line there is, with a FIN, and wait for it; new ones are accepted."""
        # A line that is accepted meanwhile is not cut: to wait for it took 10 s.
        lines = list(self._lines)
        for line in lines:
            line.cut.set()
        for line in lines:
            line.join(10)
            if not line.is_alive():
                self._lines.remove(line)

    def close(self) -> None:
        """Accept nobody any more and cut every line."""
        self.closing.set()
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def meet(self, direction: Direction, data: bytes) -> tuple[Fault | None, int]:
        """The fault that strikes within `data`, and how many of its bytes still pass."""
        if chosen := self._watch(direction, data):
            with self._lock:
                self.struck += 1
            return chosen, chosen.at
        with self._lock:
            fault, before = self._fault, self.passed[direction]
            self.passed[direction] += len(data)
            if fault is None or fault.direction != direction or before + len(data) <= fault.at:
                return None, len(data)
            self.struck += 1
            if not fault.lasting:
                self._fault = None
            return fault, max(fault.at - before, 0)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            line = _Line(self, client)
            self._lines.append(line)
            line.start()


class _Line(threading.Thread):
    """One client's connection: one thread for both directions, so that a reset can be sent while
    nobody reads."""

    def __init__(self, proxy: Proxy, client: socket.socket):
        super().__init__(daemon=True)
        self.proxy, self.client, self.healed = proxy, client, proxy.healed
        self.cut = threading.Event()
        self.slow_until, self.speed = 0.0, 0
        self.deaf: set[Direction] = set()

    def run(self) -> None:
        """Carry bytes until both ends have said all, or a fault ends it."""
        with self.client, contextlib.suppress(OSError):
            self.server = socket.create_connection(self.proxy.target, 10)
            with self.server:
                for end in (self.client, self.server):
                    end.settimeout(30)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._carry_all()

    def _carry_all(self) -> None:
        talking = {self.client, self.server}
        while talking and not self.cut.is_set():
            for end in select.select(list(talking), [], [], _POLL_SECONDS)[0]:
                data = end.recv(65536)
                if not self._carry(data, "to_server" if end is self.client else "to_client"):
                    return
                if not data:
                    talking.discard(end)

    def _receiver(self, direction: Direction) -> socket.socket:
        return self.server if direction == "to_server" else self.client

    def _carry(self, data: bytes, direction: Direction) -> bool:
        """Pass `data` on, as far as the fault lets it; False when this line is done."""
        if direction in self.deaf:
            return True
        if not data:
            self._receiver(direction).shutdown(socket.SHUT_WR)
            return True
        fault, keep = self.proxy.meet(direction, data)
        self._send(data[:keep], direction)
        return fault is None or self._strike(fault, direction, data[keep:])

    def _strike(self, fault: Fault, direction: Direction, rest: bytes) -> bool:
        match fault.kind:
            case "reset":
                for end in (self.client, self.server):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case "half_close":
                self.deaf.add(direction)
                self._receiver(direction).shutdown(socket.SHUT_WR)
            case "lose_answer":
                self.client.shutdown(socket.SHUT_RDWR)
                self.server.shutdown(socket.SHUT_WR)
                while self.server.recv(65536):  # until it has acted and gone
                    pass
                return False
            case "stall":
                if not self._stalled(fault.seconds):
                    return False
                self._send(rest, direction)
            case "slow":
                self.slow_until, self.speed = time.monotonic() + fault.seconds, fault.speed
                self._send(rest, direction)
        return True

    def _stalled(self, seconds: float) -> bool:
        """Wait; True when the stall ended by itself, False when it was healed or cut."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.cut.is_set() or self.healed.wait(_POLL_SECONDS):
                return False
        return True

    def _send(self, data: bytes, direction: Direction) -> None:
        while (
            data
            and time.monotonic() < self.slow_until
            and not (self.healed.is_set() or self.cut.is_set())
        ):
            some = max(int(self.speed * _POLL_SECONDS), 1)
            self._receiver(direction).sendall(data[:some])
            data = data[some:]
            self.cut.wait(_POLL_SECONDS)
        self._receiver(direction).sendall(data)


def losing_answers(statement: bytes, times: int = 1) -> Watch:
    """A watch that lets `statement` reach the server and cuts the client's line, the first `times`
    times."""
    left = threading.Semaphore(times)

    def watch(direction: Direction, data: bytes) -> Fault | None:
        if direction == "to_server" and statement in data and left.acquire(blocking=False):
            return Fault("lose_answer", at=len(data))
        return None

    return watch


def through(connections: Connections, ports: Mapping[str, int]) -> Connections:
    """`connections`, but those with these ids are reached at 127.0.0.1 and the given port: a
    proxy's."""

    def find(conn_id: str) -> Connection:
        found = connections(conn_id)
        if conn_id not in ports:
            return found
        if "endpoint_url" in found.extra:
            return replace(
                found, extra={**found.extra, "endpoint_url": f"http://127.0.0.1:{ports[conn_id]}"}
            )
        return replace(found, host="127.0.0.1", port=ports[conn_id])

    return find
