"""Writes what was sold: bookings, tickets, their flights, boarding passes."""

from __future__ import annotations

from random import Random

from demo.flights import clock, people
from demo.flights.fleet import CLASSES
from demo.flights.schedule import Flight
from demo.flights.spool import Spool
from demo.flights.travel import Leg

TABLES = ("bookings", "tickets", "ticket_flights", "boarding_passes")
_BOOKING_DAYS_AHEAD = 30
_FIRST_TICKET = 5432000000


def book_ref(number: int) -> str:
    """The reference of the `number`-th booking: six hexadecimal digits, each given once up to 16
    million."""
    return f"{(number * 6_700_417 + 0x5A3C1) % 16**6:06X}"


def ticket_no(number: int) -> str:
    """The number of the `number`-th ticket: 13 digits."""
    return f"{_FIRST_TICKET + number:013d}"


class Receipts:
    """Appends rows to the spool and counts them; the counts may start at what is there already.

    `stamp` is the text for created_at and updated_at; None takes the time of the booking or
    check-in itself.
    """

    def __init__(
        self,
        spool: Spool,
        random: Random,
        *,
        stamp: str | None = None,
        bookings: int = 0,
        tickets: int = 0,
    ):
        self._spool, self._random, self._stamp = spool, random, stamp
        self.bookings, self.tickets, self.legs, self.passes = bookings, tickets, 0, 0
        self._passengers = tickets

    def book(self, seats: int, legs: list[Leg], now: int) -> list[str]:
        """One booking of `seats` tickets, each over all `legs`, made before `now`; returns the
        ticket numbers."""
        reference, at = (
            book_ref(self.bookings),
            clock.text(self._booked_at(legs[0].flight.departure, now)),
        )
        total = seats * sum(leg.flight.route.fares[CLASSES[leg.fare_class]] for leg in legs)
        self._spool.table("bookings").append(f"{reference}\t{at}\t{total}.00\t{self._audit(at)}")
        self.bookings += 1
        tickets = [self._write_ticket(reference, at) for _ in range(seats)]
        for ticket in tickets:
            self._write_legs(ticket, legs, at)
        self._spool.flush_when_full()
        return tickets

    def _audit(self, at: str) -> str:
        stamp = self._stamp or at
        return f"{stamp}\t{stamp}\n"

    def _booked_at(self, departure: int, now: int) -> int:
        """Some time in the month before departure, and not in the future."""
        earliest, latest = (
            departure - _BOOKING_DAYS_AHEAD * clock.DAY,
            min(departure - 2 * clock.HOUR, now),
        )
        if self._stamp:
            earliest = max(earliest, now - clock.DAY)  # sold today
        return latest - int(max(0, latest - earliest) * self._random.random() ** 2)

    def _write_ticket(self, reference: str, at: str) -> str:
        number, passenger = ticket_no(self.tickets), self._passenger()
        name = people.passenger_name(passenger)
        contact = people.contact_data(passenger, name, self._random) or "\\N"
        identity = people.passenger_id(passenger)
        line = f"{number}\t{reference}\t{identity}\t{name}\t{contact}\t{self._audit(at)}"
        self._spool.table("tickets").append(line)
        self.tickets += 1
        return number

    def _passenger(self) -> int:
        """Mostly somebody new, now and then somebody who has flown before."""
        if self._passengers and self._random.random() < 0.04:
            return int(self._random.random() * self._passengers)
        self._passengers += 1
        return self._passengers - 1

    def _write_legs(self, ticket: str, legs: list[Leg], at: str) -> None:
        audit, lines = self._audit(at), self._spool.table("ticket_flights")
        for flight, fare_class, _ in legs:
            name = CLASSES[fare_class]
            lines.append(
                f"{ticket}\t{flight.flight_id}\t{name}\t{flight.route.fares[name]}.00\t{audit}"
            )
        self.legs += len(legs)

    def check_in(self, ticket: str, flight: Flight, boarding_no: int, seat: str) -> None:
        """One boarding pass, issued during the day before departure."""
        opens, closes = flight.departure - clock.DAY, min(flight.departure - 40, clock.START)
        at = clock.text(opens + int((closes - opens) * self._random.random()))
        line = f"{ticket}\t{flight.flight_id}\t{boarding_no}\t{seat}\t{self._audit(at)}"
        self._spool.table("boarding_passes").append(line)
        self.passes += 1
