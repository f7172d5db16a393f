"""Secrets that are looked for wherever somebody could read them, and the search."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psycopg
import zstandard
from minio import Minio

from demo.servers import S3Server
from loadsheet.sql.text import Relation

HARD = "c@n4ry/p:ss?w#rd%41&é"
"""A password of characters that must be encoded in a URI."""


def forms(secret: str) -> set[str]:
    """How a secret may be written: as it is, percent-encoded, in JSON, as Python shows it, in
    base64."""
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        encoded,
    }


def found(places: Mapping[str, str], secrets: Iterable[str]) -> set[tuple[str, str]]:
    """Which secret is shown in which place; the places are texts by name."""
    return {
        (name, secret)
        for secret in secrets
        for form in forms(secret)
        for name, text in places.items()
        if form in text
    }


def files(*folders: Path) -> dict[str, str]:
    """Every file below `folders` as text."""
    every = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return {str(file): file.read_bytes().decode(errors="replace") for file in every}


def tables(
    session: psycopg.Connection[Any], schema: str, without: Collection[str] = ()
) -> dict[str, str]:
    """Every value of every table of a schema, but for the tables `without`: one text a table."""
    names = session.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)
    ).fetchall()
    return {
        name: "\n".join(
            _text(v) for row in session.execute(f"TABLE {Relation(schema, name).sql}") for v in row
        )
        for (name,) in names
        if name not in without
    }


def objects(s3: S3Server, *buckets: str) -> dict[str, str]:
    """Every object of the buckets: its name, its headers, and what is in it, unpacked."""
    client = Minio(s3.address, access_key=s3.access_key, secret_key=s3.secret_key, secure=False)
    found = {}
    for bucket in buckets:
        for item in client.list_objects(bucket, recursive=True):
            name = item.object_name
            with client.get_object(bucket, name) as answer:
                found[f"{bucket}/{name}"] = (
                    f"{name}\n{dict(answer.headers)}\n{_text(_unpacked(name, answer.read()))}"
                )
    return found


def _unpacked(name: str, stored: bytes) -> bytes:
    # Parquet packs each page on its own: it would be searched in vain.
    assert not name.endswith(".parquet"), name
    return (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored)).read()
        if name.endswith(".zst")
        else stored
    )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@contextmanager
def process_arguments(every: float = 0.2) -> Iterator[dict[str, str]]:
    """The command lines of all processes that are seen while the block runs."""
    seen: dict[str, str] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(every):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    seen[f"{file.parent.name} {line[:40]}"] = line

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()
