"""Whether the warehouse holds what the source holds: row by row for staging, in sums and counts for
the marts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from demo.checks import Check
from demo.flights.tables import TABLES

_PINNED = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3"
_COLUMNS = """
    SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum),
           string_agg(quote_ident(attname), ', ' ORDER BY attnum)
    FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> '_load_id'"""
_DIFFERENCE = """
    SELECT (SELECT count(*) FROM (
               SELECT line FROM source EXCEPT ALL SELECT {row} FROM {staging}) missing),
           (SELECT count(*) FROM (
               SELECT {row} FROM {staging} EXCEPT ALL SELECT line FROM source) extra),
           (SELECT count(*) FROM source)"""
RECONCILE = {
    "every aircraft, airport and seat is in its dimension": (
        """
        SELECT (SELECT count(*) FROM mart.dim_aircrafts)
             = (SELECT count(*) FROM staging.aircrafts_data)
           AND (SELECT count(*) FROM mart.dim_airport)
             = (SELECT count(*) FROM staging.airports_data)
           AND (SELECT count(*) FROM mart.dim_seat) = (SELECT count(*) FROM staging.seats)"""
    ),
    "dim_passenger has each passenger once": (
        """
        SELECT (SELECT count(*) FROM mart.dim_passenger)
             = (SELECT count(DISTINCT passenger_id) FROM staging.tickets)"""
    ),
    "dim_airport has the current names": (
        """
        SELECT NOT EXISTS (
            SELECT FROM mart.dim_airport JOIN staging.airports_data ON airport_code = airport_nk
            WHERE dim_airport.airport_name IS DISTINCT FROM airports_data.airport_name ->> 'en')"""
    ),
    "fct_booking_ticket has every ticket on a flight, and the same revenue": (
        """
        SELECT (SELECT (count(*), sum(amount)) FROM mart.fct_booking_ticket)
             = (SELECT (count(*), sum(amount)) FROM staging.ticket_flights)"""
    ),
    "fct_boarding_pass has every boarding pass": (
        """
        SELECT (SELECT count(*) FROM mart.fct_boarding_pass)
             = (SELECT count(*) FROM staging.boarding_passes)"""
    ),
    "fct_flight_activity has every flight with its current status": (
        """
        SELECT NOT EXISTS (
            SELECT FROM mart.fct_flight_activity fact
            FULL JOIN staging.flights ON flight_id = flight_nk
            WHERE fact.status IS DISTINCT FROM flights.status)"""
    ),
    "fct_seat_occupied_daily has every arrived flight, and its seats add up": (
        """
        SELECT count(*) = (SELECT count(*) FROM staging.flights WHERE status = 'Arrived')
           AND bool_and(total_seat = seat_occupied + empty_seats AND empty_seats >= 0)
        FROM mart.fct_seat_occupied_daily"""
    ),
}


def staging_equals_source(source: str, warehouse: str) -> Iterator[Check]:
    """Every column of every row of all 8 tables, compared both ways as text."""
    with (
        psycopg.connect(source, options=_PINNED) as ours,
        psycopg.connect(warehouse, options=_PINNED, autocommit=True) as theirs,
    ):
        for table in TABLES:
            yield _compare(ours, theirs, table)


def _compare(ours: psycopg.Connection[Any], theirs: psycopg.Connection[Any], table: str) -> Check:
    name = f"staging.{table} equals the source"
    shape, columns = _one(ours, _COLUMNS, f"bookings.{table}")
    landed, _ = _one(theirs, _COLUMNS, f"staging.{table}")
    if shape != landed:
        return Check(name, False, f"columns differ: {shape} | {landed}")
    row = sql.SQL("ROW({})::text").format(sql.SQL(columns))
    theirs.execute("DROP TABLE IF EXISTS source")
    theirs.execute("CREATE TEMPORARY TABLE source (line text)")
    read = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(
        row, sql.Identifier("bookings", table)
    )
    with ours.cursor().copy(read) as out, theirs.cursor().copy("COPY source FROM STDIN") as into:
        for data in out:
            into.write(data)
    staging = sql.Identifier("staging", table)
    missing, extra, rows = _one(theirs, sql.SQL(_DIFFERENCE).format(row=row, staging=staging))
    detail = f"{rows:,} rows; {missing} missing, {extra} unexpected"
    return Check(name, missing == extra == 0, detail)


def marts_reconcile(warehouse: str) -> Iterator[Check]:
    """No mart is empty, and each agrees with staging."""
    counts = mart_counts(warehouse)
    empty = [name for name, rows in counts.items() if not rows]
    title = "there are 10 marts, and none is empty"
    yield Check(title, len(counts) == 10 and not empty, ", ".join(empty))
    with psycopg.connect(warehouse) as session:
        for name, query in RECONCILE.items():
            yield Check(name, _one(session, query)[0] is True)


def mart_counts(warehouse: str) -> dict[str, int]:
    """Rows per mart."""
    with psycopg.connect(warehouse) as session:
        names = session.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'mart' ORDER BY 1"
        ).fetchall()
        count = sql.SQL("SELECT count(*) FROM {}")
        return {
            name: _one(session, count.format(sql.Identifier("mart", name)))[0] for (name,) in names
        }


def _one(
    session: psycopg.Connection[Any], query: str | sql.Composed, *parameters: Any
) -> tuple[Any, ...]:
    row = session.execute(
        query.encode() if isinstance(query, str) else query, parameters or None
    ).fetchone()
    assert row is not None
    return tuple(row)
