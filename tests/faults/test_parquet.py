"""Parquet: a hard value comes back letter by letter, or it is refused with its column's name before
it is stored."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from loadsheet.errors import Refused
from loadsheet.lake import postgres_text
from loadsheet.lake.frame import batches
from loadsheet.lake.parquet import Encoder, decode, from_csv, schema_of
from loadsheet.postgres import Session, connect_source, connect_warehouse
from loadsheet.source import catalog
from loadsheet.spec.models import Table
from loadsheet.sql.copying import (
    BINARY_HEADER,
    BINARY_TRAILER,
    WireFormat,
    copy_in,
    copy_out,
    select_columns,
)
from loadsheet.sql.extensions import Offered
from loadsheet.sql.text import Relation, ident
from loadsheet.sql.types import Column, unfit
from tests.faults.fidelity import look, opened, seen, silent
from tests.faults.hard_values import HARD, TYPES, Hard
from tests.faults.oracle import Verdict
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.faults.test_types import XML
from tests.project import Project

# What Parquet has no room for, as a type or as a value.
TYPES_REFUSED = {"numeric", "numeric(1000, 500)", "money", "ints", "int2vector", "oidvector"}
VALUES_REFUSED = {
    *("timestamptz infinity", "timestamptz BC", "timestamptz last"),
    *("timestamp infinity", "timestamp BC", "timestamp last"),
    *("date infinity", "date last", "date BC", "time 24:00"),
}
TABLE = Relation("public", "hard")


@pytest.fixture
def hard(project: Project) -> Project:
    """Every hard value in a column of its own: the value, NULL, a near one, the value."""
    project.in_source(XML)
    project.in_source(TYPES)
    project.in_source(
        f"CREATE TABLE hard (id int, {', '.join(f'{ident(h.name)} {h.type}' for h in HARD)})"
    )
    picks: tuple[Callable[[Hard], str], ...] = (
        lambda h: h.value,
        lambda h: "NULL" if h.nullable else h.near,
        lambda h: h.near,
        lambda h: h.value,
    )
    for number, pick in enumerate(picks, 1):
        project.in_source(f"INSERT INTO hard VALUES ({number}, {', '.join(map(pick, HARD))})")
    project.in_source(f"GRANT SELECT ON hard TO {project.extractor}")
    project.in_warehouse(f"GRANT CREATE ON SCHEMA public TO {project.loader}")
    return project


def test_every_hard_value_comes_back_or_is_refused(
    hard: Project, ends: Ends, tally: Callable[[str], Tally]
) -> None:
    problems, types, values = [], set(), set()
    for value, columns, rows in _extracted(hard):
        if unfit(columns):
            types.add(value.type)
            continue
        try:
            encoder = Encoder(columns)
            encoder.add(rows)
            stored = encoder.finish()
        except Refused as refused:
            assert f"column {value.name} (" in str(refused)
            values.add(value.name)
            continue
        problems += _differences(ends, value, columns, decode(stored))
    assert not problems, "\n".join(problems)
    assert {t for t in types if not t.endswith("[]")} == TYPES_REFUSED
    assert {h.type for h in HARD if h.type.endswith("[]")} <= types
    assert values == VALUES_REFUSED
    tally("hard values, in Parquet").add(Verdict(rows=0, lost=0), tried=len(HARD))


def test_as_arrow_reads_csv_by_itself_values_change_silently(
    hard: Project, ends: Ends, tally: Callable[[str], Tally]
) -> None:
    """The control: the same library, left to guess."""
    changed = set()
    for value, columns, rows in _extracted(hard):
        try:
            stored = pa.BufferOutputStream()
            names = pyarrow.csv.ReadOptions(
                column_names=[c.name for c in columns], block_size=1 << 30
            )
            guessed = pyarrow.csv.read_csv(pa.BufferReader(rows), names)
            pyarrow.parquet.write_table(guessed, stored)
            if _differences(ends, value, columns, decode(bytes(stored.getvalue()))):
                changed.add(value.name)
        except (pa.ArrowException, psycopg.DataError):
            continue
    tally("hard values, in Parquet").control(
        f"types guessed: {len(changed)} of {len(HARD)} changed silently"
    )
    assert len(changed) >= 15


# Their binary form is not read; `auto` takes csv for them.
NOT_READ = {"tsvector", "tsvector empty", "tsquery"}


def test_a_binary_load_reads_as_the_same_load_in_csv(
    hard: Project, tally: Callable[[str], Tally]
) -> None:
    """What csv reads is the server's own text: it says what the binary form means."""
    problems, refused = [], set()
    csvs, binaries = _extracted(hard), _extracted(hard, "binary")
    for (value, columns, text), (_, _, copied) in zip(csvs, binaries, strict=True):
        found = {"csv": _read_csv(text, columns), "binary": _read_binary(copied, columns)}
        if any(isinstance(table, Refused) for table in found.values()):
            refused.add(value.name)
        if not _same(*found.values()) and value.name not in NOT_READ:
            problems.append(f"{value.name} ({columns[-1].type}): {found}")
    assert not problems, "\n".join(problems)
    assert refused == VALUES_REFUSED | NOT_READ
    tally("hard values, read back from binary").add(Verdict(rows=0, lost=0), tried=len(HARD))


# A type, and bytes that its receive function takes.
BYTES: dict[str, Callable[[random.Random], bytes]] = {
    "float8": lambda r: r.randbytes(8),
    "float4": lambda r: r.randbytes(4),
    "uuid": lambda r: r.randbytes(16),
    "date": lambda r: r.randint(-2451545, 2145031948).to_bytes(4, signed=True),
    "timestamp": (
        lambda r: r.randint(-211813488 * 10**9, 9223371331199999999).to_bytes(8, signed=True)
    ),
    "timestamptz": lambda r: r.randint(-(10**17), 10**17).to_bytes(8, signed=True),
    "interval": lambda r: struct.pack(
        ">qii", r.randint(-(10**15), 10**6), *r.sample(range(-40, 40), 2)
    ),
    "timetz": lambda r: struct.pack(">qi", r.randint(0, 86400 * 10**6), r.randint(-57599, 57599)),
    "line": lambda r: struct.pack(">ddd", 1, 2**53 + r.randint(0, 2**20), r.randint(2**53, 2**60)),
    "inet": lambda r: (
        bytes([3, r.randint(0, 128), 0, 16]) + bytes(r.choices([0, 0, 0, 1, 255], k=16))
    ),
    "point": lambda r: struct.pack(
        ">dd", r.uniform(-1, 1) * 10.0 ** r.randint(-30, 30), r.randint(-(10**17), 10**17)
    ),
    "macaddr": lambda r: r.randbytes(6),
    "money": lambda r: r.randbytes(8),
    "pg_lsn": lambda r: r.randbytes(8),
}


def test_any_bytes_are_shown_as_the_server_shows_them(
    project: Project, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    rows = scaled(500, 5_000)
    columns = ", ".join(f"{ident(name)} {name}" for name in BYTES)
    project.in_source(f"CREATE TABLE any_bytes (id serial, {columns})")
    copied = [BINARY_HEADER]
    for _ in range(rows):
        values = [make(chance) for make in BYTES.values()]
        copied += [len(values).to_bytes(2), *(len(v).to_bytes(4) + v for v in values)]
    statement = copy_in("any_bytes", list(BYTES), "binary", 0)
    with psycopg.connect(project.source) as session, session.cursor().copy(statement) as copy:
        copy.write(b"".join(copied) + BINARY_TRAILER)
    found = look(project.source, Relation("public", "any_bytes"), list(BYTES), list(BYTES))
    shows = {name: postgres_text.text_reader(type_name) for name, type_name in found.types.items()}
    for values in found.rows.values():
        assert {n: shows[n](image).encode() for n, (_, image) in values.items()} == {
            n: t for n, (t, _) in values.items()
        }
    tally("any bytes, read back from binary").add(Verdict(rows=0, lost=0), tried=rows * len(BYTES))


def _read_csv(text: bytes, columns: tuple[Column, ...]) -> pa.Table | Refused:
    try:
        return from_csv(text, [c.name for c in columns], schema_of(columns), "")
    except Refused as refused:
        return refused


def _read_binary(copied: bytes, columns: tuple[Column, ...]) -> pa.Table | Refused:
    try:
        return pa.Table.from_batches(batches(copied, columns, [c.name for c in columns]))
    except Refused as refused:
        return refused


def _same(one: pa.Table | Refused, other: pa.Table | Refused) -> bool:
    """In Arrow's own terms, and as Python shows it: NaN is not equal to itself, and -0 is equal to
    0."""
    if isinstance(one, Refused) or isinstance(other, Refused):
        return type(one) is type(other)
    same = one.schema.equals(other.schema, check_metadata=True)
    return same and repr(one.to_pylist()) == repr(other.to_pylist())


def _extracted(
    project: Project, wire: WireFormat = "csv"
) -> Iterator[tuple[Hard, tuple[Column, ...], bytes]]:
    with connect_source(project.connections("shop_source")) as session, session.transaction():
        for value in HARD:
            # The warehouse has no extensions.
            columns = catalog.describe(
                session,
                "public",
                Table(name="hard", include=("id", value.name)),
                lambda: Offered(names={}),
            ).columns
            with session.cursor().copy(copy_out(select_columns(TABLE, columns, ""), wire)) as copy:
                yield value, columns, b"".join(copy)


@dataclass(frozen=True)
class Ends:
    """Sessions that look at every value: new ones for each made 7 s of a core 12."""

    loading: Session
    source: psycopg.Connection
    warehouse: psycopg.Connection


@pytest.fixture
def ends(hard: Project) -> Iterator[Ends]:
    with (
        connect_warehouse(hard.connections("warehouse")) as loading,
        opened(hard.source) as source,
        opened(hard.warehouse) as warehouse,
    ):
        yield Ends(loading, source, warehouse)


def _differences(
    ends: Ends, value: Hard, columns: tuple[Column, ...], csv: Iterator[bytes]
) -> list[str]:
    """Loaded as the product loads csv; compared as the servers show it."""
    session = ends.loading
    with session.transaction():
        session.execute("DROP TABLE IF EXISTS public.hard")
        session.execute(
            f"CREATE TABLE public.hard ({', '.join(f'{ident(c.name)} {c.type}' for c in columns)})"
        )
        statement = copy_in(
            TABLE.sql, [c.name for c in columns], "csv", session.info.server_version
        )
        with session.cursor().copy(statement) as copy:
            for block in csv:
                copy.write(block)
    names, same = [c.name for c in columns], [] if value.lands else [value.name]
    return silent(
        seen(ends.source, TABLE, names, same, {value.name: value.shown}),
        seen(ends.warehouse, TABLE, names, same),
    )
