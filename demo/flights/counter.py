"""The ticket counter on an ordinary day: new bookings on flights that have not left."""

from __future__ import annotations

from random import Random

from demo.flights import clock
from demo.flights.receipts import TABLES, Receipts
from demo.flights.roster import Connection, open_flights, seats_sold
from demo.flights.sales import fare_class_wanted, legs_wanted, party
from demo.flights.schedule import Flight
from demo.flights.spool import Spool
from demo.flights.travel import Timetable, travel

_HAVE = """
    SELECT pg_catalog.now()::text,
           (SELECT count(*) FROM bookings.bookings),
           (SELECT count(*) FROM bookings.tickets)"""


def sell_today(
    connection: Connection, now: int, random: Random, bookings: int | None
) -> dict[str, int]:
    """Make `bookings` bookings (None: one for every 60 there are, 20 at least); returns the rows
    added per table.

    Raises RuntimeError when the flights have no room for them.
    """
    row = connection.execute(_HAVE).fetchone()
    assert row is not None
    stamp, made, tickets = row
    with connection.cursor() as cursor:
        spool = Spool(cursor, *TABLES)
        receipts = Receipts(spool, random, stamp=stamp, bookings=made, tickets=tickets)
        flights = [
            flight
            for flight, _ in open_flights(connection)
            if flight.departure > now + 3 * clock.HOUR
        ]
        _sell(
            connection,
            receipts,
            flights,
            now,
            random,
            max(20, made // 60) if bookings is None else bookings,
        )
        spool.flush()
    return spool.written


def _sell(
    connection: Connection,
    receipts: Receipts,
    flights: list[Flight],
    now: int,
    random: Random,
    bookings: int,
) -> None:
    timetable, seating = Timetable(flights), seats_sold(connection, flights)
    end, tries = receipts.bookings + bookings, 20 * bookings + 100
    while receipts.bookings < end:
        if not (tries := tries - 1):
            raise RuntimeError(f"no room left for {end - receipts.bookings} of {bookings} bookings")
        first, seats = flights[int(random.random() * len(flights))], party(random)
        wanted, fare_class = legs_wanted(random), fare_class_wanted(random)
        if legs := travel(first, wanted, seats, fare_class, timetable, seating, random):
            receipts.book(seats, legs, now)
