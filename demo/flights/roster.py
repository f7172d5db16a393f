"""Reads flights and their sold seats back from the source."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg

from demo.flights import clock
from demo.flights.fleet import AIRCRAFT, airports
from demo.flights.routes import Route, fares
from demo.flights.schedule import Flight
from demo.flights.seating import Seating

Connection = psycopg.Connection[Any]
_OPEN = """
    SELECT status, flight_id, flight_no, scheduled_departure, scheduled_arrival,
           departure_airport, arrival_airport, aircraft_code
    FROM bookings.flights WHERE status NOT IN ('Arrived', 'Cancelled')
    ORDER BY scheduled_departure, flight_id"""
_SOLD = """
    SELECT flight_id, fare_conditions, count(*) FROM bookings.ticket_flights
    WHERE flight_id = ANY(%s) GROUP BY flight_id, fare_conditions"""
_PLACES = {airport.code: airport for airport in airports()}


def open_flights(connection: Connection) -> list[tuple[Flight, str]]:
    """Flights that have neither ended nor been cancelled, with their status, by departure."""
    return [(_flight(*columns), status) for status, *columns in connection.execute(_OPEN)]


def _flight(
    flight_id: int,
    flight_no: str,
    departure: datetime,
    arrival: datetime,
    start: str,
    end: str,
    aircraft: str,
) -> Flight:
    leaves, duration = clock.minutes(departure), clock.minutes(arrival) - clock.minutes(departure)
    prices = fares(flight_no, _PLACES[start].distance_km(_PLACES[end]))
    route = Route(flight_no, start, end, AIRCRAFT[aircraft], leaves % clock.DAY, duration, prices)
    return Flight(flight_id, route, leaves)


def seats_sold(connection: Connection, flights: list[Flight]) -> Seating:
    """What is sold on these flights already."""
    numbers = [flight.flight_id for flight in flights]
    seating = Seating(max(numbers, default=0))
    for number, fare_class, seats in connection.execute(_SOLD, (numbers,)):
        seating.take(number, fare_class, seats)
    return seating
