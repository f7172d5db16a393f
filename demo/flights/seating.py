"""How many seats of a flight are sold per class, and which seat the next passenger gets."""

from __future__ import annotations

import math
from array import array

from demo.flights.fleet import AIRCRAFT, CLASSES, Aircraft
from demo.flights.schedule import Flight


class Seating:
    """Counts for flights 1 to `last`: a few bytes per flight, however many tickets there are."""

    def __init__(self, last: int):
        self._sold = array("H", bytes(2 * len(CLASSES) * (last + 1)))
        self._boarded = array("H", bytes(2 * (last + 1)))
        self._capacity = {
            code: tuple(len(a.seats.get(c, ())) for c in CLASSES) for code, a in AIRCRAFT.items()
        }
        self._maps = {code: _mixed(aircraft) for code, aircraft in AIRCRAFT.items()}

    def sell(self, flight: Flight, wanted: int, seats: int) -> tuple[int, int] | None:
        """Sell `seats` in the wanted class or else another: (class, number of the first). None when
        none has room."""
        capacity = self._capacity[flight.route.aircraft.code]
        base = flight.flight_id * len(CLASSES)
        for fare_class in (wanted, 0, 2, 1):
            first = self._sold[base + fare_class]
            if first + seats <= capacity[fare_class]:
                self._sold[base + fare_class] = first + seats
                return fare_class, first
        return None

    def take(self, flight_id: int, fare_class: str, seats: int) -> None:
        """Note seats that were sold earlier."""
        self._sold[flight_id * len(CLASSES) + CLASSES.index(fare_class)] += seats

    def board(self, flight: Flight, fare_class: int, number: int) -> tuple[int, str]:
        """Boarding number and seat of the `number`-th ticket sold in a class."""
        self._boarded[flight.flight_id] += 1
        seats = self._maps[flight.route.aircraft.code][fare_class]
        return self._boarded[flight.flight_id], seats[(number + flight.flight_id) % len(seats)]


def _mixed(aircraft: Aircraft) -> tuple[list[str], ...]:
    """The seats of each class in an order that does not fill the rows one after the other."""
    return tuple(_strided(aircraft.seats.get(fare_class, [])) for fare_class in CLASSES)


def _strided(seats: list[str]) -> list[str]:
    stride = next(n for n in range(17, 64) if math.gcd(n, len(seats) or 1) == 1)
    return [seats[i * stride % len(seats)] for i in range(len(seats))]
