"""Reads a load in the lake back as an Arrow table."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# First: it reports a missing pyarrow as an InputError.
from loadsheet.lake.parquet import from_csv, schema_of

# isort: split

import psycopg
import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pa_parquet
import zstandard
from psycopg import adapters
from psycopg.pq import Format

from loadsheet.errors import Corrupt, InputError, Refused
from loadsheet.lake.manifest import Manifest, Part, read_manifest
from loadsheet.lake.postgres_text import shown
from loadsheet.sql.copying import BINARY_HEADER, csv_header
from loadsheet.sql.types import TEXT, Column, kind, without_modifier

_REMEDY = "leave it out (columns=[...])"


def read_load(
    manifest: str | Path,
    columns: Iterable[str] | None = None,
    filesystem: pa_fs.FileSystem | None = None,
) -> pa.Table:
    """The rows that a manifest stands for, as one table: the whole of it is held in memory.

    `manifest` is a path, or a URI such as `s3://bucket/shop/orders/…/manifest.json` (with
    `filesystem`: a path in it); its parts lie beside it. `columns` picks columns by name. Types are
    those of Parquet; what does not survive there is the text PostgreSQL shows.

    Raises Corrupt for objects that are missing or not as the manifest says, Refused for a value or
    a type that cannot be read, InputError for a column the load does not have.
    """
    if filesystem:
        files, path = filesystem, str(manifest)
    else:
        files, path = _place(manifest)
    stored = _fetch(files, path)
    told = read_manifest(stored, path, hashlib.sha256(stored).hexdigest())
    known = {column.name: column for column in told.columns}
    names = list(known if columns is None else columns)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"{told.table} has no column {unknown[0]!r}; it has {', '.join(known)}")
    folder = path.rpartition("/")[0]
    tables: list[pa.Table] = []
    for part in told.parts:
        tables += _tables(files, folder, part, told, names)
    if not tables:
        return schema_of([known[name] for name in names]).empty_table()
    return pa.concat_tables(tables)


def _place(manifest: str | Path) -> tuple[pa_fs.FileSystem, str]:
    text = str(manifest)
    return pa_fs.FileSystem.from_uri(text if "://" in text else str(Path(text).resolve()))  # type: ignore[no-any-return]


def _fetch(files: pa_fs.FileSystem, path: str) -> bytes:
    try:
        with files.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is not there") from error


def _tables(
    files: pa_fs.FileSystem, folder: str, part: Part, told: Manifest, names: list[str]
) -> Iterator[pa.Table]:
    path = f"{folder}/{part.name.rpartition('/')[2]}"
    stored = _fetch(files, path)
    if hashlib.sha256(stored).hexdigest() != part.sha256:
        raise Corrupt(f"{path} is not what its manifest says")
    if told.format == "parquet":
        yield pa_parquet.read_table(pa.BufferReader(stored), columns=names).replace_schema_metadata(
            None
        )
        return
    copied = b"".join(zstandard.ZstdDecompressor().read_to_iter(stored))
    if told.format == "binary":
        yield pa.Table.from_batches(batches(copied, told.columns, names))
    else:
        every = [column.name for column in told.columns]
        wanted = [column for name in names for column in told.columns if column.name == name]
        yield from_csv(copied[len(csv_header(every)) :], every, schema_of(wanted), _REMEDY)


Values = list[bytes | None]
# Rows turned into columns at a time: enough for Arrow to be cheap, few enough to be small.
_ROWS = 65_536


def batches(
    copied: bytes, columns: Sequence[Column], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Batches of the columns called `names` of a complete binary COPY file with these `columns`.

    Raises Refused, naming the column, for a type whose binary form is not read here, or a value
    Arrow's type cannot hold; Corrupt when the file ends before its end.
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


def _array(
    values: Values, column: Column, load: Callable[[bytes], Any], arrow: pa.DataType
) -> pa.Array:

    def loaded(value: bytes | None) -> Any:
        return None if value is None else load(value)

    try:
        return pa.array(map(loaded, values), arrow)
    except (psycopg.DataError, pa.ArrowInvalid, ValueError):
        raise Refused(
            f"column {column.name} ({column.type}) holds a value that Arrow cannot, such as"
            " infinity, BC or NaN: leave it out (columns=[...]), or read it from a load in csv"
        ) from None


def _loader(column: Column) -> Callable[[bytes], Any]:
    """psycopg's where Arrow has the type; else what PostgreSQL would show."""
    known = kind(column.type)
    if isinstance(known, str) or known == TEXT:
        show = shown(column.type)
        if show is None:
            raise Refused(
                f"column {column.name} ({column.type}) is not read back from a binary load: leave"
                " it out (columns=[...]), or set lake.format: csv"
            )
        return show
    oid = adapters.types[without_modifier(column.type)].oid
    loader = adapters.get_loader(oid, Format.BINARY)
    assert loader is not None, column.type
    return loader(oid, None).load
