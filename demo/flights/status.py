"""What has become of a flight when the clock stands at a given minute."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from demo.flights.clock import DAY


@dataclass(frozen=True, slots=True)
class Fate:
    """How a flight will go, known to nobody before its time."""

    cancelled: bool
    delay: int
    """Minutes after the scheduled departure."""
    drift: int
    """Minutes the flight takes longer (or shorter) than planned."""


@dataclass(frozen=True, slots=True)
class State:
    """What the source says about a flight now; `since` is the minute of the last change."""

    status: str
    since: int
    actual_departure: int | None = None
    actual_arrival: int | None = None


def fate_of(flight_id: int, seed: int) -> Fate:
    """The same for every call: a flight announced as delayed leaves late when its time has come."""
    random = Random(seed * 1_000_003 + flight_id)
    cancelled = random.random() < 0.012
    late = random.random() < 0.05
    delay = 30 + int(random.random() * 240) if late else int(random.random() * 8)
    return Fate(cancelled, delay, int(random.random() * 11) - 5)


def state_at(departure: int, duration: int, fate: Fate, clock: int, published: int) -> State:
    """Status, times and last change of a flight at `departure` that takes `duration` minutes."""
    left, landed = departure + fate.delay, departure + fate.delay + duration + fate.drift
    if clock < departure - DAY:
        return State("Scheduled", min(published, clock))
    if fate.cancelled:
        return State("Cancelled", departure - DAY)
    if landed <= clock:
        return State("Arrived", landed, left, landed)
    if left <= clock:
        return State("Departed", left, left)
    return State("Delayed" if fate.delay >= 30 else "On Time", departure - DAY)
