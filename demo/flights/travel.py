"""Itineraries: which flights a booking takes, one after the other."""

from __future__ import annotations

from bisect import bisect_left
from random import Random
from typing import NamedTuple

from demo.flights.clock import DAY
from demo.flights.schedule import Flight
from demo.flights.seating import Seating

_CONNECTION = 50
_TRIES = 4


class Leg(NamedTuple):
    """Seats sold on a flight: class index, and the running number of the first of them in that
    class."""

    flight: Flight
    fare_class: int
    first: int


class Timetable:
    """Departures by airport."""

    def __init__(self, flights: list[Flight]):
        self._times: dict[str, list[int]] = {}
        self._flights: dict[str, list[Flight]] = {}
        for flight in flights:
            self._times.setdefault(flight.route.departure, []).append(flight.departure)
            self._flights.setdefault(flight.route.departure, []).append(flight)

    def next_from(self, airport: str, earliest: int, skip: int = 0) -> Flight | None:
        """The first departure from `airport` at or after `earliest`, or the one `skip` later."""
        times = self._times.get(airport, [])
        place = bisect_left(times, earliest) + skip
        return self._flights[airport][place] if place < len(times) else None


def travel(
    first: Flight,
    legs: int,
    seats: int,
    fare_class: int,
    timetable: Timetable,
    seating: Seating,
    random: Random,
) -> list[Leg]:
    """Sell `seats` on up to `legs` flights from `first` on; fewer where no later flight has room.
    May be empty."""
    booked: list[Leg] = []
    flight: Flight | None = first
    while flight and len(booked) < legs:
        sold, flight = _sell_on(flight, seats, fare_class, timetable, seating)
        if sold is None or flight is None:
            break
        booked.append(Leg(flight, *sold))
        # Half-way people stay some days, elsewhere they change planes.
        stay = _CONNECTION if 2 * len(booked) != legs else DAY // 2 + int(random.random() * 5 * DAY)
        flight = timetable.next_from(
            flight.route.arrival, flight.arrival + stay, int(random.random() * 3)
        )
    return booked


def _sell_on(
    flight: Flight, seats: int, fare_class: int, timetable: Timetable, seating: Seating
) -> tuple[tuple[int, int] | None, Flight | None]:
    """Sell seats on `flight` or one of the next from the same airport; returns the sale and the
    flight."""
    found: Flight | None = flight
    for _ in range(_TRIES):
        if found is None or (sold := seating.sell(found, fare_class, seats)):
            return (None if found is None else sold), found
        found = timetable.next_from(found.route.departure, found.departure + 1)
    return None, None
