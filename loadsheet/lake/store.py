"""The lake: objects in a bucket of any S3 endpoint, through the minio SDK."""

from __future__ import annotations

import io
from collections.abc import Iterator
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error

from loadsheet.connections import Connection
from loadsheet.errors import ConnectionMissing

_TIMEOUT = urllib3.Timeout(connect=5, read=60)
_RETRIES = urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], allowed_methods=None)


class Lake:
    """One bucket. Objects are small (a part holds at most some 16 MiB), so they travel whole."""

    def __init__(self, connection: Connection, bucket: str):
        self.bucket = bucket
        self._client = _client(connection)

    def create_bucket(self) -> bool:
        """Create the bucket; False when it is there already."""
        if self._client.bucket_exists(bucket_name=self.bucket):
            return False
        try:
            self._client.make_bucket(bucket_name=self.bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        return True

    def put(self, name: str, data: bytes) -> None:
        """Store `data` as the object `name`."""
        self._client.put_object(bucket_name=self.bucket, object_name=name, data=io.BytesIO(data), length=len(data))

    def get(self, name: str) -> bytes | None:
        """The bytes of the object `name`; None when there is none."""
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

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all objects below `prefix`."""
        for item in self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True):
            if item.object_name and not item.is_dir:
                yield item.object_name

    def remove(self, name: str) -> None:
        """Remove the object `name`; no error when there is none."""
        self._client.remove_object(bucket_name=self.bucket, object_name=name)


def _client(connection: Connection) -> Minio:
    url = urlsplit(str(connection.extra.get("endpoint_url") or ""))
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ConnectionMissing(
            f"connection {connection.conn_id!r} needs an S3 endpoint: set extra.endpoint_url, "
            "for example http://127.0.0.1:9000"
        )
    return Minio(
        endpoint=url.netloc,
        access_key=connection.login or None,
        secret_key=connection.password or None,
        secure=url.scheme == "https",
        region=str(connection.extra.get("region") or "us-east-1"),
        http_client=urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRIES, maxsize=4),
    )
