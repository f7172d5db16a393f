"""Parts as Parquet files, by way of Arrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from loadsheet.errors import Corrupt, InputError, LoadsheetError, Refused
from loadsheet.sql.copying import csv_header
from loadsheet.sql.types import REMEDY, TEXT, Column, kind, unfit

try:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet
except ImportError as missing:
    raise InputError(
        "pyarrow is not installed, the extra loadsheet[parquet]: pip install -r"
        " requirements/parquet.txt"
    ) from missing

# Text gathered for a row group: what an encoder and a decoder hold, a few times over, within 160 MB
# of a worker.
_GROUP_BYTES = 2 << 20
_HEADLESS = pa_csv.WriteOptions(include_header=False, batch_size=16384)


class Encoder:
    """One Parquet file, zstd inside. Nothing but the row group at hand and what is compressed
    already is held.

    A field's metadata names its PostgreSQL type, the file's (`loadsheet`, JSON) all of them and the
    primary key. Raises Refused for a type that does not survive.
    """

    def __init__(self, columns: Sequence[Column], key: Sequence[str] = ()):
        if problems := unfit(columns):
            raise Refused("; ".join([*problems, REMEDY]))
        told = {"primary_key": list(key), "postgres_types": {c.name: c.type for c in columns}}
        self.rows = 0
        self._schema = schema_of(columns).with_metadata(
            {"loadsheet": json.dumps(told, ensure_ascii=False)}
        )
        self._stored = pa.BufferOutputStream()
        self._writer = pa_parquet.ParquetWriter(
            self._stored, self._schema, compression="zstd", compression_level=1
        )
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
        group = from_csv(
            b"".join(self._text), self._schema.names, self._schema, f"correct it, {REMEDY}"
        )
        self._text, self._waiting = [], 0
        self._writer.write_table(group)
        self.rows += group.num_rows


def decode(stored: bytes) -> Iterator[bytes]:
    """The csv of a file for `COPY … FROM STDIN (FORMAT csv, HEADER)`: the header first, then its
    rows in blocks."""
    file = pa_parquet.ParquetFile(pa.BufferReader(stored))
    yield csv_header(file.schema_arrow.names)
    for number in range(file.num_row_groups):
        group = file.read_row_group(number, use_threads=False)
        columns = [_shown(column) for column in group.columns]
        text = pa.BufferOutputStream()
        pa_csv.write_csv(pa.table(columns, names=group.column_names), text, _HEADLESS)
        yield bytes(text.getvalue())


def _hex(value: bytes | None) -> str | None:
    return None if value is None else "\\x" + value.hex()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text[2:])


def _shown(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """As COPY reads it, in a session whose TimeZone is UTC."""
    if pa.types.is_binary(column.type):
        return pa.array(map(_hex, column.to_pylist()), pa.string())
    if pa.types.is_timestamp(column.type) and column.type.tz:
        # The same moments without the zone's name: writing them with it took 20 times as long.
        return column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    return column


# Arrow's own pool keeps what is freed; the system's returns large blocks (`lake.parts`).
pa.set_memory_pool(pa.system_memory_pool())
# pyarrow leaves out a byte order mark at the start of what it reads, be it the first value's own.
_MARK = b"\xef\xbb\xbf"
_LINES = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
_LARGEST_BLOCK = 2**31 - 1


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """The columns as Arrow holds them: as text where their type does not survive. A field's
    metadata names its PostgreSQL type."""
    return pa.schema([_field(column) for column in columns])


def from_csv(text: bytes, names: Sequence[str], schema: pa.Schema, remedy: str) -> pa.Table:
    """COPY's csv (no header, whole rows of the columns `names`) as a table with `schema`, which may
    have fewer.

    Raises Refused, naming the column and saying `remedy`, for a value that its type cannot hold.
    """
    types = {field.name: field.type for field in schema}
    for name, arrow in types.items():
        if pa.types.is_binary(arrow):
            types[name] = pa.string()
    # One block: what is cut by blocks may not be larger than one.
    block = min(len(text) + len(_MARK) + 1, _LARGEST_BLOCK)
    reading = pa_csv.ReadOptions(column_names=list(names), use_threads=False, block_size=block)
    converting = pa_csv.ConvertOptions(
        column_types=types,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["t"],
        false_values=["f"],
        include_columns=schema.names,
    )
    try:
        table = pa_csv.read_csv(pa.BufferReader(_MARK + text), reading, _LINES, converting)
    except pa.ArrowInvalid as error:
        raise _refusal(error, names, schema, remedy) from None
    return pa.table(
        [_typed(c, f.type) for c, f in zip(table.columns, schema, strict=True)], schema=schema
    )


def _field(column: Column) -> pa.Field:
    known = kind(column.type)
    name, *arguments = TEXT if isinstance(known, str) else known
    return pa.field(
        column.name, getattr(pa, str(name))(*arguments), metadata={"postgres_type": column.type}
    )


def _typed(column: pa.ChunkedArray, arrow: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if not pa.types.is_binary(arrow):
        return column
    return pa.array(map(_bytes, column.to_pylist()), arrow)


_LIMITS = {
    "timestamp": "infinity, BC, or a year above 9999",
    "date32": "infinity, BC, or a year above 9999",
    "time64": "24:00",
    "decimal128": "NaN or infinity",
    "string": "it is not UTF-8",
}


def _refusal(
    error: pa.ArrowInvalid, names: Sequence[str], schema: pa.Schema, remedy: str
) -> LoadsheetError:
    """What Arrow says, without the value: it may be anybody's secret."""
    found = re.match(r"In CSV column #(\d+)", str(error))
    if not found:
        return Corrupt(f"the csv does not have {len(names)} columns in every row")
    field = schema.field(names[int(found[1])])
    limit = next(
        (text for name, text in _LIMITS.items() if str(field.type).startswith(name)), "out of range"
    )
    type_name = field.metadata[b"postgres_type"].decode()
    return Refused(
        f"column {field.name} ({type_name}) holds a value that Parquet cannot: {limit}; {remedy}"
    )
