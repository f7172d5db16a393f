"""Routes between airports: the flight numbers of an airline."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from demo.flights.clock import DAY
from demo.flights.fleet import AIRCRAFT, Aircraft, Airport

HUBS = ("DME", "LED", "SVX", "OVB", "SVO", "KJA", "VKO", "KHV")


@dataclass(frozen=True)
class Route:
    """A flight number: where, with what, when (minute of the UTC day), how long, and what a ticket
    costs per class."""

    flight_no: str
    departure: str
    arrival: str
    aircraft: Aircraft
    minute: int
    duration: int
    fares: dict[str, int]


def build_routes(count: int, airports: list[Airport], random: Random) -> list[Route]:
    """`count` routes (rounded up to pairs, there and back) between hubs and other airports."""
    by_code = {airport.code: airport for airport in airports}
    hubs = HUBS[: max(2, min(len(HUBS), count // 20))]
    spokes = [a for a in airports if a.code not in hubs]
    routes: list[Route] = []
    while len(routes) < count:
        pair = len(routes) // 2
        hub = by_code[hubs[pair % len(hubs)]]
        # The first pairs link the hubs with each other, so that every airport can be reached from
        # every other.
        far = (
            by_code[hubs[pair + 1]]
            if pair + 1 < len(hubs)
            else spokes[int(random.random() * len(spokes))]
        )
        there = _route(len(routes) + 1, hub, far, random)
        routes += [there, _way_back(there, len(routes) + 2, random)]
    return routes


def _route(number: int, start: Airport, end: Airport, random: Random) -> Route:
    distance = start.distance_km(end)
    aircraft = _suitable(distance, random)
    local = 5 * 60 + int(random.random() * 17 * 12) * 5
    minute = int(local - start.longitude * 4) // 5 * 5 % DAY
    duration = 25 + int(distance / aircraft.speed_kmh * 60) // 5 * 5
    flight_no = f"PG{number:04d}"
    return Route(
        flight_no, start.code, end.code, aircraft, minute, duration, fares(flight_no, distance)
    )


def _way_back(there: Route, number: int, random: Random) -> Route:
    pause = 60 + int(random.random() * 120) // 5 * 5
    minute = (there.minute + there.duration + pause) % DAY
    flight_no = f"PG{number:04d}"
    return Route(
        flight_no,
        there.arrival,
        there.departure,
        there.aircraft,
        minute,
        there.duration,
        there.fares,
    )


def fares(flight_no: str, distance: float) -> dict[str, int]:
    """What a ticket costs per class: the same there and back."""
    pair = (int(flight_no[2:]) + 1) // 2
    economy = (2000 + int(distance * (3.5 + pair * 37 % 100 / 100))) // 100 * 100
    return {"Economy": economy, "Comfort": economy * 17 // 10, "Business": economy * 3}


def _suitable(distance: float, random: Random) -> Aircraft:
    """A type that reaches that far, and that an airline would use for it."""
    codes: tuple[str, ...]
    if distance < 400:
        codes = ("CN1", "CR2", "SU9")
    elif distance < 1500:
        codes = ("CR2", "SU9", "SU9", "733", "321")
    elif distance < 2800:
        codes = ("SU9", "733", "319", "320", "321")
    else:
        codes = ("319", "321", "763", "763", "773")
    fit = [code for code in codes if AIRCRAFT[code].range_km >= distance]
    return AIRCRAFT[fit[int(random.random() * len(fit))]]
