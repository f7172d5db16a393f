"""Parts as Parquet files: COPY's csv to Arrow to Parquet, and back. Needs pyarrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from loadsheet.errors import Corrupt, InputError, LoadsheetError, Refused
from loadsheet.sql.copying import csv_header
from loadsheet.sql.types import REMEDY, TEXT, Column, parquet_kind, unfit
from loadsheet.wording import counted

try:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet
except ImportError as missing:
    raise InputError(
        "pyarrow is not installed, the extra loadsheet[parquet]: pip install -r"
        " requirements/parquet.txt"
    ) from missing

# Csv text per row group. An encoder and a decoder hold a few times as much, within the 160 MB of a
# worker.
_GROUP_BYTES = 2 << 20
_NO_HEADER = pa_csv.WriteOptions(include_header=False, batch_size=16384)
_LINES = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
_LARGEST_BLOCK = 2**31 - 1
# pyarrow drops a byte order mark at the start of its input, even when it belongs to the first
# value. Putting another one in front of it saves the value.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What Arrow's types cannot hold of PostgreSQL's.
_LIMITS = {
    "timestamp": "infinity, BC, or a year above 9999",
    "date32": "infinity, BC, or a year above 9999",
    "time64": "24:00",
    "decimal128": "NaN or infinity",
    "string": "it is not UTF-8",
}

# Arrow's own pool keeps freed memory; the system's allocator returns blocks of megabytes
# (`parts.return_large_blocks`).
pa.set_memory_pool(pa.system_memory_pool())


class Encoder:
    """One Parquet file, compressed by zstd. Holds only the current row group and the compressed
    ones.

    The metadata of a field names its PostgreSQL type; the metadata of the file (`loadsheet`, JSON)
    lists all types and the primary key. Raises Refused for a type that Parquet cannot hold.
    """

    def __init__(self, columns: Sequence[Column], key: Sequence[str] = ()):
        problems = unfit(columns)
        if problems:
            raise Refused("; ".join([*problems, REMEDY]))
        types = {column.name: column.type for column in columns}
        metadata = {"primary_key": list(key), "postgres_types": types}
        self.rows = 0
        self.content_bytes = None
        """Read by groups of rows, which are small."""
        self._schema = schema_of(columns).with_metadata(
            {"loadsheet": json.dumps(metadata, ensure_ascii=False)}
        )
        self._stored = pa.BufferOutputStream()
        self._writer = pa_parquet.ParquetWriter(
            self._stored, self._schema, compression="zstd", compression_level=1
        )
        self._text: list[bytes] = []
        self._waiting = 0

    @property
    def size(self) -> int:
        """Stored bytes so far, without the current row group."""
        return int(self._stored.tell())

    def add(self, data: bytes) -> None:
        """Add whole rows as COPY sends them (csv, no header).

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
        text = b"".join(self._text)
        group = from_csv(text, self._schema.names, self._schema, f"correct it, {REMEDY}")
        self._text = []
        self._waiting = 0
        self._writer.write_table(group)
        self.rows += group.num_rows


def decode(stored: bytes) -> Iterator[bytes]:
    """The csv of a Parquet file for `COPY … FROM STDIN (FORMAT csv, HEADER)`: the header, then its
    rows in blocks."""
    file = pa_parquet.ParquetFile(pa.BufferReader(stored))
    yield csv_header(file.schema_arrow.names)
    for number in range(file.num_row_groups):
        group = file.read_row_group(number, use_threads=False)
        columns = [_as_copy_text(column) for column in group.columns]
        text = pa.BufferOutputStream()
        pa_csv.write_csv(pa.table(columns, names=group.column_names), text, _NO_HEADER)
        yield bytes(text.getvalue())


def _as_copy_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The column in a form that becomes csv for COPY, in a session whose TimeZone is UTC."""
    if pa.types.is_binary(column.type):
        return pa.array(map(_to_hex, column.to_pylist()), pa.string())
    if pa.types.is_timestamp(column.type) and column.type.tz:
        # The same moments without a zone: writing the zone's name took 20 times as long.
        return column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    return column


def _to_hex(value: bytes | None) -> str | None:
    return None if value is None else "\\x" + value.hex()


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow types of the columns; text where Arrow cannot hold the values exactly. The metadata
    of a field names its PostgreSQL type."""
    fields = []
    for column in columns:
        arrow_kind = parquet_kind(column.type)
        name, *arguments = TEXT if isinstance(arrow_kind, str) else arrow_kind
        arrow_type = getattr(pa, str(name))(*arguments)
        metadata = {"postgres_type": column.type}
        fields.append(pa.field(column.name, arrow_type, metadata=metadata))
    return pa.schema(fields)


def from_csv(text: bytes, names: Sequence[str], schema: pa.Schema, remedy: str) -> pa.Table:
    """COPY's csv (no header, whole rows of the columns `names`) as a table with `schema`, which may
    lack some of these columns.

    Raises Refused, with the column and the `remedy`, for a value that its type cannot hold.
    """
    types = {field.name: field.type for field in schema}
    for name, arrow in types.items():
        if pa.types.is_binary(arrow):
            types[name] = pa.string()
    # Read in one block: no row may be longer than a block.
    block_size = min(len(text) + len(_BYTE_ORDER_MARK) + 1, _LARGEST_BLOCK)
    reading = pa_csv.ReadOptions(column_names=list(names), use_threads=False, block_size=block_size)
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
        data = pa.BufferReader(_BYTE_ORDER_MARK + text)
        table = pa_csv.read_csv(data, reading, _LINES, converting)
    except pa.ArrowInvalid as error:
        raise _refusal(error, names, schema, remedy) from None
    columns = []
    for column, field in zip(table.columns, schema, strict=True):
        if pa.types.is_binary(field.type):
            column = pa.array(map(_from_hex, column.to_pylist()), field.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _from_hex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text[2:])


def _refusal(
    error: pa.ArrowInvalid, names: Sequence[str], schema: pa.Schema, remedy: str
) -> LoadsheetError:
    """Arrow's error in our words, without the value: it may be secret."""
    match = re.match(r"In CSV column #(\d+)", str(error))
    if not match:
        return Corrupt(f"the csv does not have {counted(len(names), 'column')} in every row")
    field = schema.field(names[int(match[1])])
    arrow_name = re.match(r"\w+", str(field.type))
    limit = _LIMITS.get(arrow_name[0] if arrow_name else "", "out of range")
    type_name = field.metadata[b"postgres_type"].decode()
    return Refused(
        f"column {field.name} ({type_name}) has a value that Parquet cannot hold: {limit}; {remedy}"
    )
