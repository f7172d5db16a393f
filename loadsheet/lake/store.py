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
from urllib3.connection import HTTPConnection, HTTPSConnection

from loadsheet.connections.lookup import Connection
from loadsheet.deadline import remaining, watch
from loadsheet.errors import ConnectionMissing
from loadsheet.failpoints import reach
from loadsheet.lake.sdk import InvalidResponseError, Minio, S3Error

_log = logging.getLogger(__name__)

# Seconds without a byte, per try. A line that has gone dead heals on a new one, so four short tries
# beat a long one.
_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_LONGEST_PAUSE = 30
# S3's own limit for a part of an object. Left alone, the SDK cuts at it and sends three requests
# where one will do.
_LEAST_PART_BYTES = 5 << 20
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object as a listing shows it."""

    name: str
    size: int
    modified: datetime


class Lake:
    """One bucket. Objects are small (a part holds at most some 8 MiB), so they travel whole."""

    def __init__(self, connection: Connection, bucket: str):
        self.bucket = bucket
        self._client = _client(connection)

    def create_bucket(self) -> bool:
        """Create the bucket; False when it is there already."""
        if self._client.bucket_exists(bucket_name=self.bucket):
            return False
        reach("bucket.missing")
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
            # rclone answers 404 as text/xml, which the SDK takes for a broken server.
            if "NoSuchKey" in str(error):
                return None
            raise
        try:
            return bytes(response.data)
        finally:
            response.close()
            response.release_conn()

    def exists(self) -> bool:
        """Whether the bucket is there."""
        return bool(self._client.bucket_exists(bucket_name=self.bucket))

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all objects below `prefix`."""
        return (found.name for found in self.listing(prefix))

    def listing(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below `prefix`, with their sizes and ages."""
        for item in self._client.list_objects(
            bucket_name=self.bucket, prefix=prefix, recursive=True
        ):
            if item.object_name and item.last_modified and not item.is_dir:
                yield StoredObject(
                    name=item.object_name, size=item.size or 0, modified=item.last_modified
                )

    def remove(self, name: str) -> None:
        """Remove the object `name`; no error when there is none."""
        self._client.remove_object(bucket_name=self.bucket, object_name=name)


class _Retry(urllib3.Retry):
    """Everything here may be sent twice. A server that asks to wait is obeyed, but not past the
    step's time."""

    def parse_retry_after(self, retry_after: str) -> float:
        return min(super().parse_retry_after(retry_after), remaining())


class _Http(HTTPConnection):
    """A connection that ends with the time of the step that uses it."""

    def request(self, *args: Any, **kwargs: Any) -> None:
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
    watch(lambda: line.shutdown(socket.SHUT_RDWR))


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


def _pool() -> urllib3.PoolManager:
    # The last answer is handed on, not "too many 500 responses": it says what is wrong (`no space
    # left on device`).
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
            f"connection {connection.conn_id!r}: extra.endpoint_url holds a login; it belongs into"
            " login and password"
        )
    return Minio(
        endpoint=url.netloc,
        access_key=connection.login or None,
        secret_key=connection.password or None,
        secure=url.scheme == "https",
        region=str(connection.extra.get("region") or "us-east-1"),
        http_client=_pool(),
    )
