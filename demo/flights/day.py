"""One more day in the life of the source, in several transactions as it would be."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg

from demo.flights import clock, people
from demo.flights.counter import sell_today
from demo.flights.receipts import ticket_no
from demo.flights.roster import Connection, open_flights
from demo.flights.status import State, fate_of, state_at

_HERE = Path(__file__).parent
_GREAT = (
    "Pushkin",
    "Lomonosov",
    "Tchaikovsky",
    "Mendeleev",
    "Chekhov",
    "Tupolev",
    "Akhmatova",
    "Kovalevskaya",
)
_RENAME = """
    UPDATE bookings.airports_data
    SET airport_name = jsonb_set(
        airport_name, '{en}', to_jsonb(format('%%s %%s Airport', city ->> 'en', %s::text))
    )
    WHERE airport_code = %s"""
_MOVE = """
    UPDATE bookings.flights
    SET status = %s, actual_departure = %s::timestamptz, actual_arrival = %s::timestamptz
    WHERE flight_id = %s"""


class Counts(NamedTuple):
    """Rows of a table that a day added and changed."""

    inserted: int = 0
    updated: int = 0


def a_day_passes(dsn: str, seed: int = 42, bookings: int | None = None) -> dict[str, Counts]:
    """Move the source's clock on by a day; returns what changed per table (tables without a change
    are not named).

    `bookings` is how many are made (default: one for every 60 there are, 20 at least). `seed`
    should be the one the source was generated with. aircrafts_data and seats never change. Rows
    carry the real time in updated_at.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        day = _Day(connection, seed)
        for change in (
            day.begin,
            day.check_in,
            day.publish,
            day.rename_an_airport,
            day.correct_contacts,
        ):
            with connection.transaction():
                change()
        for half in (day.moves[::2], day.moves[1::2]):
            with connection.transaction():
                day.move(half)
        with connection.transaction():
            day.sell(bookings)
    return day.counts


class _Day:
    """The parts of a day; each method belongs into a transaction of its own."""

    def __init__(self, connection: Connection, seed: int):
        self._connection, self._seed = connection, seed
        self.counts: dict[str, Counts] = {}

    def begin(self) -> None:
        """Move the clock and see what will have become of every flight by then."""
        (now,) = self._one("SELECT bookings.now()")
        self._now = clock.minutes(now) + clock.DAY
        self._random = Random(self._seed * 1_000_003 + self._now)
        body = f"SELECT '{clock.text(self._now)}'::timestamptz"
        head = (
            "CREATE OR REPLACE FUNCTION bookings.now() RETURNS timestamptz LANGUAGE sql IMMUTABLE"
        )
        self._connection.execute(f"{head} AS $${body}$$".encode())
        self._states: dict[int, tuple[str, State]] = {}
        for flight, status in open_flights(self._connection):
            fate = fate_of(flight.flight_id, self._seed)
            state = state_at(
                flight.departure, flight.route.duration, fate, self._now, flight.published
            )
            self._states[flight.flight_id] = (status, state)
        self.moves = [
            (number, new) for number, (old, new) in self._states.items() if new.status != old
        ]

    def check_in(self) -> None:
        """Everybody on what has left since yesterday, half of those who leave within a day."""
        left = [
            n
            for n, (old, new) in self._states.items()
            if new.actual_departure and old != "Departed"
        ]
        soon = [n for n, (_, new) in self._states.items() if new.status in ("On Time", "Delayed")]
        board = (_HERE / "board.sql").read_bytes()
        for flights, everybody in ((left, True), (soon, False)):
            done = self._connection.execute(board, {"flights": flights, "everybody": everybody})
            self._count("boarding_passes", inserted=done.rowcount)

    def publish(self) -> None:
        """New flights at the far end of the schedule."""
        self._count(
            "flights",
            inserted=self._connection.execute((_HERE / "publish.sql").read_bytes()).rowcount,
        )

    def rename_an_airport(self) -> None:
        """One that is flown to is named after somebody."""
        codes = self._connection.execute(
            "SELECT DISTINCT arrival_airport FROM bookings.flights ORDER BY 1"
        ).fetchall()
        (code,) = codes[int(self._random.random() * len(codes))]
        who = _GREAT[self._now // clock.DAY % len(_GREAT)]
        self._count(
            "airports_data", updated=self._connection.execute(_RENAME, (who, code)).rowcount
        )

    def correct_contacts(self) -> None:
        """Some passengers have a new telephone number."""
        (tickets,) = self._one("SELECT count(*) FROM bookings.tickets")
        numbers = {int(self._random.random() * tickets) for _ in range(max(3, tickets // 2000))}
        self._update(
            "tickets",
            "UPDATE bookings.tickets SET contact_data = %s::jsonb WHERE ticket_no = %s",
            [(self._new_contact(number), ticket_no(number)) for number in sorted(numbers)],
        )

    def _new_contact(self, number: int) -> str | None:
        return people.contact_data(number + self._now, people.passenger_name(number), self._random)

    def move(self, flights: list[tuple[int, State]]) -> None:
        """Flights leave, land, are delayed or cancelled."""
        rows = [
            (new.status, _time(new.actual_departure), _time(new.actual_arrival), n)
            for n, new in flights
        ]
        self._update("flights", _MOVE, rows)

    def sell(self, bookings: int | None) -> None:
        """New bookings."""
        for table, rows in sell_today(self._connection, self._now, self._random, bookings).items():
            self._count(table, inserted=rows)

    def _update(self, table: str, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            with self._connection.cursor() as cursor:
                cursor.executemany(statement.encode(), rows)
                self._count(table, updated=cursor.rowcount)

    def _count(self, table: str, inserted: int = 0, updated: int = 0) -> None:
        if inserted or updated:
            before = self.counts.get(table, Counts())
            self.counts[table] = Counts(before.inserted + inserted, before.updated + updated)

    def _one(self, query: str) -> tuple[Any, ...]:
        row = self._connection.execute(query.encode()).fetchone()
        assert row is not None
        return tuple(row)


def _time(minute: int | None) -> str | None:
    return None if minute is None else clock.text(minute)
