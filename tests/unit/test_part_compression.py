"""How parts are compressed follows from what they shrink to, and any reader of zstd reads them."""

from __future__ import annotations

import base64
import random

import pytest
import zstandard

from loadsheet.lake import parts
from loadsheet.lake.parts import Layout
from loadsheet.sql.copying import BINARY_HEADER, BINARY_TRAILER

LAYOUT = Layout(format="binary", columns=(), key=())
CHANCE = random.Random(1)
REPETITIVE = b"Economy 1234 " * 20_000
TOKENS = base64.b64encode(CHANCE.randbytes(200_000))


def packed(*blocks: bytes) -> bytes:
    encoder = LAYOUT.encoder()
    for block in blocks:
        encoder.add(block)
    stored = encoder.finish()
    content = BINARY_HEADER + b"".join(blocks) + BINARY_TRAILER
    # As a single frame: a reader stops at the end of the first.
    assert zstandard.ZstdDecompressor().decompressobj().decompress(stored) == content
    assert encoder.content_bytes == len(content)
    return stored


def slowly(*blocks: bytes) -> bytes:
    """At the level that all parts once had."""
    compressor = zstandard.ZstdCompressor(compression_params=parts._COMPRESSION)
    return compressor.compress(b"".join((BINARY_HEADER, *blocks, BINARY_TRAILER)))


def test_what_shrinks_is_compressed_as_well_as_before() -> None:
    assert len(packed(REPETITIVE, REPETITIVE)) <= len(slowly(REPETITIVE, REPETITIVE)) + 1_000


def test_what_hardly_shrinks_is_not_searched_for_what_is_not_there() -> None:
    stored = packed(TOKENS, TOKENS)
    assert len(stored) > len(slowly(TOKENS, TOKENS))
    assert len(stored) <= 1.01 * len(TOKENS) * 2


def test_each_part_decides_for_itself() -> None:
    assert len(packed(TOKENS)) > 0.85 * len(TOKENS)
    assert len(packed(REPETITIVE)) < 0.1 * len(REPETITIVE)


def test_what_is_stored_counts_from_the_first_block_on() -> None:
    encoder = LAYOUT.encoder()
    encoder.add(TOKENS)
    assert encoder.size > 0.5 * len(TOKENS)


@pytest.mark.parametrize("blocks", [(), (b"x",), (b"",)])
def test_small_parts_are_whole(blocks: tuple[bytes, ...]) -> None:
    packed(*blocks)
