"""Stores the primary keys of rows that have to leave a target, next to the parts of a load."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence

from loadsheet.lake.manifest import Part
from loadsheet.lake.parts import Layout, PartStore, PartWriter
from loadsheet.lake.store import Lake
from loadsheet.sql.types import Column

# What reaches the part's compressor at once.
_BLOCK_CHARACTERS = 64 << 10


def store_keys(
    lake: Lake,
    prefix: Callable[[], str],
    columns: Sequence[Column],
    keys: Iterable[Sequence[str]],
) -> tuple[Part, ...]:
    """Store `keys`, each the texts of the key's `columns`; returns the parts, for `Manifest.gone`.

    Takes one key after the other, so memory does not grow with them. `prefix` is called before each
    part, as of `PartStore`; without a key it is not called.
    """
    names = tuple(column.name for column in columns)
    layout = Layout("csv", tuple(columns), names)
    writer = PartWriter(PartStore(lake, prefix, layout, lambda rows, size: None, stem="gone"))
    block = io.StringIO()
    # Quoted, because COPY takes an empty field without quotes for NULL.
    lines = csv.writer(block, quoting=csv.QUOTE_ALL, lineterminator="\n")
    try:
        for key in keys:
            lines.writerow(key)
            if block.tell() >= _BLOCK_CHARACTERS:
                writer.take(_taken(block))
        writer.take(_taken(block))
        writer.finish()
    except BaseException:
        writer.abandon()  # no upload may continue after its step has failed
        raise
    return tuple(writer.parts)


def _taken(block: io.StringIO) -> bytes:
    """What was written since the last time."""
    data = block.getvalue().encode()
    block.seek(0)
    block.truncate()
    return data
