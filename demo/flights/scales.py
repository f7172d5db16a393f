"""How much to generate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Row counts of one edition, and how many days of flights they spread over."""

    bookings: int
    tickets: int
    flights: int
    ticket_flights: int
    days: int
    past: float
    """Share of the schedule that lies before the clock; about the share of tickets with a boarding
    pass."""


SCALES = {
    "demo": Scale(5_000, 6_980, 630, 19_900, 30, 0.55),
    "small": Scale(262_788, 366_733, 33_121, 1_045_726, 60, 0.5543),
    "medium": Scale(593_433, 829_071, 65_664, 2_360_335, 120, 0.8026),
    "big": Scale(2_111_110, 2_949_857, 214_867, 8_391_852, 392, 0.9445),
}


def scale_of(wanted: str | int) -> Scale:
    """A named scale, or one with about that many bookings (10 at least). Raises ValueError on an
    unknown name."""
    if str(wanted).isdigit():
        return _of_size(max(10, int(wanted)))
    if wanted not in SCALES:
        raise ValueError(
            f"unknown scale {wanted!r}: use {', '.join(SCALES)} or a number of bookings"
        )
    return SCALES[str(wanted)]


def _of_size(bookings: int) -> Scale:
    small = SCALES["small"]
    ratio = bookings / small.bookings
    flights = max(60, round(small.flights * ratio))
    tickets, ticket_flights = round(small.tickets * ratio), round(small.ticket_flights * ratio)
    return Scale(
        bookings, tickets, flights, ticket_flights, 30 if flights < 10_000 else 60, small.past
    )
