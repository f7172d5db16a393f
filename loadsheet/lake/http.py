"""HTTP to the lake: retries, time limits, certificates and proxies."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from http.client import HTTPResponse, IncompleteRead
from typing import Any, Self
from urllib import request
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InsecureRequestWarning

from loadsheet.connections.s3 import S3Settings
from loadsheet.deadline import remaining, watch
from loadsheet.errors import ConnectionMissing
from loadsheet.lake.failure import NotOfS3
from loadsheet.redact import register_secrets
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

LONGEST_ANSWER = 32 << 20
"""Bytes of an answer that is read as a whole: a listing of 1,000 names of 1,024 characters, written
as references, has 10 MB; an error, or the keys of a role, have a few kB."""
# Seconds without a byte, per try. After a broken connection a new one often works, so four short
# tries beat a long one.
_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_LONGEST_PAUSE = 30
# Seconds from the first try that failed, after which no other follows: an overload that lasts is
# reported, and the step's own retries come later.
PATIENCE = 60.0
# 499 is MinIO's ClientDisconnected: a line that broke while it read the request. From 520 on: the
# proxies in front of R2 could not reach it.
BUSY = (408, 425, 429, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524)


class Retry(urllib3.Retry):
    """Retries every request, since each of ours may be sent twice, until `PATIENCE` is over. A
    server may ask for a pause, but not beyond the step's time."""

    _until: float | None = None

    def new(self, **changes: Any) -> Self:
        """As urllib3 calls it for each further try."""
        after = super().new(**changes)
        after._until = self._until or time.monotonic() + PATIENCE
        return after

    @property
    def _left(self) -> float:
        if self._until is None:
            return PATIENCE
        return max(self._until - time.monotonic(), 0.0)

    def is_exhausted(self) -> bool:
        """Whether this was the last try."""
        return super().is_exhausted() or self._left <= 0

    def parse_retry_after(self, retry_after: str) -> float:
        """The seconds to wait that a server asks for, within the limits."""
        return min(super().parse_retry_after(retry_after), remaining(), self._left)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Wait before the next try."""
        answer = f"status {response.status}" if response else "no answer"
        _log.info("sending a request to the lake again: %s", answer)
        super().sleep(response)


class _Answer(HTTPResponse):
    """An answer that never takes more memory than its reader expects."""

    def begin(self) -> None:
        super().begin()
        # Nothing of ours is stored so, or asked for so: a few bytes could unpack to any number.
        del self.headers["Content-Encoding"]

    def read(self, amt: int | None = None) -> bytes:
        if amt is not None:
            return super().read(amt)
        data = super().read(LONGEST_ANSWER + 1)
        if len(data) > LONGEST_ANSWER:
            raise NotOfS3(f"the answer has more than {counted(LONGEST_ANSWER, 'byte')}")
        if self.length:  # it ended early
            raise IncompleteRead(data, self.length)
        return data


class _Http(HTTPConnection):
    """A connection that ends with the time of the step that uses it."""

    response_class = _Answer

    def request(self, *args: Any, **kwargs: Any) -> None:
        # urllib3 would connect only inside `request`, where the socket cannot be watched yet.
        if self.sock is None:
            self.connect()
        _watch(self.sock)
        super().request(*args, **kwargs)


class _Https(HTTPSConnection):
    response_class = _Answer

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        _watch(self.sock)
        super().request(*args, **kwargs)


def _watch(line: socket.socket) -> None:
    # Closing a socket would not wake a thread that waits for its answer; shutting it down does.
    watch(lambda: line.shutdown(socket.SHUT_RDWR))


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


def pool(settings: S3Settings) -> urllib3.PoolManager:
    """The connections to the lake of `settings`. Raises ConnectionMissing for certificates that
    cannot be read and for a proxy that cannot be used."""
    # raise_on_status=False: the caller gets the last answer, which tells the cause (`no space left
    # on device`), and not "too many 500 responses".
    retries = Retry(
        total=3,
        backoff_factor=0.2,
        status_forcelist=BUSY,
        allowed_methods=None,
        raise_on_status=False,
        retry_after_max=_LONGEST_PAUSE,
    )
    options: dict[str, Any] = {"timeout": _TIMEOUT, "retries": retries, "maxsize": 4}
    if settings.is_https or settings.sts_endpoint:
        options["ssl_context"] = _tls(settings)
    proxy = _proxy(settings)
    manager = urllib3.PoolManager(**options)
    if proxy:
        manager = _proxied(settings, proxy, options)
    return with_limits(manager)


def with_limits(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """The manager, whose connections end with the step and whose answers are never too long."""
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return manager


def _tls(settings: S3Settings) -> ssl.SSLContext:
    if not settings.verifies:
        _log.warning(
            "connection %s: the lake's certificate is not checked (extra.verify)", settings.conn_id
        )
        urllib3.disable_warnings(InsecureRequestWarning)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=settings.ca_file or None)
    except OSError:  # of which SSLError is one
        raise ConnectionMissing(
            f"connection {settings.conn_id!r}: {settings.ca_file} holds no certificates in PEM"
            " form that can be read"
        ) from None


def _proxy(settings: S3Settings) -> str:
    """The proxy for the lake, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY; empty for none."""
    host = settings.endpoint.hostname or ""
    # A server on this machine is never behind a proxy.
    if host == "localhost" or host.startswith("127.") or host == "::1":
        return ""
    proxies = request.getproxies_environment()
    if request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]
        return ""
    return proxies.get(settings.endpoint.scheme) or proxies.get("all") or ""


def _proxied(settings: S3Settings, proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
    variable = f"{settings.endpoint.scheme.upper()}_PROXY"
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        url = urlsplit(proxy)
        is_known = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_known = False
    if not is_known:
        raise ConnectionMissing(
            f"connection {settings.conn_id!r}: {variable} is not the address of an HTTP proxy, such"
            " as http://proxy:3128; NO_PROXY lists the hosts that need none"
        )
    if url.username:
        login = unquote(url.username)
        password = unquote(url.password or "")
        register_secrets(password)
        headers = urllib3.make_headers(proxy_basic_auth=f"{login}:{password}")
        options = options | {"proxy_headers": headers}
    address = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(address, **options)
