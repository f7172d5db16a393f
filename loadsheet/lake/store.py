"""The lake: objects in a bucket of any S3 endpoint, through the minio SDK."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from urllib3.exceptions import HTTPError

from loadsheet.connections.lookup import Connection
from loadsheet.connections.s3 import S3Settings, s3_settings
from loadsheet.errors import ConnectionMissing
from loadsheet.failpoints import reach
from loadsheet.lake.credentials import principal, provider
from loadsheet.lake.failure import ANSWER, LakeFailed, NotOfS3
from loadsheet.lake.http import pool
from loadsheet.lake.sdk import InvalidResponseError, Minio, S3Error, ServerError, findtext
from loadsheet.redact import on_one_line

_log = logging.getLogger(__name__)

_HASH_DIGITS = 64  # of a SHA-256
_CONTENT_TYPES = {
    "json": "application/json",
    "zst": "application/zstd",
    "parquet": "application/vnd.apache.parquet",
}
# For a lock, AWS and SeaweedFS say AccessDenied and MinIO InvalidRequest.
_REFUSALS = (
    "AccessDenied",
    "InvalidRequest",
    "ObjectLocked",
    "ObjectLockedByBucketPolicy",
    "ObjectUnderActiveHold",
    "RetentionPolicyNotMet",
)


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object in a listing, or a version of one."""

    name: str
    size: int
    modified: datetime
    version: str = ""
    """Empty in a listing without versions."""
    is_marker: bool = False
    """The version marks the object as deleted, and holds no bytes."""


class Lake:
    """One bucket. Objects are small (a part has about 8 MiB), so each is sent and read as a whole.

    All methods raise LakeFailed, whose cause is an error of the SDK or of urllib3; Refused or
    Unavailable where a service gives no keys.
    """

    def __init__(self, connection: Connection, bucket: str):
        self.bucket = bucket
        self._conn_id = connection.conn_id
        self._settings = s3_settings(connection)
        self._http = pool(self._settings)
        self._keys = provider(self._settings, self._http)
        self._client = _client(self._settings, self._http, self._keys)

    def close(self) -> None:
        """Close the connections that no request uses. A later request opens another."""
        self._http.clear()

    def create_bucket(self, prefix: str) -> bool:
        """Create the bucket. Returns False when it exists already, by a listing of `prefix`."""
        if self.exists(prefix):
            return False
        reach("bucket.missing")
        # Another pipeline's run may create it at this moment.
        try:
            with self._asked("s3:CreateBucket"):
                self._client.make_bucket(bucket_name=self.bucket)
        except LakeFailed as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        return True

    def put(self, name: str, data: bytes) -> str:
        """Store `data` as the object `name`, and return its SHA-256."""
        _log.debug("storing %s/%s, %d bytes", self.bucket, name, len(data))
        suffix = name.rpartition(".")[2]
        headers: dict[str, Any] = {
            "Content-Type": _CONTENT_TYPES.get(suffix, "application/octet-stream")
        }
        with self._asked("s3:PutObject", name):
            # As the SDK's put_object sends an object in one piece. It adds its headers to ours.
            self._client._execute(
                "PUT", self.bucket, name, body=data, headers=headers, no_body_trace=True
            )
        # The hash that the SDK has signed: of 250 MB it takes 0.14 s of CPU. It signs none over
        # https, nor for who has no key.
        signed = headers.get("x-amz-content-sha256", "")
        return signed if len(signed) == _HASH_DIGITS else hashlib.sha256(data).hexdigest()

    def get(self, name: str, most: int, version: str | None = None) -> bytes | None:
        """The bytes of the object `name`; None when there is none. Of an object that has more than
        `most`, these and one more are read: another program may have put anything in its place."""
        _log.debug("reading %s/%s", self.bucket, name)
        try:
            with self._asked("s3:GetObject", name):
                response = self._client.get_object(
                    bucket_name=self.bucket, object_name=name, version_id=version
                )
                try:
                    data = bytes(response.read(most + 1))
                    if len(data) <= most:
                        # It raises an error where the answer ended early.
                        response.read(1)
                    return data
                finally:
                    response.close()
                    response.release_conn()
        except LakeFailed as error:
            if error.code == "NoSuchKey":
                return None
            raise

    def exists(self, prefix: str) -> bool:
        """Whether the bucket exists, by a listing of one object below `prefix`.

        Not by HeadBucket: a policy may allow the listing below a prefix alone, and its answer has
        no body, which could tell a wrong key from a missing right and from a wrong clock.
        """
        # As the SDK's list_objects asks, whose classes for answers take 30 ms to import.
        query: dict[str, Any] = {
            "list-type": "2",
            "delimiter": "",
            "max-keys": "1",
            "prefix": prefix,
        }
        try:
            with self._asked("s3:ListBucket", prefix):
                response = self._client._execute("GET", self.bucket, query_params=query)
                findtext(ElementTree.fromstring(response.data.decode()), "Name", strict=True)
        except LakeFailed as error:
            if error.code == "NoSuchBucket":
                return False
            raise
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all objects below `prefix`."""
        return (stored.name for stored in self.listing(prefix))

    def listing(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below `prefix`."""
        with self._asked("s3:ListBucket", prefix):
            found = self._client.list_objects(
                bucket_name=self.bucket, prefix=prefix, recursive=True
            )
            for item in _ending(found):
                if item.object_name and item.last_modified and not item.is_dir:
                    yield StoredObject(
                        name=item.object_name, size=item.size or 0, modified=item.last_modified
                    )

    def versions(self, prefix: str) -> Iterator[StoredObject]:
        """All versions of all objects below `prefix`; in a bucket that keeps none, its objects."""
        with self._asked("s3:ListBucketVersions", prefix):
            found = self._client.list_objects(
                bucket_name=self.bucket, prefix=prefix, recursive=True, include_version=True
            )
            for item in _ending(found):
                if item.object_name and item.last_modified and not item.is_dir:
                    yield StoredObject(
                        name=item.object_name,
                        size=item.size or 0,
                        modified=item.last_modified,
                        version=item.version_id or "",
                        is_marker=item.is_delete_marker,
                    )

    def remove(self, name: str) -> bool:
        """Remove the object `name`. It is no error when there is none.

        Returns False where the bucket keeps versions: the object is then marked as deleted, and
        still takes its space.
        """
        _log.debug("removing %s/%s", self.bucket, name)
        with self._asked("s3:DeleteObject", name):
            # As the SDK's remove_object, which does not return the answer.
            response = self._client._execute("DELETE", self.bucket, name)
        return response.headers.get("x-amz-delete-marker", "").lower() != "true"

    def remove_version(self, name: str, version: str) -> None:
        """Remove a version of the object `name` for good."""
        _log.debug("removing %s/%s, version %s", self.bucket, name, version)
        with self._asked("s3:DeleteObjectVersion", name):
            self._client.remove_object(
                bucket_name=self.bucket, object_name=name, version_id=version
            )

    @contextmanager
    def _asked(self, action: str, name: str = "") -> Iterator[None]:
        """Raises LakeFailed for what the SDK raises within."""
        try:
            yield
        # ValueError and ParseError: an answer that is no S3 answer, such as a login page.
        except (
            S3Error,
            InvalidResponseError,
            ServerError,
            HTTPError,
            ElementTree.ParseError,
            ValueError,
        ) as error:
            resource = f"{self.bucket}/{name}" if name else self.bucket
            who = principal(self._settings, self._keys)
            raise LakeFailed(action, resource, who, _code(error), self._conn_id) from error


def is_refused(error: LakeFailed) -> bool:
    """Whether the lake forbids the request to this key, or a lock on the object does."""
    return error.code in _REFUSALS


def _ending(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a listing. Raises NotOfS3 where it comes back to an item that it has had: a
    server that answers with the same page again would never end it."""
    # An item to look out for, which changes when as many again have come: it is met in any circle.
    kept = None
    for count, item in enumerate(items):
        name = (item.object_name, item.version_id)
        if name == kept:
            raise NotOfS3(f"the listing has {on_one_line(str(name[0]))} twice")
        if count & (count - 1) == 0:
            kept = name
        yield item


def _code(error: Exception) -> str:
    if isinstance(error, S3Error):
        return error.code or ""
    if isinstance(error, InvalidResponseError):
        # rclone labels its errors text/xml, which the SDK takes for no S3 answer at all.
        answer = ANSWER.search(error._body or "")
        if answer:
            return answer[1]
    return ""


def _client(settings: S3Settings, http: Any, keys: Any) -> Minio:
    try:
        return Minio(
            endpoint=settings.endpoint.netloc,
            credentials=keys,
            secure=settings.is_https,
            region=settings.region,
            http_client=http,
        )
    except ValueError as error:
        raise ConnectionMissing(f"connection {settings.conn_id!r}: {error}") from None
