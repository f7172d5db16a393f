"""A COPY stream as parts in the lake: each a complete COPY file, compressed, hashed, small enough to hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import zstandard

from loadsheet.errors import Corrupt
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Part
from loadsheet.lake.store import Lake
from loadsheet.sql.copying import BINARY_HEADER, BINARY_TRAILER, WireFormat, csv_header

# One part is held in memory on both ways: big enough that S3 round trips vanish, small beside an interpreter.
PART_BYTES = 16 << 20
# Rows are handed to the compressor in blocks of about this size: one call per row cost more than compressing.
_BLOCK_BYTES = 256 << 10
# Level 1: a third of the size for a tenth of the CPU that higher levels take.
_LEVEL = 1

Progress = Callable[[int, int], None]


def suffix(wire: WireFormat) -> str:
    """What a part's name ends with: `bin.zst` or `csv.zst`."""
    return "bin.zst" if wire == "binary" else "csv.zst"


class PartWriter:
    """Cuts rows into parts. `begin` is asked for the prefix when the first part is about to be stored.

    A part is stored when the next one begins, the last one by `finish`: a table of one part that turns out to be the
    same as last time is never written. `meaning` is what the rows' bytes depend on (their columns); it is part of the
    content's hash.
    """

    def __init__(
        self, lake: Lake, begin: Callable[[], str], wire: WireFormat, columns: tuple[str, ...], meaning: bytes = b""
    ):
        self._lake, self._begin, self._wire = lake, begin, wire
        self._head, self._tail = (BINARY_HEADER, BINARY_TRAILER) if wire == "binary" else (csv_header(columns), b"")
        self._content = hashlib.sha256(meaning)
        self._full: tuple[list[bytes], int] | None = None
        self._begun = False
        self.parts: list[Part] = []
        self.rows = 0

    def write(self, rows: Iterable[bytes | memoryview], progress: Progress) -> None:
        """Cut all rows (one COPY message each) into parts and store all but the last."""
        stream = iter(rows)
        for first in stream:
            if not self._begun and self._wire == "binary" and bytes(first[: len(BINARY_HEADER)]) == BINARY_HEADER:
                first = first[len(BINARY_HEADER) :]  # the stream's own, which every part gets for itself
            if len(first) == 0 or first == self._tail:
                continue
            self._begun = True
            self.finish()
            self._full = self._fill(first, stream)
            self.rows += self._full[1]
            progress(self.rows, sum(part.bytes for part in self.parts))

    def finish(self) -> None:
        """Store the part that is filled, if there is one."""
        if self._full:
            self._store(*self._full)
            self._full = None

    @property
    def content_sha256(self) -> str:
        """Of all uncompressed rows so far."""
        return self._content.hexdigest()

    def _fill(self, first: bytes | memoryview, stream: Iterator[bytes | memoryview]) -> tuple[list[bytes], int]:
        """Compress rows until a part is full."""
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
        stored = [compressor.compress(self._head)]
        rows = size = 0
        block: list[bytes | memoryview] = []
        waiting = 0
        for row in chain([first], stream):
            if row == self._tail:
                continue
            block.append(row)
            rows += 1
            waiting += len(row)
            if waiting >= _BLOCK_BYTES:
                stored.append(self._compress(compressor, block))
                size += len(stored[-1])
                block, waiting = [], 0
                if size >= PART_BYTES:
                    break
        stored += [self._compress(compressor, block), compressor.compress(self._tail), compressor.flush()]
        return stored, rows

    def _compress(self, compressor: zstandard.ZstdCompressionObj, block: list[bytes | memoryview]) -> bytes:
        data = b"".join(block)
        self._content.update(data)
        return compressor.compress(data)

    def _store(self, pieces: list[bytes], rows: int) -> None:
        data = b"".join(pieces)
        name = f"{self._begin()}/part-{len(self.parts):05d}.{suffix(self._wire)}"
        self._lake.put(name, data)
        reach("extract.part_stored")
        self.parts.append(Part(name=name, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))


def read_part(lake: Lake, part: Part) -> Iterator[bytes]:
    """The COPY bytes of a part, in blocks. Raises Corrupt before the first block when the object is not as promised."""
    stored = lake.get(part.name)
    if stored is None:
        raise Corrupt(f"{part.name} is gone from the lake; run the extract step again")
    if len(stored) != part.bytes or hashlib.sha256(stored).hexdigest() != part.sha256:
        raise Corrupt(f"{part.name} is not what its manifest says ({len(stored)} bytes); run the extract step again")
    yield from zstandard.ZstdDecompressor().read_to_iter(stored, write_size=1 << 20)
