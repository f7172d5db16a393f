"""Creates the `bookings` schema and fills it: the same seed and scale give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from demo.flights import clock
from demo.flights.fleet import FLEET, airports
from demo.flights.receipts import TABLES, Receipts
from demo.flights.routes import build_routes
from demo.flights.sales import Sales
from demo.flights.scales import scale_of
from demo.flights.schedule import Flight, build_schedule, route_count
from demo.flights.spool import Spool
from demo.flights.status import fate_of, state_at

_HERE = Path(__file__).parent
_BEGINNING = "2017-01-01 00:00:00+00"
_REFERENCE = ("aircrafts_data", "airports_data", "seats", "flights")


def generate(dsn: str, scale: str | int = "demo", seed: int = 42) -> dict[str, int]:
    """Create schema `bookings` in the database `dsn`, fill it in one transaction and return the
    rows per table.

    `scale` is demo, small, medium, big or a number of bookings (ValueError otherwise). When the
    schema is there already it raises psycopg.errors.DuplicateSchema.
    """
    size, random = scale_of(scale), Random(seed)
    flights = build_schedule(size, build_routes(route_count(size), airports(), random))
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute((_HERE / "schema.sql").read_bytes())
        spool = Spool(cursor, *_REFERENCE, *TABLES)
        _write_reference(spool)
        _write_flights(spool, flights, seed)
        Sales(size, flights, Receipts(spool, random), random, seed).sell_all()
        spool.flush()
        cursor.execute((_HERE / "keys.sql").read_bytes())
        connection.commit()
        _analyze(connection)
    return spool.written


def _analyze(connection: psycopg.Connection[Any]) -> None:
    connection.autocommit = True
    for table in (*_REFERENCE, *TABLES):
        connection.execute(f"ANALYZE bookings.{table}".encode())


def _write_reference(spool: Spool) -> None:
    audit = f"{_BEGINNING}\t{_BEGINNING}\n"
    for aircraft in FLEET:
        model = _json(en=aircraft.model_en, ru=aircraft.model_ru)
        spool.table("aircrafts_data").append(
            f"{aircraft.code}\t{model}\t{aircraft.range_km}\t{audit}"
        )
        for fare_class, seats in aircraft.seats.items():
            spool.table("seats").extend(
                f"{aircraft.code}\t{seat}\t{fare_class}\t{audit}" for seat in seats
            )
    for airport in airports():
        name = _json(en=airport.name_en, ru=airport.name_ru)
        city = _json(en=airport.city_en, ru=airport.city_ru)
        place = f"({airport.longitude!r},{airport.latitude!r})"
        spool.table("airports_data").append(
            f"{airport.code}\t{name}\t{city}\t{place}\t{airport.timezone}\t{audit}"
        )


def _json(**values: str) -> str:
    return json.dumps(values, ensure_ascii=False)


def _write_flights(spool: Spool, flights: list[Flight], seed: int) -> None:
    for flight in flights:
        route, fate = flight.route, fate_of(flight.flight_id, seed)
        state = state_at(flight.departure, route.duration, fate, clock.START, flight.published)
        times = f"{clock.text(flight.departure)}\t{clock.text(flight.arrival)}"
        actual = f"{_time(state.actual_departure)}\t{_time(state.actual_arrival)}"
        audit = f"{clock.text(min(flight.published, state.since))}\t{clock.text(state.since)}"
        spool.table("flights").append(
            f"{flight.flight_id}\t{route.flight_no}\t{times}\t{route.departure}\t{route.arrival}\t{state.status}\t"
            f"{route.aircraft.code}\t{actual}\t{audit}\n"
        )


def _time(minute: int | None) -> str:
    return "\\N" if minute is None else clock.text(minute)
