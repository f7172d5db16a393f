"""Parts: how rows become compressed objects in the lake, and how they are read back."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Protocol

import zstandard

from loadsheet.errors import Corrupt
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Part
from loadsheet.lake.store import Lake
from loadsheet.sql.copying import BINARY_HEADER, BINARY_TRAILER, FileFormat, WireFormat, csv_header
from loadsheet.sql.types import Column

# Up to four parts of a reader are held in memory (filled, full, sent by the S3 client): big enough
# that round trips vanish, small beside an interpreter.
PART_BYTES = 8 << 20
# Rows go through the compressor in blocks of about this size: small ones cost calls, large ones the
# cache (blocks of 1 MB take 40 % more time to unpack, most of it for memory that is new each time).
_BLOCK_BYTES = 256 << 10
# Level 1: a third of the size for a tenth of the CPU that higher levels take. Its tables cut to
# what the first cache holds: 10 % faster, and as small, for rows are like their neighbours.
_COMPRESSION = zstandard.ZstdCompressionParameters.from_level(
    1, hash_log=12, window_log=17, write_checksum=True
)

Progress = Callable[[int | None, int], None]
"""Is told how many rows (None where they are not counted yet) and how many stored bytes are
done."""


class Encoder(Protocol):
    """One part while it is filled."""

    @property
    def size(self) -> int:
        """Stored bytes so far."""

    def add(self, data: bytes) -> None:
        """Whole rows, as COPY sends them."""

    def finish(self) -> bytes:
        """The complete object."""


class _CopyFile:
    """A file that COPY FROM takes, compressed."""

    def __init__(self, head: bytes, tail: bytes):
        self._compressor = zstandard.ZstdCompressor(compression_params=_COMPRESSION).compressobj()
        self._tail = tail
        self._stored = [self._compressor.compress(head)]
        self.size = 0

    def add(self, data: bytes) -> None:
        self._stored.append(self._compressor.compress(data))
        self.size += len(self._stored[-1])

    def finish(self) -> bytes:
        return b"".join(
            [*self._stored, self._compressor.compress(self._tail), self._compressor.flush()]
        )


_SUFFIXES: dict[FileFormat, str] = {"binary": "bin.zst", "csv": "csv.zst", "parquet": "parquet"}


@dataclass(frozen=True)
class Layout:
    """What the parts of a table are made of."""

    format: FileFormat
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def wire(self) -> WireFormat:
        """What COPY has to send."""
        return "binary" if self.format == "binary" else "csv"

    def encoder(self) -> Encoder:
        """A new part. Raises InputError where pyarrow is missing for Parquet."""
        if self.format == "parquet":
            from loadsheet.lake import parquet  # it imports pyarrow, which no other format needs

            return parquet.Encoder(self.columns, self.key)
        if self.format == "binary":
            return _CopyFile(BINARY_HEADER, BINARY_TRAILER)
        return _CopyFile(csv_header([column.name for column in self.columns]), b"")


class PartStore:
    """Where the writers of one attempt store their parts. `prefix` is called before each part, the
    first time before anything is stored."""

    def __init__(self, lake: Lake, prefix: Callable[[], str], layout: Layout, progress: Progress):
        return_large_blocks()
        self._lake = lake
        self._prefix = prefix
        self.layout = layout
        self._progress, self._numbers = progress, count()
        self._sizes: list[int] = []

    def put(self, data: bytes) -> Part:
        """Store one part."""
        name = f"{self._prefix()}/part-{next(self._numbers):05d}.{_SUFFIXES[self.layout.format]}"
        self._lake.put(name, data)
        reach("extract.part_stored")
        self._sizes.append(len(data))
        self._progress(None, sum(self._sizes))
        return Part(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


class PartWriter:
    """Cuts one stream of rows into parts. One is stored while the next is filled.

    A part is stored when the next one begins, the last one by `finish`: a table of one part that
    turns out to be the same as last time is never written. `content` is fed all rows, where
    the caller wants their hash.
    """

    def __init__(self, store: PartStore, content: hashlib._Hash | None = None):
        self._store, self._content = store, content
        self._blocks: list[bytes] = []
        self._waiting = 0
        self._ended = False
        self._open: Encoder | None = None
        self._full: bytes | None = None
        self._is_headed = store.layout.wire == "binary"
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="loadsheet-put")
        self._upload: Future[Part] | None = None
        self.parts: list[Part] = []

    def take(self, block: bytes) -> None:
        """Add a block of whole rows, the first with the stream's own header."""
        if self._waiting >= _BLOCK_BYTES:
            self._add(self._gathered())
        self._blocks.append(block)
        self._waiting += len(block)

    def end(self) -> None:
        """All rows were taken; `parts` are all but the last. A second call does nothing.

        Raises Corrupt when the stream does not end as it must.
        """
        if self._ended:
            return
        self._ended = True
        data = self._gathered()
        if self._store.layout.wire == "binary":
            if not data.endswith(BINARY_TRAILER):
                raise Corrupt("the source's stream of rows broke off; run the extract step again")
            data = data[: -len(BINARY_TRAILER)]  # every part has its own
        self._add(data)
        if self._open:
            self._close(self._open)
        self._uploaded()

    def finish(self) -> None:
        """End, and store what is still held. A second call does nothing."""
        self.end()
        if self._full is not None:
            self._put(self._full)
            self._full = None
        self._uploaded()
        self._uploads.shutdown()

    def abandon(self) -> None:
        """Store nothing more; returns when no upload is under way."""
        self._uploads.shutdown(cancel_futures=True)

    def _gathered(self) -> bytes:
        data = b"".join(self._blocks)
        self._blocks, self._waiting = [], 0
        return data

    def _add(self, data: bytes) -> None:
        if self._is_headed:
            data, self._is_headed = data.removeprefix(BINARY_HEADER), False
        if not data:
            return
        if self._content:
            self._content.update(data)
        if self._open is None:
            if self._full is not None:
                self._put(self._full)
            self._open, self._full = self._store.layout.encoder(), None
        self._open.add(data)
        if self._open.size >= PART_BYTES:
            self._close(self._open)

    def _close(self, encoder: Encoder) -> None:
        self._full, self._open = encoder.finish(), None

    def _put(self, data: bytes) -> None:
        """Store a part in the background; only one at a time, so that memory stays bounded."""
        self._uploaded()
        self._upload = self._uploads.submit(copy_context().run, self._store.put, data)

    def _uploaded(self) -> None:
        if self._upload:
            self.parts.append(self._upload.result())
            self._upload = None


def read_parts(
    lake: Lake, parts: Sequence[Part]
) -> Generator[tuple[Part, Iterator[bytes]], None, None]:
    """Each part with the COPY bytes in it, in blocks that come when asked for; the next part is
    fetched meanwhile.

    Its blocks raise Corrupt, before the first, when a part's object is not as promised. Closing it
    waits for the fetch that is under way.
    """
    return_large_blocks()
    with ThreadPoolExecutor(1, thread_name_prefix="loadsheet-get") as fetching:
        left = deque(parts)
        coming: deque[Future[bytes]] = deque()

        def fetch_next() -> None:
            if left:
                coming.append(fetching.submit(copy_context().run, fetch, lake, left.popleft()))

        fetch_next()
        for part in parts:
            yield part, _blocks(part, coming, fetch_next)


def _blocks(
    part: Part, coming: deque[Future[bytes]], fetch_next: Callable[[], None]
) -> Iterator[bytes]:
    stored = coming.popleft().result()
    fetch_next()
    if part.name.endswith(_SUFFIXES["parquet"]):
        from loadsheet.lake import parquet

        yield from parquet.decode(stored)
        return
    yield from zstandard.ZstdDecompressor().read_to_iter(stored, write_size=_BLOCK_BYTES)


def fetch(lake: Lake, part: Part) -> bytes:
    """The stored bytes of a part. Raises Corrupt when the object is not as promised."""
    stored = lake.get(part.name)
    if stored is None:
        raise Corrupt(f"{part.name} is gone from the lake; run the extract step again")
    if len(stored) != part.bytes or hashlib.sha256(stored).hexdigest() != part.sha256:
        raise Corrupt(
            f"{part.name} is not what its manifest says ({len(stored)} bytes); run the extract step"
            " again"
        )
    return stored


_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_BYTES = 1 << 20


@cache
def return_large_blocks() -> None:
    """Have glibc keep no freed block of a megabyte or more; elsewhere this does nothing.

    Left alone it raises that limit with every large block that is freed, and each thread's arena
    keeps some: reading 10 M rows took 131 MB, with this 100 MB, and 96 MB for 1 M.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BYTES)
