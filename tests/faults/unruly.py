"""An S3 server's unruly neighbour: passes requests on to the real one, and misbehaves where it is
told to."""

from __future__ import annotations

import io
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

import urllib3
from minio import Minio

from demo.servers import S3Server

Kind = Literal["status", "slow", "lost", "short", "shortened", "truncated"]
SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>
<Message>Please reduce your request rate.</Message></Error>"""


@dataclass(frozen=True)
class Trouble:
    """What happens to one request.

    status: answered with `status`, `headers` and `body`, and not passed on. slow: answered
    `seconds` late. lost: passed on, then the line is cut without an answer. short: the answer ends
    half way, as its length tells. shortened: only half of the answer's body, under a length that
    fits. truncated: the answer is good, but only half of what was sent is in the store.
    """

    kind: Kind
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = SLOW_DOWN
    seconds: float = 0.0


Decide = Callable[[str, str], Trouble | None]


class Unruly:
    """Serves HTTP on 127.0.0.1:`port`; `decide(method, path)` says what happens to each request. A
    context manager."""

    def __init__(self, server: S3Server, tls: ssl.SSLContext | None = None):
        self._http = urllib3.PoolManager(retries=False, maxsize=8)
        self._target = server.endpoint
        self._store = Minio(
            server.address,
            access_key=server.access_key,
            secret_key=server.secret_key,
            secure=False,
            region="us-east-1",
        )
        self.decide: Decide = lambda method, path: None
        self.troubled = 0
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._http.clear()

    def obey(self) -> None:
        """Pass everything on from now; the counts start again."""
        self.decide, self.troubled, self.requests = (lambda method, path: None), 0, []

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        request.close_connection = False
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append((request.command, request.path))
        trouble = self.decide(request.command, request.path)
        self.troubled += trouble is not None
        if trouble and trouble.kind == "status":
            return _answer(
                request,
                trouble.status,
                {"Content-Type": "application/xml", **trouble.headers},
                trouble.body,
            )
        kind = trouble.kind if trouble else ""
        answer = self._pass_on(request, body)
        if trouble:
            time.sleep(trouble.seconds)
        if kind == "truncated" and request.command == "PUT" and body:
            bucket, _, name = unquote(urlsplit(request.path).path[1:]).partition("/")
            half = body[: len(body) // 2]
            self._store.put_object(bucket, name, io.BytesIO(half), len(half))
        data = answer.data
        if kind == "lost":
            request.close_connection = True
            return None
        length = len(data) // 2 if kind == "shortened" else len(data)
        headers = {
            k: v
            for k, v in answer.headers.items()
            if k.lower() not in ("content-length", "connection", "date")
        }
        sent = data[: len(data) // 2] if kind == "short" else data[:length]
        request.close_connection = kind == "short"
        return _answer(
            request, answer.status, headers, sent, len(data) if kind == "short" else length
        )

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes) -> urllib3.BaseHTTPResponse:
        # The Host header is part of the signature, so it must arrive as it was sent.
        headers = dict(request.headers.items())
        url = urlsplit(request.path)  # of a proxy, it is the whole address
        path = url._replace(scheme="", netloc="").geturl()
        return self._http.request(
            request.command,
            self._target + path,
            body=body or None,
            headers=headers,
            redirect=False,
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        unruly = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                unruly.serve(self)

            do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _answer(
    request: BaseHTTPRequestHandler,
    status: int,
    headers: dict[str, str],
    data: bytes,
    length: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in {
        **headers,
        "Content-Length": str(len(data) if length is None else length),
    }.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)
