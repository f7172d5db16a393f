"""A server for the page on this machine: loopback only, read-only, behind a token."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loadsheet.errors import InputError
from loadsheet.page.documents import Document
from loadsheet.page.files import INDEX, security_headers, static_files
from loadsheet.redact import json_safe, masked, summary

LOOPBACK = "127.0.0.1"
_log = logging.getLogger(__name__)

Answer = Callable[[Sequence[str], bool], Document]


class PageServer(ThreadingHTTPServer):
    """Serves the page until `shutdown`. `url` is where, with the token."""

    daemon_threads = True

    def __init__(self, port: int, answer: Answer, on_bug: Callable[[BaseException], None]):
        """`port` 0 takes a free one. `answer` gives the document of a path, whether its source is
        to be asked or not; `on_bug` gets the exceptions that no user can have caused.

        Raises OSError where the port cannot be had.
        """
        super().__init__((LOOPBACK, port), _Handler)
        self.answer = answer
        self.on_bug = on_bug
        self.files = static_files()
        self.token = secrets.token_urlsafe(24)
        self.port = self.server_address[1]
        # Another site may give its own name the address 127.0.0.1; its pages then reach this server
        # as their own. Their requests carry that name.
        self.hosts = {f"{host}:{self.port}" for host in (LOOPBACK, "localhost")}
        if self.port == 80:
            self.hosts |= {LOOPBACK, "localhost"}
        # A cookie belongs to all ports of a host: two servers must not overwrite each other's.
        self.cookie = f"loadsheet_ui_{self.port}"

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        return f"http://{LOOPBACK}:{self.port}/?token={self.token}"

    def is_token(self, given: str) -> bool:
        """Whether `given` is the token, in a time that does not depend on it."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has closed its tab is no error."""
        _log.debug("a request from %s ended early", client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "loadsheet"
    sys_version = ""
    timeout = 60  # seconds that an idle connection is kept

    def do_GET(self) -> None:
        if self.headers.get("Host", "") not in self.server.hosts:
            return self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "this server has another name")
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "token" in query and url.path == "/":
            return self._log_in(query["token"][0])
        if not self.server.is_token(self._token_in_cookie()):
            return self.send_error(
                HTTPStatus.UNAUTHORIZED, "open the address that `loadsheet ui` has printed"
            )
        parts = [unquote(part) for part in url.path.split("/")[1:]]
        if parts[0] == "api":
            return self._send_document(parts[1:], asks_source=query.get("source") != ["no"])
        file = self.server.files.get("/".join(parts) or INDEX)
        if file is None:
            return self.send_error(HTTPStatus.NOT_FOUND, "there is no such page")
        self._send(HTTPStatus.OK, file.content, file.content_type)

    def _refuse_method(self) -> None:
        self.close_connection = True  # what the request brought along is not read
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, "this server only answers GET")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse_method

    def _log_in(self, token: str) -> None:
        if not self.server.is_token(token):
            return self.send_error(
                HTTPStatus.UNAUTHORIZED, "the token is of another `loadsheet ui`: open its address"
            )
        cookie = f"{self.server.cookie}={token}; HttpOnly; SameSite=Strict; Path=/"
        # The address without the token: it would stay in the browser's history.
        self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", Location="./", **{"Set-Cookie": cookie})

    def _token_in_cookie(self) -> str:
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return ""
        found = cookies.get(self.server.cookie)
        return found.value if found else ""

    def _send_document(self, path: list[str], asks_source: bool) -> None:
        status = HTTPStatus.OK
        try:
            content = _as_json(self.server.answer(path, asks_source))
        except InputError as error:
            status = HTTPStatus.NOT_FOUND
            content = _as_json({"error": masked(str(error))})
        except Exception as error:
            self.server.on_bug(error)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            content = _as_json({"error": f"this is a bug in Loadsheet: {summary(error)}"})
        self._send(status, content, "application/json; charset=utf-8")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """As the base class, which calls it, too: with our headers, and as plain text."""
        text = message or HTTPStatus(code).phrase
        self._send(code, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _send(self, code: int, content: bytes, content_type: str, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**security_headers(), **headers}.items():
            self.send_header(name, value)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *values: Any) -> None:
        """The lines of the base class, which show the token, are left out."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """One line for each request with -vv, without the token."""
        _log.debug("%s %s: %s", self.command, urlsplit(self.path).path, code)


def _as_json(document: Document) -> bytes:
    text = json_safe(json.dumps(document, ensure_ascii=False, allow_nan=False))
    return text.encode("utf-8", "replace")  # half of a surrogate pair has no encoding
