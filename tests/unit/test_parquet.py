"""A Parquet part: csv as COPY writes it goes in, the same values come out, and what cannot is
refused by name."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadsheet.errors import Refused
from loadsheet.lake import parquet
from loadsheet.lake.parquet import Encoder, decode
from loadsheet.sql.types import Column, parquet_kind, unfit
from tests.imports import imported_by

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_DAYS = st.dates(date(1, 1, 1), date(9999, 12, 31))
# A type, its values, and how PostgreSQL writes one (None: as `str` does).
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "text": _TEXT,
    "character varying(20)": _TEXT,
    "jsonb": _TEXT,
    "bytea": st.binary(),
    "boolean": st.booleans(),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "double precision": st.floats(),
    "real": st.floats(width=32),
    "numeric(38,7)": st.decimals(places=7, min_value=-(10**30), max_value=10**30, allow_nan=False),
    "date": _DAYS,
    "timestamp without time zone": st.datetimes(),
    "time without time zone": st.times(),
    "timestamp(3) with time zone": st.datetimes(timezones=st.just(UTC)),
}
ROWS = st.lists(st.tuples(*(st.none() | values for values in COLUMNS.values())), max_size=20)


def columns(*types: str) -> list[Column]:
    return [Column(name=f"c{i} \"ü'", attnum=i, source_type=t, type=t) for i, t in enumerate(types)]


def encoded(given_columns: list[Column], *blocks: bytes) -> bytes:
    encoder = Encoder(given_columns)
    for block in blocks:
        encoder.add(block)
    return encoder.finish()


def as_copy_writes(value: Any) -> str:
    """A csv field: nothing for NULL, quotes where COPY has them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, float):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(
            value, "NaN" if value != value else repr(value)
        )
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime):
        return value.isoformat(" ").replace("+00:00", "+00")
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return (
        '"' + text.replace('"', '""') + '"' if text == "" or re.search(r'[",\r\n]', text) else text
    )


def fields(text: str) -> Iterator[list[str | None]]:
    """The rows of csv by PostgreSQL's rules: what is empty is NULL unless it is quoted."""
    for line in re.finditer(r'((?:"(?:[^"]|"")*"|[^"\n])*)\n', text):
        found = re.findall(r'(?:^|,)("(?:[^"]|"")*"|[^,"]*)', line[1])
        yield [None if f == "" else f[1:-1].replace('""', '"') if f[0] == '"' else f for f in found]


def as_value(text: str | None, type_name: str) -> Any:
    if text is None or type_name in ("text", "character varying(20)", "jsonb", "bytea"):
        return text
    # the same bits: of NaN there is one, of zero there are two
    if type_name in ("double precision", "real"):
        return struct.pack("d" if type_name != "real" else "f", float(text))
    if type_name.startswith("timestamp"):
        moment = datetime.fromisoformat(text)  # without a zone: the session's, which is UTC
        return moment.replace(tzinfo=UTC) if type_name.endswith("with time zone") else moment
    if type_name.startswith("time "):
        return time.fromisoformat(text)
    return (
        Decimal(text)
        if type_name.startswith("numeric")
        else {"t": "true", "f": "false"}.get(text, text)
    )


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_any_rows_come_back(rows: list[tuple[Any, ...]]) -> None:
    blocks = [(",".join(map(as_copy_writes, row)) + "\n").encode() for row in rows]
    header, *back = decode(encoded(columns(*COLUMNS), *blocks))
    assert (
        header.decode()
        == ",".join('"' + c.name.replace('"', '""') + '"' for c in columns(*COLUMNS)) + "\n"
    )
    sent, came = (
        [
            [as_value(field, t) for field, t in zip(row, COLUMNS, strict=True)]
            for row in fields(b"".join(text).decode())
        ]
        for text in (blocks, back)
    )
    assert len(sent) == len(rows)
    assert came == sent


@given(st.lists(st.none() | _TEXT))
@settings(deadline=None, max_examples=60)
def test_a_single_column_tells_null_from_empty(values: list[str | None]) -> None:
    text = "".join(as_copy_writes(value) + "\n" for value in values)
    back = b"".join(list(decode(encoded(columns("text"), text.encode())))[1:])
    assert [row[0] for row in fields(back.decode())] == values


def test_a_table_without_rows_is_a_file_with_a_header() -> None:
    assert list(decode(encoded(columns("integer", "text")))) == ['"c0 ""ü\'","c1 ""ü\'"\n'.encode()]


def test_rows_are_written_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1000)
    encoder = Encoder(columns("integer"))
    sizes = []
    for number in range(1000):
        encoder.add(b"%d\n" % number)
        sizes.append(encoder.size)
    stored = encoder.finish()
    file = pyarrow.parquet.ParquetFile(pa.BufferReader(stored))
    assert (encoder.rows, file.metadata.num_rows) == (1000, 1000)
    assert file.num_row_groups >= 3 and sorted(set(sizes))[-1] > sizes[0]
    assert b"".join(list(decode(stored))[1:]) == b"".join(
        b"%d\n" % number for number in range(1000)
    )


def test_the_file_says_what_postgresql_called_its_types_and_the_key() -> None:
    encoder = Encoder(columns("numeric(10,2)", "uuid"), key=("c0 \"ü'",))
    schema = pyarrow.parquet.read_schema(pa.BufferReader(encoder.finish()))
    assert [str(t) for t in schema.types] == ["decimal128(10, 2)", "string"]
    assert schema.field(1).metadata[b"postgres_type"] == b"uuid"
    told = json.loads(schema.metadata[b"loadsheet"])
    assert told["primary_key"] == ["c0 \"ü'"] and list(told["postgres_types"].values()) == [
        "numeric(10,2)",
        "uuid",
    ]


@pytest.mark.parametrize(
    ("type_name", "value", "limit"),
    [
        ("date", "infinity", "infinity, BC, or a year above 9999"),
        ("date", "0044-03-15 BC", "infinity, BC"),
        ("timestamp without time zone", "-infinity", "infinity, BC"),
        ("timestamp(0) with time zone", "10000-01-01 00:00:00+00", "a year above 9999"),
        ("time without time zone", "24:00:00", "24:00"),
        ("numeric(10,2)", "NaN", "NaN or infinity"),
    ],
)
def test_a_value_without_room_is_refused_by_its_columns_name(
    type_name: str, value: str, limit: str
) -> None:
    with pytest.raises(Refused) as refused:
        encoded(columns("integer", type_name), f"1,\n2,{value}\n".encode())
    assert f"column c1 \"ü' ({type_name}) has a value that Parquet cannot hold: " in str(
        refused.value
    )
    assert limit in str(refused.value)


def test_a_refusal_does_not_show_the_value() -> None:
    with pytest.raises(Refused) as refused:
        encoded(columns("date"), b"secret\n")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "type_name", ["numeric", "numeric(39,0)", "numeric(38,-1)", "money", "text[]", "int2vector"]
)
def test_a_type_that_does_not_survive_is_refused_with_its_reason(type_name: str) -> None:
    assert isinstance(parquet_kind(type_name), str)
    with pytest.raises(
        Refused, match=re.escape(f"({type_name}) does not survive in Parquet, because ")
    ):
        Encoder(columns("integer", type_name))
    assert len(unfit(columns(type_name, "text", type_name))) == 2


@pytest.mark.parametrize(
    ("type_name", "expected"),
    [
        ("numeric(3,5)", ("decimal128", 5, 5)),
        ("numeric(3,-2)", ("decimal128", 5, 0)),
        ("oid", ("int64",)),
        ("timestamp(3) with time zone", ("timestamp", "us", "UTC")),
        ("time with time zone", ("string",)),
        ("character(3)", ("string",)),
        ("interval", ("string",)),
        ("inet", ("string",)),
        ("uuid", ("string",)),
    ],
)
def test_a_type_travels_as_its_like(type_name: str, expected: tuple[Any, ...]) -> None:
    assert parquet_kind(type_name) == expected


def test_pyarrow_guessing_by_itself_loses_values() -> None:
    """The control: without the columns' types, and told nothing of NULL, the library changes what
    it reads."""
    text = b'007,"",t\n'
    guessed = pyarrow.csv.read_csv(
        pa.BufferReader(text), pyarrow.csv.ReadOptions(column_names=["a", "b", "c"])
    )
    assert guessed.to_pylist() == [{"a": 7, "b": None, "c": "t"}]
    assert (
        b"".join(list(decode(encoded(columns("text", "text", "boolean"), text)))[1:])
        == b'"007","",true\n'
    )


def test_nothing_imports_pyarrow_before_it_is_needed() -> None:
    assert "pyarrow" not in imported_by(
        "loadsheet.cli.main", "loadsheet.engine.runner", "loadsheet.engine.extract"
    )


def test_where_pyarrow_is_missing_the_message_says_what_to_install() -> None:
    without = "import sys; sys.modules['pyarrow'] = None; import loadsheet.lake.parquet"
    assert "InputError: pyarrow is not installed" in imported_by(code=without)
