"""The flights that follow from routes and days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from demo.flights.clock import DAY, START
from demo.flights.routes import Route
from demo.flights.scales import Scale

_PUBLISHED_DAYS_AHEAD = 60


@dataclass(frozen=True, slots=True)
class Flight:
    """One departure of a route; times are minutes since the epoch."""

    flight_id: int
    route: Route
    departure: int

    @property
    def arrival(self) -> int:
        """Scheduled arrival."""
        return self.departure + self.route.duration

    @property
    def published(self) -> int:
        """When the flight entered the schedule."""
        return self.departure - _PUBLISHED_DAYS_AHEAD * DAY


def build_schedule(scale: Scale, routes: list[Route]) -> list[Flight]:
    """Exactly `scale.flights` flights over `scale.days` days around the clock, by departure.

    Each day takes its share of the routes in turn, so no route leaves twice on one day.
    """
    first_day = START // DAY - round(scale.days * scale.past)
    departures = sorted(_departures(scale, routes, first_day), key=lambda d: (d[0], d[1].flight_no))
    return [
        Flight(number, route, departure)
        for number, (departure, route) in enumerate(departures, start=1)
    ]


def _departures(scale: Scale, routes: list[Route], first_day: int) -> Iterator[tuple[int, Route]]:
    for number in range(scale.flights):
        day = number * scale.days // scale.flights
        route = routes[number % len(routes)]
        yield (first_day + day) * DAY + route.minute, route


def route_count(scale: Scale) -> int:
    """How many flight numbers share the flights of a day: each leaves on most days, not on all."""
    return max(12, round(scale.flights / scale.days * 1.3))
