"""What another program has put into the lake, or answers in its place, never takes more memory than
was promised: of a part the bytes of its manifest, of any other answer a few MiB."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard

from loadsheet.engine.diagnosis import diagnose
from loadsheet.errors import Corrupt, Refused
from loadsheet.lake import manifest
from loadsheet.lake.frame import read_load
from loadsheet.lake.manifest import FILE_NAME, Manifest, Part, read_manifest
from loadsheet.lake.store import Lake, LakeFailed
from loadsheet.lake.unpacking import unpack
from loadsheet.sql.copying import BINARY_HEADER
from tests.byhand import ByHand
from tests.project import ROOT, Project

HUGE = 400 << 20
# The peak of what reads nothing is about 50 MB, a whole answer is 32 MiB, a manifest 64 MiB, and
# each may be copied once.
MOST_MIB = 230
# VmHWM is the process's own peak; ru_maxrss would be inherited from the process that started it.
CHILD = """
import sys
from loadsheet.connections.lookup import Connection
from loadsheet.engine.diagnosis import diagnose
from loadsheet.lake.manifest import Part, read_manifest
from loadsheet.lake.parts import fetch
from loadsheet.lake.store import Lake

url, what = sys.argv[1:]
extra = {} if what == "metadata" else {"endpoint_url": url}
keys = {} if what == "metadata" else {"login": "key-key", "password": "secret-secret"}
if what == "sts":
    extra["role_arn"] = "arn:aws:iam::1:role/r"
    extra["service_config"] = {"sts": {"endpoint_url": url}}
lake = Lake(Connection(conn_id="lake", extra=extra, **keys), "lake")
acts = {
    "part": lambda: fetch(lake, Part(name="x/part-00000.bin.zst", bytes=1000, sha256="0")),
    "manifest": lambda: read_manifest(lake.get("x/manifest.json", 64 << 20), "m", "0"),
    "put": lambda: lake.put("x", b"x"),
    "remove": lambda: lake.remove("x"),
}
try:
    acts.get(what, lambda: list(lake.listing("x/")))()
except Exception as error:
    print(diagnose(error) or error)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@contextmanager
def endless(status: int, headers: dict[str, str], start: bytes, block: bytes) -> Iterator[str]:
    """A server that answers every request with HUGE bytes: `start`, then `block` over and over."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in {"Content-Length": str(HUGE), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
            sent = 0
            try:
                while sent < int(headers.get("Content-Length", HUGE)):
                    data = block if sent else start + block
                    self.wfile.write(data)
                    sent += len(data)
            except OSError:  # the client has seen enough
                pass

        do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


XML = {"Content-Type": "application/xml"}
LISTING = b"<ListBucketResult>"
ERROR = b"<Error><Code>AccessDenied</Code><Message>"
# 400 MB in 400 kB.
BOMB = gzip.compress(bytes(HUGE))


@pytest.mark.parametrize(
    ("what", "status", "headers", "start", "told"),
    [
        ("part", 200, {}, b"", "it has more than 1,000 bytes"),
        ("manifest", 200, {}, b"", "is not what was stored"),
        ("listing", 200, XML, LISTING, "no S3 server"),
        ("listing", 403, XML, ERROR, "no S3 server"),
        ("listing", 503, XML, ERROR, "no S3 server"),
        ("listing", 200, {"Content-Encoding": "gzip", **XML}, BOMB, "no S3 server"),
        ("part", 403, XML, ERROR, "no S3 server"),
        ("part", 503, XML, ERROR, "no S3 server"),
        ("part", 200, {"Content-Encoding": "gzip"}, BOMB, "it has more than 1,000 bytes"),
        ("put", 500, XML, ERROR, "no S3 server"),
        ("remove", 403, {"Content-Type": "text/html"}, b"<html>", "no S3 server"),
        ("sts", 200, XML, LISTING, "gives no keys: the answer has more than"),
        ("sts", 403, XML, ERROR, "gives no keys: the answer has more than"),
        ("metadata", 200, {"Content-Type": "application/json"}, b"{", "gives no keys: the answer"),
    ],
)
def test_an_answer_without_end_takes_no_more_memory_than_one_with(
    what: str, status: int, headers: dict[str, str], start: bytes, told: str
) -> None:
    """Before, each of these took 400 MB and more, as much as the answer had."""
    is_bomb = start is BOMB
    length = {"Content-Length": str(len(start))} if is_bomb else {}
    block = b"" if is_bomb else bytes(1 << 20)
    with endless(status, {**headers, **length}, start, block) as url:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        if what == "metadata":
            environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = url
        done = subprocess.run(
            [sys.executable, "-c", CHILD, url, what],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            timeout=60,
        )
    said, _, peak = done.stdout.strip().rpartition("\n")
    assert told in said, done.stdout + done.stderr
    assert int(peak) >> 10 < MOST_MIB
    assert "Traceback" not in done.stderr


def test_a_listing_that_goes_in_a_circle_ends(project: Project) -> None:
    """Before, `gc` would never have ended."""
    page = (
        "<ListBucketResult><Name>lake</Name><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>again</NextContinuationToken>{}</ListBucketResult>"
    )
    entry = "<Contents><Key>x/\x1b{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    entry += "<Size>1</Size></Contents>"
    body = page.format("".join(entry.format(number) for number in range(3))).replace("\x1b", "&#9;")
    headers = {**XML, "Content-Length": str(len(body))}
    with endless(200, headers, body.encode(), b"") as url:
        connection = project.connections("lake")
        lake = Lake(replace(connection, extra={"endpoint_url": url}), "lake")
        with pytest.raises(LakeFailed) as caught:
            list(lake.listing("x/"))
    assert "the listing has x/\\t" in str(diagnose(caught.value))


@pytest.fixture
def load(project: Project, tmp_path: Path) -> Path:
    """A manifest on this machine, with its parts next to it."""
    by_hand = ByHand(project)
    by_hand.step("extract", "run")
    folder = tmp_path / "load"
    folder.mkdir()
    for name in project.objects():
        (folder / name.rpartition("/")[2]).write_bytes(by_hand.lake.get(name, 1 << 30) or b"")
    return folder / FILE_NAME


def edited(load: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads(load.read_bytes())
    change(document)
    load.write_text(json.dumps(document))
    return load


def test_a_part_promises_how_much_it_unpacks_to(load: Path) -> None:
    (part,) = json.loads(load.read_bytes())["parts"]
    stored = (load.parent / part["name"].rpartition("/")[2]).read_bytes()
    content = zstandard.ZstdDecompressor().decompressobj().decompress(stored)
    assert content.startswith(BINARY_HEADER) and len(content) == part["content_bytes"]
    assert read_load(load).num_rows > 0
    # Older manifests do not say it.
    edited(load, lambda document: document["parts"][0].pop("content_bytes"))
    assert read_load(load).num_rows > 0


def test_a_few_bytes_that_unpack_to_many_are_refused(load: Path) -> None:
    """Before, all of it was unpacked into memory."""
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    wide = zstandard.ZstdCompressionParameters(window_log=27)
    needy = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    for stored, told in (
        (bomb, "more content than its manifest promises"),
        (needy.compress(b"x") + needy.flush(), "cannot be unpacked"),
        (b"not packed", "cannot be unpacked"),
    ):

        def swap(document: dict[str, Any], stored: bytes = stored) -> None:
            (part,) = document["parts"]
            (load.parent / part["name"].rpartition("/")[2]).write_bytes(stored)
            part |= {"bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()}

        edited(load, swap)
        with pytest.raises(Corrupt, match=told):
            read_load(load)


def test_only_as_much_of_a_part_is_unpacked_as_was_promised() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    part = Part(name="x/\x1b[2K", bytes=len(bomb), sha256="", content_bytes=1 << 20)
    read = 0
    with pytest.raises(Corrupt, match=r"^x/\\x1b\[2K has more content"):
        for block in unpack(part, bomb):
            read += len(block)
    assert read <= 1 << 20


NAME = "shop/item/manifest.json"


@pytest.mark.parametrize(
    "stored",
    [
        b"[" * 200_000,
        b'{"columns":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"rows": ' + b"9" * 100_000 + b"}",
        b'{"rows": 1e999999}',
        b"[]",
        b"null",
        b"\xff\xfe",
        b"",
        b" " * (manifest.LONGEST_MANIFEST + 1),
    ],
    ids=["deep", "deep value", "digits", "infinite", "list", "null", "bytes", "empty", "long"],
)
def test_a_manifest_that_is_none_is_corrupt_and_no_traceback(stored: bytes) -> None:
    """Deep nesting was a RecursionError."""
    with pytest.raises(Corrupt):
        read_manifest(stored, NAME, hashlib.sha256(stored).hexdigest())


@pytest.mark.parametrize("field", ["bytes", "content_bytes", "name", "sha256"])
@pytest.mark.parametrize("value", [-1, 1.5, True, [], {}])
def test_what_decides_how_much_is_read_is_checked(load: Path, field: str, value: object) -> None:
    edited(load, lambda document: document["parts"][0].update({field: value}))
    with pytest.raises(Corrupt, match="is not a readable manifest"):
        read_load(load)


def test_a_name_with_control_characters_is_shown_as_text(load: Path) -> None:
    name = f"x/part\x1b[2K\r{secrets.token_hex(4)}"
    edited(load, lambda document: document["parts"][0].update(name=name))
    with pytest.raises(Corrupt) as caught:
        read_load(load)
    assert "\\x1b[2K\\r" in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_manifest_that_could_not_be_read_back_is_not_stored(
    load: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load.read_bytes()
    read: Manifest = read_manifest(stored, NAME, hashlib.sha256(stored).hexdigest())
    assert json.loads(read.to_json()) == json.loads(json.dumps(asdict(read)))
    monkeypatch.setattr(manifest, "LONGEST_MANIFEST", 100)
    with pytest.raises(Refused, match="read the table in pieces"):
        read.to_json()
