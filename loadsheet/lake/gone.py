"""Stores the primary keys of rows that have to leave a target, next to the parts of a load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from loadsheet.lake.manifest import Part
from loadsheet.lake.parts import Layout, PartStore, PartWriter
from loadsheet.lake.store import Lake
from loadsheet.sql.types import Column

# As many reach the part's compressor at once.
_KEYS_IN_A_BLOCK = 1000


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
    rest = iter(keys)
    try:
        while lines := [_line(key) for key in islice(rest, _KEYS_IN_A_BLOCK)]:
            writer.take("".join(lines).encode())
        writer.finish()
    except BaseException:
        writer.abandon()  # no upload may continue after its step has failed
        raise
    return tuple(writer.parts)


def _line(key: Sequence[str]) -> str:
    # Quoted, because COPY takes an empty field without quotes for NULL.
    fields = ['"' + text.replace('"', '""') + '"' for text in key]
    return ",".join(fields) + "\n"
