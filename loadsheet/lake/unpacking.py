"""Unpacks stored parts, and never more of one than its manifest promises: a few bytes of zstd can
stand for any number of others."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from loadsheet.errors import Corrupt
from loadsheet.lake.manifest import Part
from loadsheet.redact import on_one_line
from loadsheet.wording import counted

BLOCK_BYTES = 256 << 10
"""Rows are packed and unpacked in blocks of about this size. Smaller blocks cost more calls; larger
ones miss the cache (1 MB takes 40 % more time to unpack, most of it for newly allocated memory)."""
# Of what Loadsheet has packed, 128 KiB. A frame may ask for 2 GiB of memory.
_LARGEST_WINDOW = 8 << 20


def unpack(part: Part, stored: bytes) -> Iterator[bytes]:
    """The content of a part, in blocks.

    Raises Corrupt for what is not packed as Loadsheet packs, and where there is more content than
    the manifest promises; older manifests promise nothing.
    """
    name = on_one_line(part.name)
    unpacked = 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    try:
        for block in decompressor.read_to_iter(stored, write_size=BLOCK_BYTES):
            unpacked += len(block)
            if part.content_bytes is not None and unpacked > part.content_bytes:
                raise Corrupt(
                    f"{name} has more content than its manifest promises"
                    f" ({counted(part.content_bytes, 'byte')}); run the extract step again"
                )
            yield block
    except zstandard.ZstdError as error:
        raise Corrupt(f"{name} cannot be unpacked; run the extract step again") from error
