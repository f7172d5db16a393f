"""The rows of a binary COPY file as Arrow columns. Importing this needs pyarrow."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import adapters
from psycopg.pq import Format

from loadsheet.errors import Corrupt, Refused
from loadsheet.lake.arrow import schema_of
from loadsheet.lake.nested import shown
from loadsheet.sql.copying import BINARY_HEADER
from loadsheet.sql.parquet_types import TEXT, kind
from loadsheet.sql.types import Column, without_modifier

# isort: split
import pyarrow as pa

Values = list[bytes | None]
# Rows turned into columns at a time: enough for Arrow to be cheap, few enough to be small.
_ROWS = 65_536


def batches(copied: bytes, columns: Sequence[Column], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of the columns called `names` of a complete binary COPY file with these `columns`.

    Raises Refused, naming the column, for a type whose binary form is not read here, or a value Arrow's type cannot
    hold; Corrupt when the file ends before its end.
    """
    places = {c.name: place for place, c in enumerate(columns)}
    wanted = [(places[name], columns[places[name]]) for name in names]
    loaders = [_loader(column) for _, column in wanted]
    schema = schema_of([column for _, column in wanted])
    for values in _split(copied, len(columns)):
        arrays = [
            _array(values[place], column, load, field.type)
            for (place, column), load, field in zip(wanted, loaders, schema, strict=True)
        ]
        yield pa.record_batch(arrays, schema=schema)


def _split(copied: bytes, width: int) -> Iterator[list[Values]]:
    """The fields of some rows at a time, column by column."""
    place, length = len(BINARY_HEADER), struct.Struct(">i").unpack_from
    columns: list[Values] = [[] for _ in range(width)]
    try:
        while (fields := int.from_bytes(copied[place : place + 2], signed=True)) == width:
            place += 2
            for column in columns:
                (size,) = length(copied, place)
                place += 4
                if size < 0:
                    column.append(None)
                else:
                    column.append(copied[place : place + size])
                    place += size
            if len(columns[0]) == _ROWS:
                yield columns
                columns = [[] for _ in range(width)]
    except struct.error:
        fields = width
    if fields != -1 or place + 2 != len(copied):
        raise Corrupt("a part ends in the middle of a row; run the extract step again")
    yield columns


def _array(values: Values, column: Column, load: Callable[[bytes], Any], arrow: pa.DataType) -> pa.Array:
    try:
        return pa.array([None if value is None else load(value) for value in values], arrow)
    except (psycopg.DataError, pa.ArrowInvalid, ValueError):
        raise Refused(
            f"column {column.name} ({column.type}) holds a value that Arrow cannot, such as infinity, BC or NaN: leave "
            "it out (columns=[...]), or read it from a load in csv"
        ) from None


def _loader(column: Column) -> Callable[[bytes], Any]:
    """psycopg's where Arrow has the type; else what PostgreSQL would show."""
    known = kind(column.type)
    if isinstance(known, str) or known == TEXT:
        show = shown(column.type)
        if show is None:
            raise Refused(
                f"column {column.name} ({column.type}) is not read back from a binary load: leave it out "
                "(columns=[...]), or set lake.format: csv"
            )
        return show
    oid = adapters.types[without_modifier(column.type)].oid
    loader = adapters.get_loader(oid, Format.BINARY)
    assert loader is not None, column.type
    return loader(oid, None).load
