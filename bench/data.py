"""What is carried: the flights source, one large table, and tables of unusual shapes. All of it is
deterministic."""

from __future__ import annotations

from dataclasses import dataclass

from bench.world import World, ask
from demo.flights import generate


@dataclass(frozen=True, kw_only=True)
class Table:
    """A source table as contenders are told of it."""

    name: str
    key: tuple[str, ...]
    cursor: str | None = "updated_at"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source schema with the tables to carry."""

    dsn: str
    schema: str
    tables: tuple[Table, ...]


# The largest first: whoever runs two at a time then ends with small ones.
FLIGHTS = (
    Table(name="ticket_flights", key=("ticket_no", "flight_id")),
    Table(name="boarding_passes", key=("ticket_no", "flight_id")),
    Table(name="tickets", key=("ticket_no",)),
    Table(name="bookings", key=("book_ref",)),
    Table(name="flights", key=("flight_id",)),
    Table(name="seats", key=("aircraft_code", "seat_no")),
    Table(name="airports_data", key=("airport_code",)),
    Table(name="aircrafts_data", key=("aircraft_code",)),
)

_COMMON = (
    "now() - interval '1 day' AS created_at, now() - interval '1 day' + i * interval '1"
    " millisecond' AS updated_at"
)
_SHAPES = {
    # 10 M rows of about 100 bytes, like an orders table.
    "large": (
        "SELECT i AS id, lpad(i::text, 13, '0') AS ticket_no, (i * 7919 % 65664)::int AS"
        " flight_id, (ARRAY['Economy','Comfort','Business'])[1 + i % 3] AS fare, ((i * 31) %"
        f" 1000000)::numeric(10,2) AS amount, md5(i::text) AS note, {_COMMON} FROM"
        " generate_series(1::bigint, {rows}) i"
    ),
    # The same, of bytes that do not shrink.
    "random": (
        "SELECT i AS id, sha256(i::text::bytea) || sha256((-i)::text::bytea) AS token, (i * 7919 %"
        f" 65664)::int AS flight_id, {_COMMON} FROM generate_series(1::bigint, {{rows}}) i"
    ),
    # 200 columns of five types.
    "wide": "SELECT i AS id, {columns}, " + _COMMON + " FROM generate_series(1::bigint, {rows}) i",
    # Cells of about 100 kB of jsonb, which the server keeps compressed and out of line.
    "cells": (
        "SELECT i AS id, (SELECT jsonb_object_agg('key' || n, md5((i * 1000 + n)::text)) "
        "FROM generate_series(1, 2300) n) AS document, "
        + _COMMON
        + " FROM generate_series(1::bigint, {rows}) i"
    ),
}
_WIDE = (
    "(i + {n})::int",
    "md5((i * {n})::text)",
    "(i * {n} % 10007)::numeric(12,3)",
    "i % {n} = 0",
    "now() - (i + {n}) * interval '1 second'",
)


def flights(world: World, scale: str = "medium") -> Source:
    """The flights source at a scale of `demo.flights`; generated once per server."""
    dsn = world.new_source(f"flights_{scale}")
    if not ask(dsn, "SELECT 1 FROM pg_namespace WHERE nspname = 'bookings'"):
        generate(dsn, scale)
        ask(dsn, "VACUUM ANALYZE")
    return Source(dsn=dsn, schema="bookings", tables=FLIGHTS)


def shape(world: World, name: str, rows: int, tables: int = 1) -> Source:
    """Tables `name`, `name_2`, … of `rows` rows of the shape `name`: `large`, `random`, `wide` or
    `cells`. Generated once per server."""
    dsn = world.new_source(f"{name}_{rows}")
    columns = ", ".join(f"{_WIDE[n % 5].format(n=n)} AS c{n}" for n in range(2, 200))
    select = _SHAPES[name].format(rows=rows, columns=columns)
    names = [name, *(f"{name}_{number}" for number in range(2, tables + 1))]
    for table in names:
        if ask(dsn, "SELECT 1 FROM pg_class WHERE relname = %s", table):
            continue
        ask(dsn, f"CREATE TABLE {table} AS {select}")
        ask(dsn, f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
        ask(dsn, f"CREATE INDEX ON {table} (updated_at)")
        ask(dsn, f"VACUUM ANALYZE {table}")
    made = tuple(Table(name=table, key=("id",)) for table in names)
    return Source(dsn=dsn, schema="public", tables=made)


def tiny(world: World, tables: int) -> Source:
    """Many tables of 10 rows; generated once per server."""
    dsn = world.new_source(f"tiny_{tables}")
    if not ask(dsn, "SELECT 1 FROM pg_class WHERE relname = 't0001'"):
        for first in range(1, tables + 1, 100):
            make = "CREATE TABLE t%s (id int PRIMARY KEY, name text, updated_at timestamptz);"
            fill = "INSERT INTO t%s SELECT i, md5(i::text), now() FROM generate_series(1, 10) i;"
            numbers = [f"{n:04d}" for n in range(first, min(first + 100, tables + 1))]
            ask(dsn, "".join((make + fill).replace("%s", number) for number in numbers))
    return Source(
        dsn=dsn,
        schema="public",
        tables=tuple(Table(name=f"t{n:04d}", key=("id",)) for n in range(1, tables + 1)),
    )


def touch(source: Source, share: float, recent: bool = False) -> None:
    """Change `share` of the rows of every table with a cursor: spread over all of it, or the
    `recent` ones at its end.

    Spread is the worst for every target: each row lies in a page of its own, which the WAL then
    holds whole.
    """
    for table in source.tables:
        name = f"{source.schema}.{table.name}"
        if table.cursor and share:
            change = f"UPDATE {name} SET {table.cursor} = clock_timestamp() WHERE "
            ask(
                source.dsn,
                change
                + (_RECENT if recent else _SPREAD).format(
                    name=name, share=share, step=round(1 / share)
                ),
            )
        ask(source.dsn, f"VACUUM ANALYZE {name}")


_SPREAD = (
    "ctid = ANY (ARRAY(SELECT ctid FROM (SELECT ctid, row_number() OVER () AS n FROM {name})"
    " numbered WHERE n % {step} = 0))"
)
_RECENT = (
    "ctid = ANY (ARRAY(SELECT ctid FROM {name} ORDER BY ctid DESC LIMIT (SELECT count(*) * {share}"
    " FROM {name})))"
)
