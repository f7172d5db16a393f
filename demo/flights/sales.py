"""Bookings with their tickets, flights and boarding passes."""

from __future__ import annotations

from bisect import bisect_right
from random import Random

from demo.flights import clock
from demo.flights.receipts import Receipts
from demo.flights.scales import Scale
from demo.flights.schedule import Flight
from demo.flights.seating import Seating
from demo.flights.status import fate_of, state_at
from demo.flights.travel import Leg, Timetable, travel

_CHECK_IN = {"Arrived": 1.0, "Departed": 1.0, "On Time": 0.5, "Delayed": 0.5}
"""The share of passengers that has checked in, by the flight's status."""


def steer(drawn: int, made: int, due: float, low: int, high: int, slack: float) -> int:
    """`drawn`, unless what has been made so far strays from what is due: then fewer or more."""
    if made + drawn > due + slack:
        return low
    return high if made + drawn < due - slack else drawn


def party(random: Random) -> int:
    """How many people travel together."""
    chance = random.random()
    return 1 if chance < 0.66 else 2 if chance < 0.94 else 3


def legs_wanted(random: Random) -> int:
    """How many flights they take."""
    chance = random.random()
    return 1 if chance < 0.1 else 2 if chance < 0.45 else 3 if chance < 0.6 else 4


def fare_class_wanted(random: Random) -> int:
    """Which class they would like, as an index into CLASSES."""
    chance = random.random()
    return 0 if chance < 0.88 else 2 if chance < 0.98 else 1


class Sales:
    """Sells a whole edition, booking by booking; memory does not grow with it."""

    def __init__(
        self, scale: Scale, flights: list[Flight], receipts: Receipts, random: Random, seed: int
    ):
        self._scale, self._flights, self._receipts, self._random = scale, flights, receipts, random
        self._timetable, self._seating = Timetable(flights), Seating(len(flights))
        self._future = bisect_right([f.departure for f in flights], clock.START)
        self._check_in = [0.0, *(self._share(flight, seed) for flight in flights)]

    def _share(self, flight: Flight, seed: int) -> float:
        """The share of a flight's passengers that has checked in by now."""
        fate = fate_of(flight.flight_id, seed)
        state = state_at(
            flight.departure, flight.route.duration, fate, clock.START, flight.published
        )
        return _CHECK_IN.get(state.status, 0.0)

    def sell_all(self) -> None:
        """Make every booking of the scale."""
        for number in range(self._scale.bookings):
            while not self._sell((number + 1) / self._scale.bookings):
                pass

    def _sell(self, share: float) -> bool:
        """One booking, when `share` of all should be done; False when the flight drawn was full."""
        seats = steer(
            party(self._random), self._receipts.tickets, self._scale.tickets * share, 1, 3, 4
        )
        legs = self._travel(seats, self._scale.ticket_flights * share)
        if legs:
            tickets = self._receipts.book(seats, legs, clock.START)
            self._check_in_some(tickets, legs)
        return bool(legs)

    def _travel(self, seats: int, due: float) -> list[Leg]:
        wanted = (
            steer(legs_wanted(self._random) * seats, self._receipts.legs, due, seats, 5 * seats, 15)
            // seats
        )
        first, fare_class = self._first_flight(), fare_class_wanted(self._random)
        return travel(
            first, wanted, seats, fare_class, self._timetable, self._seating, self._random
        )

    def _first_flight(self) -> Flight:
        """One before the clock while boarding passes are behind their share, else one after it."""
        behind = self._receipts.passes < self._receipts.legs * self._scale.past
        start, end = (0, self._future) if behind else (self._future, len(self._flights))
        return self._flights[start + int(self._random.random() * (end - start))]

    def _check_in_some(self, tickets: list[str], legs: list[Leg]) -> None:
        for leg in legs:
            share = self._check_in[leg.flight.flight_id]
            for place, ticket in enumerate(tickets if share else ()):
                if share == 1.0 or self._random.random() < share:
                    boarding_no, seat = self._seating.board(
                        leg.flight, leg.fare_class, leg.first + place
                    )
                    self._receipts.check_in(ticket, leg.flight, boarding_no, seat)
