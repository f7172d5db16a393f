"""Reads a load in the lake back as an Arrow table."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# This import comes first: it reports a missing pyarrow as an InputError.
from loadsheet.lake.parquet import from_csv, schema_of

# isort: split

import psycopg
import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pa_parquet
from psycopg import adapters
from psycopg.pq import Format

from loadsheet.errors import Corrupt, InputError, Refused
from loadsheet.lake.manifest import LONGEST_MANIFEST, Manifest, Part, read_manifest
from loadsheet.lake.postgres_text import text_reader
from loadsheet.lake.unpacking import unpack
from loadsheet.redact import on_one_line
from loadsheet.sql.copying import BINARY_HEADER, csv_header
from loadsheet.sql.types import TEXT, Column, parquet_kind, without_modifier

_REMEDY = "leave it out (columns=[...])"
# Rows turned into columns at a time: enough for Arrow to be fast, few enough to need little memory.
_BATCH_ROWS = 65_536

Values = list[bytes | None]
"""The values of one column as COPY sends them; None for NULL."""


def read_load(
    manifest: str | Path,
    columns: Iterable[str] | None = None,
    filesystem: pa_fs.FileSystem | None = None,
) -> pa.Table:
    """The rows of a load as one table, all of it in memory.

    `manifest` is the path of the load's manifest, or a URI such as
    `s3://bucket/shop/orders/…/manifest.json` (with `filesystem`: a path in it). Its parts are in
    the same folder. `columns` selects columns by name. Types are those of Parquet; a value that
    Parquet cannot hold is the text that PostgreSQL shows.

    Raises Corrupt for objects that are missing or do not match the manifest, Refused for a value or
    a type that cannot be read, InputError for a column the load does not have.
    """
    if filesystem:
        files = filesystem
        path = str(manifest)
    else:
        uri = str(manifest) if "://" in str(manifest) else str(Path(manifest).resolve())
        files, path = pa_fs.FileSystem.from_uri(uri)
    # There is no ledger here that knows the manifest's hash, so the manifest is trusted.
    stored = _fetch(files, path, LONGEST_MANIFEST)
    load = read_manifest(stored, path, hashlib.sha256(stored).hexdigest())
    by_name = {column.name: column for column in load.columns}
    names = list(by_name if columns is None else columns)
    for name in names:
        if name not in by_name:
            raise InputError(f"{load.table} has no column {name!r}; it has {', '.join(by_name)}")
    selected = [by_name[name] for name in names]
    folder = path.rpartition("/")[0]
    tables = [_read_part(files, folder, part, load, selected) for part in load.parts]
    if not tables:
        return schema_of(selected).empty_table()
    return pa.concat_tables(tables)


def _fetch(files: pa_fs.FileSystem, path: str, most: int) -> bytes:
    """The file's bytes; of one that has more than `most`, one more than that."""
    try:
        # By default pyarrow unpacks a file by the end of its name. The hash is of the packed bytes.
        with files.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read(most + 1))
    except FileNotFoundError as error:
        raise Corrupt(f"{on_one_line(path)} does not exist") from error


def _read_part(
    files: pa_fs.FileSystem, folder: str, part: Part, load: Manifest, selected: list[Column]
) -> pa.Table:
    path = f"{folder}/{part.name.rpartition('/')[2]}"
    stored = _fetch(files, path, part.bytes)
    if len(stored) > part.bytes or hashlib.sha256(stored).hexdigest() != part.sha256:
        raise Corrupt(f"{on_one_line(path)} does not match its manifest")
    names = [column.name for column in selected]
    if load.format == "parquet":
        table = pa_parquet.read_table(pa.BufferReader(stored), columns=names)
        return table.replace_schema_metadata(None)
    copied = b"".join(unpack(part, stored))
    if load.format == "binary":
        return pa.Table.from_batches(batches(copied, load.columns, names), schema_of(selected))
    every_name = [column.name for column in load.columns]
    rows = copied[len(csv_header(every_name)) :]
    return from_csv(rows, every_name, schema_of(selected), _REMEDY)


def batches(
    copied: bytes, columns: Sequence[Column], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Batches of the columns `names` of a complete binary COPY file that has these `columns`.

    Raises Refused, naming the column, for a type whose binary form cannot be read here, or a value
    that Arrow's type cannot hold; Corrupt when the file is cut off.
    """
    places = {column.name: place for place, column in enumerate(columns)}
    selected = [columns[places[name]] for name in names]
    readers = [_value_reader(column) for column in selected]
    schema = schema_of(selected)
    for values in _columns_of(copied, len(columns)):
        arrays = []
        for column, read, field in zip(selected, readers, schema, strict=True):
            arrays.append(_array(values[places[column.name]], column, read, field.type))
        yield pa.record_batch(arrays, schema=schema)


def _columns_of(copied: bytes, width: int) -> Iterator[list[Values]]:
    """The values of `_BATCH_ROWS` rows at a time, column by column.

    A row is the number of its fields (-1: the end of the file), then each field behind its length
    (-1: NULL).
    """
    unpack_length = struct.Struct(">i").unpack_from
    place = len(BINARY_HEADER)
    columns: list[Values] = [[] for _ in range(width)]
    try:
        while (fields := int.from_bytes(copied[place : place + 2], signed=True)) == width:
            place += 2
            for column in columns:
                (size,) = unpack_length(copied, place)
                place += 4
                if size < 0:
                    column.append(None)
                else:
                    column.append(copied[place : place + size])
                    place += size
            if len(columns[0]) == _BATCH_ROWS:
                yield columns
                columns = [[] for _ in range(width)]
    except struct.error:
        fields = width
    if fields != -1 or place + 2 != len(copied):
        raise Corrupt("a part ends in the middle of a row; run the extract step again")
    yield columns


def _array(
    values: Values, column: Column, read: Callable[[bytes], Any], arrow: pa.DataType
) -> pa.Array:

    def read_or_none(value: bytes | None) -> Any:
        return None if value is None else read(value)

    try:
        return pa.array(map(read_or_none, values), arrow)
    except (psycopg.DataError, pa.ArrowInvalid, ValueError):
        raise Refused(
            f"column {column.name} ({column.type}) has a value that Arrow cannot hold, such as"
            " infinity, BC or NaN: leave it out (columns=[...]), or read it from a load in csv"
        ) from None


def _value_reader(column: Column) -> Callable[[bytes], Any]:
    """What reads a value in its binary form: psycopg's loader where Arrow has the type, else a
    function that returns the text PostgreSQL shows."""
    arrow_kind = parquet_kind(column.type)
    if isinstance(arrow_kind, str) or arrow_kind == TEXT:
        read = text_reader(column.type)
        if read is None:
            raise Refused(
                f"column {column.name} ({column.type}) cannot be read from a binary load: leave it"
                " out (columns=[...]), or set lake.format: csv"
            )
        return read
    oid = adapters.types[without_modifier(column.type)].oid
    loader = adapters.get_loader(oid, Format.BINARY)
    assert loader is not None, column.type
    return loader(oid, None).load
