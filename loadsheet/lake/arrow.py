"""COPY's csv as an Arrow table with exactly its values. Importing this needs pyarrow."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loadsheet.errors import Corrupt, InputError, LoadsheetError, Refused
from loadsheet.sql.parquet_types import TEXT, kind
from loadsheet.sql.types import Column

try:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
except ImportError as missing:
    raise InputError(
        "pyarrow is not installed, the extra loadsheet[parquet]: pip install -r requirements/parquet.txt"
    ) from missing

# Arrow's own pool keeps what is freed; the system's gives blocks of megabytes back (`lake.memory`).
pa.set_memory_pool(pa.system_memory_pool())
# pyarrow leaves out a byte order mark at the start of what it reads, be it the first value's own.
_MARK = b"\xef\xbb\xbf"
_LINES = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
_LARGEST_BLOCK = 2**31 - 1


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """The columns as Arrow holds them: as text where their type does not survive. A field's metadata names its
    PostgreSQL type."""
    return pa.schema([_field(column) for column in columns])


def from_csv(text: bytes, names: Sequence[str], schema: pa.Schema, remedy: str) -> pa.Table:
    """COPY's csv (no header, whole rows of the columns `names`) as a table with `schema`, which may have fewer.

    Raises Refused, naming the column and saying `remedy`, for a value that its type cannot hold.
    """
    types = {field.name: pa.string() if pa.types.is_binary(field.type) else field.type for field in schema}
    # One block: what is cut by blocks may not be larger than one.
    block = min(len(text) + len(_MARK) + 1, _LARGEST_BLOCK)
    reading = pa_csv.ReadOptions(column_names=list(names), use_threads=False, block_size=block)
    converting = pa_csv.ConvertOptions(
        column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
        true_values=["t"], false_values=["f"], include_columns=schema.names,
    )  # fmt: skip
    try:
        table = pa_csv.read_csv(pa.BufferReader(_MARK + text), reading, _LINES, converting)
    except pa.ArrowInvalid as error:
        raise _refusal(error, names, schema, remedy) from None
    return pa.table([_typed(c, f.type) for c, f in zip(table.columns, schema, strict=True)], schema=schema)


def _field(column: Column) -> pa.Field:
    known = kind(column.type)
    name, *arguments = TEXT if isinstance(known, str) else known
    return pa.field(column.name, getattr(pa, str(name))(*arguments), metadata={"postgres_type": column.type})


def _typed(column: pa.ChunkedArray, arrow: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if not pa.types.is_binary(arrow):
        return column
    return pa.array([v if v is None else bytes.fromhex(v[2:]) for v in column.to_pylist()], arrow)


_LIMITS = {
    "timestamp": "infinity, BC, or a year above 9999",
    "date32": "infinity, BC, or a year above 9999",
    "time64": "24:00",
    "decimal128": "NaN or infinity",
    "string": "it is not UTF-8",
}


def _refusal(error: pa.ArrowInvalid, names: Sequence[str], schema: pa.Schema, remedy: str) -> LoadsheetError:
    """What Arrow says, without the value: it may be anybody's secret."""
    found = re.match(r"In CSV column #(\d+)", str(error))
    if not found:
        return Corrupt(f"the csv does not have {len(names)} columns in every row")
    field = schema.field(names[int(found[1])])
    limit = next((text for name, text in _LIMITS.items() if str(field.type).startswith(name)), "out of range")
    type_name = field.metadata[b"postgres_type"].decode()
    return Refused(f"column {field.name} ({type_name}) holds a value that Parquet cannot: {limit}; {remedy}")
