"""A Parquet file from COPY's csv text and back, value by value the same. Importing this needs pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from loadsheet.errors import Refused
from loadsheet.lake.arrow import from_csv, schema_of  # first: it says so when pyarrow is missing
from loadsheet.sql.copying import csv_header
from loadsheet.sql.parquet_types import REMEDY, unfit
from loadsheet.sql.types import Column

# isort: split
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

# Text gathered for a row group: what an encoder and a decoder hold, a few times over, within 160 MB of a worker.
_GROUP_BYTES = 2 << 20
_HEADLESS = pa_csv.WriteOptions(include_header=False, batch_size=16384)


class Encoder:
    """One Parquet file, zstd inside. Nothing but the row group at hand and what is compressed already is held.

    A field's metadata names its PostgreSQL type, the file's (`loadsheet`, JSON) all of them and the primary key.
    Raises Refused for a type that does not survive.
    """

    def __init__(self, columns: Sequence[Column], key: Sequence[str] = ()):
        if problems := unfit(columns):
            raise Refused("; ".join([*problems, REMEDY]))
        told = {"primary_key": list(key), "postgres_types": {c.name: c.type for c in columns}}
        self.rows = 0
        self._schema = schema_of(columns).with_metadata({"loadsheet": json.dumps(told, ensure_ascii=False)})
        self._stored = pa.BufferOutputStream()
        self._writer = pa_parquet.ParquetWriter(self._stored, self._schema, compression="zstd", compression_level=1)
        self._text: list[bytes] = []
        self._waiting = 0

    @property
    def size(self) -> int:
        """Bytes so far, without the row group at hand."""
        return int(self._stored.tell())

    def add(self, data: bytes) -> None:
        """Take whole rows as COPY sends them (csv, no header).

        Raises Refused, naming the column, for a value that Parquet cannot hold.
        """
        self._text.append(data)
        self._waiting += len(data)
        if self._waiting >= _GROUP_BYTES:
            self._write_group()

    def finish(self) -> bytes:
        """The complete file. Raises Refused as `add` does."""
        if self._waiting:
            self._write_group()
        self._writer.close()
        return bytes(self._stored.getvalue())

    def _write_group(self) -> None:
        group = from_csv(b"".join(self._text), self._schema.names, self._schema, f"correct it, {REMEDY}")
        self._text, self._waiting = [], 0
        self._writer.write_table(group)
        self.rows += group.num_rows


def decode(stored: bytes) -> Iterator[bytes]:
    """The csv of a file for `COPY … FROM STDIN (FORMAT csv, HEADER)`: the header first, then its rows in blocks."""
    file = pa_parquet.ParquetFile(pa.BufferReader(stored))
    yield csv_header(file.schema_arrow.names)
    for number in range(file.num_row_groups):
        group = file.read_row_group(number, use_threads=False)
        columns = [_shown(column) for column in group.columns]
        text = pa.BufferOutputStream()
        pa_csv.write_csv(pa.table(columns, names=group.column_names), text, _HEADLESS)
        yield bytes(text.getvalue())


def _shown(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """As COPY reads it, in a session whose TimeZone is UTC."""
    if pa.types.is_binary(column.type):
        return pa.array([v if v is None else "\\x" + v.hex() for v in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(column.type) and column.type.tz:
        # The same moments without the zone's name: writing them with it took 20 times as long.
        return column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    return column
