"""A load read back as an Arrow table, whatever its format. Importing this needs pyarrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

from loadsheet.errors import Corrupt, InputError
from loadsheet.lake import rows
from loadsheet.lake.arrow import from_csv, schema_of
from loadsheet.lake.manifest import Manifest, Part, read_manifest
from loadsheet.sql.copying import csv_header

# isort: split
import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pa_parquet

_REMEDY = "leave it out (columns=[...])"


def read_load(
    manifest: str | Path, columns: Iterable[str] | None = None, filesystem: pa_fs.FileSystem | None = None
) -> pa.Table:
    """The rows that a manifest stands for, as one table: the whole of it is held in memory.

    `manifest` is a path, or a URI such as `s3://bucket/shop/orders/…/manifest.json` (with `filesystem`: a path in
    it); its parts lie beside it. `columns` picks columns by name. Types are those of Parquet; what does not survive
    there is the text PostgreSQL shows.

    Raises Corrupt for objects that are missing or not as the manifest says, Refused for a value or a type that cannot
    be read, InputError for a column the load does not have.
    """
    files, path = (filesystem, str(manifest)) if filesystem else _place(manifest)
    stored = _fetch(files, path)
    told = read_manifest(stored, path, hashlib.sha256(stored).hexdigest())
    known = {column.name: column for column in told.columns}
    names = list(known if columns is None else columns)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{told.table} has no column {unknown[0]!r}; it has {', '.join(known)}")
    folder = path.rpartition("/")[0]
    tables = [table for part in told.parts for table in _tables(files, folder, part, told, names)]
    return pa.concat_tables(tables) if tables else schema_of([known[name] for name in names]).empty_table()


def _place(manifest: str | Path) -> tuple[pa_fs.FileSystem, str]:
    text = str(manifest)
    return pa_fs.FileSystem.from_uri(text if "://" in text else str(Path(text).resolve()))  # type: ignore[no-any-return]


def _fetch(files: pa_fs.FileSystem, path: str) -> bytes:
    try:
        with files.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is not there") from error


def _tables(files: pa_fs.FileSystem, folder: str, part: Part, told: Manifest, names: list[str]) -> Iterator[pa.Table]:
    path = f"{folder}/{part.name.rpartition('/')[2]}"
    stored = _fetch(files, path)
    if hashlib.sha256(stored).hexdigest() != part.sha256:
        raise Corrupt(f"{path} is not what its manifest says")
    if told.format == "parquet":
        yield pa_parquet.read_table(pa.BufferReader(stored), columns=names).replace_schema_metadata(None)
        return
    copied = b"".join(zstandard.ZstdDecompressor().read_to_iter(stored))
    if told.format == "binary":
        yield pa.Table.from_batches(rows.batches(copied, told.columns, names))
    else:
        every = [column.name for column in told.columns]
        wanted = [column for name in names for column in told.columns if column.name == name]
        yield from_csv(copied[len(csv_header(every)) :], every, schema_of(wanted), _REMEDY)
