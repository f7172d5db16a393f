"""The lake: objects in a bucket of any S3 endpoint, through the minio SDK."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection

from loadsheet.connections.lookup import Connection
from loadsheet.deadline import remaining, watch
from loadsheet.errors import ConnectionMissing
from loadsheet.failpoints import reach
from loadsheet.lake.sdk import InvalidResponseError, Minio, S3Error

_log = logging.getLogger(__name__)

# Seconds without a byte, per try. After a broken connection a new one often works, so four short
# tries beat a long one.
_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_LONGEST_PAUSE = 30
# S3's lower limit for the parts of a multipart upload. By default the SDK cuts an object into parts
# of this size, and sends three requests where one is enough.
_LEAST_PART_BYTES = 5 << 20
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object in a listing."""

    name: str
    size: int
    modified: datetime


class Lake:
    """One bucket. Objects are small (a part has about 8 MiB), so each is sent and read as a whole.

    All methods raise the errors of the SDK and of urllib3.
    """

    def __init__(self, connection: Connection, bucket: str):
        self.bucket = bucket
        self._client = _client(connection)

    def create_bucket(self) -> bool:
        """Create the bucket. Returns False when it exists already."""
        if self._client.bucket_exists(bucket_name=self.bucket):
            return False
        reach("bucket.missing")
        # Another pipeline's run may create it at this moment.
        try:
            self._client.make_bucket(bucket_name=self.bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        return True

    def put(self, name: str, data: bytes) -> None:
        """Store `data` as the object `name`."""
        _log.debug("storing %s/%s, %d bytes", self.bucket, name, len(data))
        self._client.put_object(
            bucket_name=self.bucket,
            object_name=name,
            data=io.BytesIO(data),
            length=len(data),
            part_size=max(len(data), _LEAST_PART_BYTES),
            num_parallel_uploads=1,
        )

    def get(self, name: str) -> bytes | None:
        """The bytes of the object `name`; None when there is none."""
        _log.debug("reading %s/%s", self.bucket, name)
        try:
            response = self._client.get_object(bucket_name=self.bucket, object_name=name)
        except (S3Error, InvalidResponseError) as error:
            # rclone answers a 404 as text/xml, which the SDK reports as an invalid response.
            if "NoSuchKey" in str(error):
                return None
            raise
        try:
            return bytes(response.data)
        finally:
            response.close()
            response.release_conn()

    def exists(self) -> bool:
        """Whether the bucket exists."""
        return bool(self._client.bucket_exists(bucket_name=self.bucket))

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all objects below `prefix`."""
        return (stored.name for stored in self.listing(prefix))

    def listing(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below `prefix`."""
        for item in self._client.list_objects(
            bucket_name=self.bucket, prefix=prefix, recursive=True
        ):
            if item.object_name and item.last_modified and not item.is_dir:
                yield StoredObject(
                    name=item.object_name, size=item.size or 0, modified=item.last_modified
                )

    def remove(self, name: str) -> None:
        """Remove the object `name`. It is no error when there is none."""
        _log.debug("removing %s/%s", self.bucket, name)
        self._client.remove_object(bucket_name=self.bucket, object_name=name)


class _Retry(urllib3.Retry):
    """Retries every request: each of ours may be sent twice. A server may ask for a pause, but not
    beyond the step's time."""

    def parse_retry_after(self, retry_after: str) -> float:
        return min(super().parse_retry_after(retry_after), remaining())

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        answer = f"status {response.status}" if response else "no answer"
        _log.info("sending a request to the lake again: %s", answer)
        super().sleep(response)


class _Http(HTTPConnection):
    """A connection that ends with the time of the step that uses it."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        # urllib3 would connect only inside `request`, where the socket cannot be watched yet.
        if self.sock is None:
            self.connect()
        _watch(self.sock)
        super().request(*args, **kwargs)


class _Https(HTTPSConnection):
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


def _pool() -> urllib3.PoolManager:
    # raise_on_status=False: the caller gets the last answer, which tells the cause (`no space left
    # on device`), and not "too many 500 responses".
    retries = _Retry(
        total=3,
        backoff_factor=0.2,
        status_forcelist=_BUSY,
        allowed_methods=None,
        raise_on_status=False,
        retry_after_max=_LONGEST_PAUSE,
    )
    pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=retries, maxsize=4)
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


def _client(connection: Connection) -> Minio:
    url = urlsplit(str(connection.extra.get("endpoint_url") or ""))
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ConnectionMissing(
            f"connection {connection.conn_id!r} needs an S3 endpoint: set extra.endpoint_url, "
            "for example http://127.0.0.1:9000"
        )
    if "@" in url.netloc:
        raise ConnectionMissing(
            f"connection {connection.conn_id!r}: extra.endpoint_url contains a login; put it into"
            " login and password instead"
        )
    return Minio(
        endpoint=url.netloc,
        access_key=connection.login or None,
        secret_key=connection.password or None,
        secure=url.scheme == "https",
        # Without a region the SDK first asks the server for that of the bucket.
        region=str(connection.extra.get("region") or "us-east-1"),
        http_client=_pool(),
    )
