"""Receivers of alerts on 127.0.0.1: one for whatever is posted by HTTP, one for email."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Request:
    """What was posted."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body, which must be JSON in UTF-8."""
        return json.loads(self.body.decode("utf-8"))


@dataclass(frozen=True)
class Answer:
    """What the receiver says."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)


class _Server:
    """Serves in threads of its own; a context manager."""

    def __init__(self, server: socketserver.BaseServer):
        self._server = server

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])  # type: ignore[index]

    def __enter__(self) -> Self:
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        place: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class Receiver(_Server):
    """Keeps what is posted, and answers as `answer` says."""

    def __init__(self, answer: Callable[[Request], Answer] = lambda request: Answer()):
        self.requests: list[Request] = []
        self.answer = answer
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers, body)
                receiver.requests.append(request)
                answer = receiver.answer(request)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        super().__init__(server)

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"


class Mailbox(_Server):
    """Keeps the emails it gets, as `mails`, with their recipients. It knows none of the
    `strangers`, and accepts a mail after `seconds`."""

    def __init__(
        self,
        greeting: bytes = b"220 here",
        strangers: Collection[str] = (),
        seconds: float = 0,
    ):
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        mailbox = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                recipients: list[str] = []
                self._say(greeting)
                for line in iter(self.rfile.readline, b""):
                    verb = line[:4].upper()
                    if verb == b"RCPT":
                        recipient = line.decode().partition("<")[2].partition(">")[0]
                        if recipient in strangers:
                            self._say(b"550 no such user")
                            continue
                        recipients.append(recipient)
                    if verb == b"DATA":
                        self._say(b"354 go on")
                        self._keep(recipients)
                    self._say(b"221 bye" if verb == b"QUIT" else b"250 ok")

            def _keep(self, recipients: list[str]) -> None:
                text = b""
                for line in iter(self.rfile.readline, b".\r\n"):
                    text += line.removeprefix(b".")
                mail = message_from_bytes(text, policy=policy.default)
                assert isinstance(mail, EmailMessage)
                mailbox.mails.append(mail)
                mailbox.recipients.append(recipients)
                time.sleep(seconds)

            def _say(self, answer: bytes) -> None:
                self.wfile.write(answer + b"\r\n")

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        super().__init__(server)
