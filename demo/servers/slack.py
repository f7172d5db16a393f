"""A stand-in for Slack's incoming webhooks that keeps what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import Any, Self

from demo.servers.process import LOOPBACK
from loadsheet.sqltest.process import Managed


@dataclass
class _Answer:
    status: int = 200
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class SlackReceiver(Managed):
    """Receives posted messages on 127.0.0.1; a context manager.

    `messages` holds every payload in the order of arrival; `on_message` is called with each (from a
    server thread).
    """

    on_message: Callable[[dict[str, Any]], None] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._answers: Iterator[_Answer] = repeat(_Answer())
        self._arrived = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> Self:
        """Listen on a free port."""
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The webhook's address without the secret path a real one has."""
        return f"http://{LOOPBACK}:{self.port}"

    def respond(
        self,
        *,
        status: int = 200,
        delay: float = 0.0,
        headers: dict[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        """From now on (or `times` times) answer with `status` and `headers` after `delay` seconds.

        Messages are recorded all the same.
        """
        answer = _Answer(status, delay, headers or {})
        self._answers = (
            repeat(answer) if times is None else chain(repeat(answer, times), repeat(_Answer()))
        )

    def wait_for(self, count: int, timeout: float = 30.0) -> bool:
        """Wait until at least `count` messages have arrived; False when time is up."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.messages) >= count, timeout)

    def receive(self, payload: dict[str, Any]) -> _Answer:
        """Record a message and return what to answer."""
        with self._arrived:
            self.messages.append(payload)
            answer = next(self._answers)
            self._arrived.notify_all()
        if self.on_message:
            self.on_message(payload)
        time.sleep(answer.delay)
        return answer

    def stop(self) -> None:
        """Stop listening. A second call does nothing."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _handler(receiver: SlackReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = receiver.receive(_payload(body))
            self.send_response(answer.status)
            for name, value in {"Content-Type": "text/html", **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"ok" if answer.status == 200 else b"server_error")

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the terminal belongs to the demo."""

    return Handler


def _payload(body: bytes) -> dict[str, Any]:
    """The posted JSON object; anything else is kept as text under `raw`."""
    try:
        decoded = json.loads(body)
    except ValueError:
        decoded = None
    return decoded if isinstance(decoded, dict) else {"raw": body.decode(errors="replace")}
