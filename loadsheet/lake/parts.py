"""Parts: rows become compressed objects in the lake, and are read back.

Writing: PartWriter cuts a stream of rows into parts, an Encoder fills each, PartStore stores them.
Reading: `read_parts`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, Literal, Protocol

import zstandard

from loadsheet.errors import Corrupt
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Part
from loadsheet.lake.unpacking import BLOCK_BYTES, unpack
from loadsheet.sql.copying import (
    BINARY_HEADER,
    BINARY_TRAILER,
    FileFormat,
    WireFormat,
    ends,
    wire_of,
)
from loadsheet.sql.types import Column
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake

# Each reader holds up to four parts in memory: one being filled, one full, and those on their way
# into the lake. Small compared with a Python process.
PART_BYTES = 8 << 20
# Parts of one reader on their way into the lake. While one waits for the server's answer, or the
# server for a core, the other one goes on: with one at a time, a reader waited for half of the time
# on two busy cores.
_UPLOADS = 2
# Level 1: a third of the size for a tenth of the CPU of higher levels. Tables that fit into the L1
# cache are 10 % faster and compress as well, because rows resemble their neighbours.
_COMPRESSION = zstandard.ZstdCompressionParameters.from_level(
    1, hash_log=12, window_log=17, write_checksum=True
)
# Text and bytes without repetitions (hashes, tokens, what is packed or encrypted) shrink by less
# than this, by short codes for single bytes alone. That takes as much CPU as all else that an
# extraction does, and unpacking as much again. A level that only looks for repetitions takes half
# or a third (rows of which half are hashes: 1.2 ms per MB instead of 2.3, to 73 % instead of 66).
# Any reader of zstd reads that, too.
_LEAST_SAVED = 0.4
_FASTER = zstandard.ZstdCompressionParameters.from_level(-5, window_log=17, write_checksum=True)

_SUFFIXES: dict[FileFormat, str] = {"binary": "bin.zst", "csv": "csv.zst", "parquet": "parquet"}
_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_KEPT_BY_MALLOC = 1 << 20

Progress = Callable[[int | None, int], None]
"""Called with the rows (None where they are not counted yet) and the stored bytes so far."""


class Encoder(Protocol):
    """One part that is being filled."""

    @property
    def size(self) -> int:
        """Stored bytes so far."""

    @property
    def content_bytes(self) -> int | None:
        """How much the bytes so far unpack to; None where the format limits that itself."""

    def add(self, data: bytes) -> None:
        """Whole rows, as COPY sends them."""

    def finish(self) -> bytes:
        """The complete object."""


class _CopyFile:
    """An Encoder for a file that COPY FROM reads, compressed."""

    def __init__(self, head: bytes, tail: bytes):
        self._compressor = _compressor(_COMPRESSION)
        self._head = head
        self._tail = tail
        self._stored: list[bytes] = []
        self.size = 0
        self.content_bytes = len(head) + len(tail)

    def add(self, data: bytes) -> None:
        self.content_bytes += len(data)
        compressed = self._compressor.compress(data) if self._stored else self._begin(data)
        self._stored.append(compressed)
        self.size += len(compressed)

    def _begin(self, data: bytes) -> bytes:
        """The first block, compressed. How much it shrinks decides how the part is compressed."""
        data = self._head + data
        compressed = self._compressor.compress(data)
        compressed += self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        if len(compressed) <= len(data) * (1 - _LEAST_SAVED):
            return compressed
        self._compressor = _compressor(_FASTER)
        return self._compressor.compress(data)

    def finish(self) -> bytes:
        if not self._stored:
            self._stored.append(self._begin(b""))
        self._stored.append(self._compressor.compress(self._tail))
        self._stored.append(self._compressor.flush())
        return b"".join(self._stored)


def _compressor(params: zstandard.ZstdCompressionParameters) -> zstandard.ZstdCompressionObj:
    return zstandard.ZstdCompressor(compression_params=params).compressobj()


@dataclass(frozen=True)
class Layout:
    """The format and the columns of a table's parts."""

    format: FileFormat
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def wire(self) -> WireFormat:
        """The format that COPY sends rows in."""
        return wire_of(self.format)

    def encoder(self) -> Encoder:
        """A new part. Raises InputError where pyarrow is missing for Parquet."""
        if self.format == "parquet":
            from loadsheet.lake import parquet  # it imports pyarrow, which no other format needs

            return parquet.Encoder(self.columns, self.key)
        return _CopyFile(*ends(self.format, [column.name for column in self.columns]))


class PartStore:
    """Stores the parts of one attempt, for all of its writers. `prefix` is called before each part:
    the first call takes the fence, before anything is stored. `on_rows` is called with rows as they
    come, `on_stored` with each part that the lake has acknowledged. Of several processes that store
    parts of one attempt, each counts from a `first` of its own."""

    def __init__(
        self,
        lake: Lake,
        prefix: Callable[[], str],
        layout: Layout,
        progress: Progress,
        stem: Literal["part", "gone"] = "part",
        on_rows: Callable[[bytes], None] = lambda rows: None,
        on_stored: Callable[[Part], None] = lambda part: None,
        first: int = 0,
    ):
        return_large_blocks()
        self.on_rows = on_rows
        self._on_stored = on_stored
        self._stem = stem
        self._lake = lake
        self._prefix = prefix
        self.layout = layout
        self._progress = progress
        self._numbers = count(first)
        self._sizes: list[int] = []

    def put(self, data: bytes, content_bytes: int | None) -> Part:
        """Store one part and return its entry for the manifest. Called from the writers'
        threads."""
        # No lock: `next` of a counter is one step in CPython, and so is the list's `append`.
        number = next(self._numbers)
        name = f"{self._prefix()}/{self._stem}-{number:05d}.{_SUFFIXES[self.layout.format]}"
        sha256 = self._lake.put(name, data)
        reach("extract.part_stored")
        self._sizes.append(len(data))
        self._progress(None, sum(self._sizes))
        part = Part(name=name, bytes=len(data), sha256=sha256, content_bytes=content_bytes)
        self._on_stored(part)
        return part


class PartWriter:
    """Cuts one stream of rows into parts. One is stored while the next is filled.

    A part is stored when the next one begins, and the last one by `finish`: a table of one part
    that has not changed since the last load is never stored. `content` is updated with all rows,
    where the caller needs their hash. Every method raises what storing a part raised.
    """

    def __init__(self, store: PartStore, content: hashlib._Hash | None = None):
        self._store = store
        self._content = content
        self._blocks: list[bytes] = []
        self._waiting = 0  # bytes in _blocks
        self._has_ended = False
        self._open: Encoder | None = None
        self._full: tuple[bytes, int | None] | None = None
        self._expects_header = store.layout.wire == "binary"
        self._uploads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="loadsheet-put")
        self._uploading: deque[Future[Part]] = deque()
        self.parts: list[Part] = []

    def take(self, block: bytes) -> None:
        """Add a block of whole rows; the first starts with the stream's header."""
        if self._waiting >= BLOCK_BYTES:
            self._add(self._take_blocks())
        self._blocks.append(block)
        self._waiting += len(block)

    def end(self) -> None:
        """Called when all rows were taken. `parts` are then all but the last one. A second call
        does nothing.

        Raises Corrupt when the stream lacks its end.
        """
        self._end_rows()
        self._wait_for_uploads()

    def finish(self) -> None:
        """End, and store the last part. A second call does nothing."""
        self._end_rows()
        self._store_full()
        self._wait_for_uploads()
        self._uploads.shutdown()

    def abandon(self) -> None:
        """Store nothing more. Returns when no upload is in progress."""
        self._uploads.shutdown(cancel_futures=True)

    def _end_rows(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        data = self._take_blocks()
        # Only the binary format marks its end. Of csv, the count of rows is compared instead.
        if self._store.layout.wire == "binary":
            if not data.endswith(BINARY_TRAILER):
                raise Corrupt("the source's stream of rows broke off; run the extract step again")
            data = data[: -len(BINARY_TRAILER)]  # each part gets a trailer of its own
        self._add(data)
        if self._open:
            self._close(self._open)

    def _take_blocks(self) -> bytes:
        data = b"".join(self._blocks)
        self._blocks = []
        self._waiting = 0
        return data

    def _add(self, data: bytes) -> None:
        if self._expects_header:
            data = data.removeprefix(BINARY_HEADER)
            self._expects_header = False
        if not data:
            return
        if self._content:
            self._content.update(data)
        self._store.on_rows(data)
        if self._open is None:
            self._store_full()
            self._open = self._store.layout.encoder()
        self._open.add(data)
        if self._open.size >= PART_BYTES:
            self._close(self._open)

    def _close(self, encoder: Encoder) -> None:
        stored = encoder.finish()
        self._full = (stored, encoder.content_bytes)
        self._open = None

    def _store_full(self) -> None:
        """Store the full part, if any, in the background; few at a time, so that memory stays
        bounded."""
        if self._full is None:
            return
        self._wait_for_uploads(_UPLOADS - 1)
        stored, content_bytes = self._full
        put = partial(self._store.put, stored, content_bytes)
        self._uploading.append(self._uploads.submit(copy_context().run, put))
        self._full = None

    def _wait_for_uploads(self, left: int = 0) -> None:
        """Wait until no more than `left` parts are being stored."""
        while len(self._uploading) > left:
            self.parts.append(self._uploading[0].result())
            self._uploading.popleft()


def read_parts(
    lake: Lake, parts: Sequence[Part]
) -> Generator[tuple[Part, Iterator[bytes]], None, None]:
    """Each part with its content for COPY, as an iterator of blocks. The next part is fetched while
    the blocks of one are read.

    An iterator raises Corrupt, before its first block, when the part's object is not the one in the
    manifest. Closing the generator waits for the fetch that is in progress.
    """
    return_large_blocks()
    with ThreadPoolExecutor(1, thread_name_prefix="loadsheet-get") as pool:
        queue = deque(parts)
        fetched: deque[Future[bytes]] = deque()

        # With a copy of the context, so that the step's time limit holds in the thread as well.
        def fetch_next() -> None:
            if queue:
                part = queue.popleft()
                fetched.append(pool.submit(copy_context().run, fetch, lake, part))

        fetch_next()
        for part in parts:
            yield part, _decoded(part, fetched, fetch_next)


def _decoded(
    part: Part, fetched: deque[Future[bytes]], fetch_next: Callable[[], None]
) -> Iterator[bytes]:
    stored = fetched.popleft().result()
    fetch_next()
    if part.name.endswith(_SUFFIXES["parquet"]):
        from loadsheet.lake import parquet  # it imports pyarrow, which no other format needs

        yield from parquet.decode(stored)
        return
    yield from unpack(part, stored)


def fetch(lake: Lake, part: Part) -> bytes:
    """The stored bytes of a part. Raises Corrupt when the object is missing or not the one in the
    manifest."""
    stored = lake.get(part.name, part.bytes)
    if stored is None:
        raise Corrupt(f"{part.name} is gone from the lake; run the extract step again")
    if len(stored) > part.bytes:
        raise Corrupt(
            f"{part.name} does not match its manifest (it has more than"
            f" {counted(part.bytes, 'byte')}); run the extract step again"
        )
    if len(stored) != part.bytes or hashlib.sha256(stored).hexdigest() != part.sha256:
        raise Corrupt(
            f"{part.name} does not match its manifest ({counted(len(stored), 'byte')}); run the"
            " extract step again"
        )
    return stored


@cache
def return_large_blocks() -> None:
    """Make glibc return freed blocks of a megabyte or more to the system. With another C library
    this does nothing.

    By default glibc raises that limit with every large block that is freed, and each thread's arena
    keeps some: reading 10 M rows took 131 MB, with this 100 MB, and 96 MB for 1 M.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _KEPT_BY_MALLOC)
