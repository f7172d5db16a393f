"""The flights marts after a first load: their columns, their grain, their sums and their keys,
against the source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet.spec.dependencies import transform_inputs
from tests.core.flights_world import MARTS, Flights, drop, flights_pipeline, new_flights

AUDIT = ["created_at", "updated_at"]
PLACES = ["departure_airport", "arrival_airport", "aircraft_code"]


def keys_of(*events: str) -> list[str]:
    """The date and time keys of each event."""
    return [
        f"{event}_{zone}_{part}_id"
        for event in events
        for zone in ("local", "utc")
        for part in ("date", "time")
    ]


SCHEDULED, ACTUAL = (
    ("scheduled_departure", "scheduled_arrival"),
    ("actual_departure", "actual_arrival"),
)
COLUMNS = {
    "dim_aircrafts": ["aircraft_id", "aircraft_nk", "model", "range"],
    "dim_airport": ["airport_id", "airport_nk", "airport_name", "city", "coordinates", "timezone"],
    "dim_passenger": ["passenger_id", "passenger_nk", "passenger_name", "phone", "email"],
    "dim_seat": ["seat_id", "aircraft_id", "seat_no", "fare_conditions"],
    "fct_boarding_pass": (
        [
            "ticket_no",
            "book_ref",
            "passenger_id",
            "flight_id",
            "flight_no",
            "boarding_no",
        ]
        + [*keys_of(*SCHEDULED), *PLACES, "status", "fare_conditions", "seat_no"]
    ),
    "fct_booking_ticket": (
        ["book_nk", "ticket_no", "passenger_id", "flight_nk", "flight_no"]
        + [
            *keys_of("book", *SCHEDULED, *ACTUAL),
            *PLACES,
            "fare_conditions",
            "amount",
            "total_amount",
            "status",
        ]
    ),
    "fct_flight_activity": (
        [
            "flight_nk",
            "flight_no",
            *keys_of(*SCHEDULED, *ACTUAL),
            *PLACES,
            "status",
        ]
        + ["delay_departure", "delay_arrival", "travel_time"]
    ),
    "fct_seat_occupied_daily": (
        ["date_flight", "flight_nk", "flight_no", *PLACES, "status"]
        + ["total_seat", "seat_occupied", "empty_seats"]
    ),
}
FACTS = [name for name in COLUMNS if name.startswith("fct_")]
DIMENSION_KEYS = {
    "passenger_id": "dim_passenger.passenger_id",
    "departure_airport": "dim_airport.airport_id",
    "arrival_airport": "dim_airport.airport_id",
    "aircraft_code": "dim_aircrafts.aircraft_id",
    "aircraft_id": "dim_aircrafts.aircraft_id",
    "date_flight": "dim_date.date_id",
}


def dimension_of(column: str) -> str | None:
    """`dimension.key` that a fact's column points to."""
    if column.endswith(("_date_id", "_time_id")):
        kind = column.split("_")[-2]
        return f"dim_{kind}.{kind}_id"
    return DIMENSION_KEYS.get(column)


KEYS = [(m, c) for m in [*FACTS, "dim_seat"] for c in COLUMNS[m] if dimension_of(c)]


@pytest.fixture(scope="module")
def flights(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Flights]:
    folder: Path = tmp_path_factory.mktemp("flights")
    made = new_flights(folder, postgres, s3, 2000)
    made.go()
    yield made
    drop(postgres, made)


def equal(flights: Flights, mart: str, source: str) -> None:
    """A query of the marts and one of the source give the same rows."""
    rows = flights.in_warehouse(mart)
    assert rows == flights.in_source(source)
    assert rows and rows[0][0]


@pytest.mark.parametrize("mart", COLUMNS)
def test_a_mart_has_the_promised_columns(flights: Flights, mart: str) -> None:
    columns = flights.in_warehouse(
        "SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'mart' AND"
        " table_name = %s ORDER BY ordinal_position",
        mart,
    )
    assert [name for (name,) in columns] == [*COLUMNS[mart], *AUDIT]


@pytest.mark.parametrize(
    ("mart", "rows"),
    {
        "dim_aircrafts": "bookings.aircrafts_data",
        "dim_airport": "bookings.airports_data",
        "dim_passenger": "(SELECT DISTINCT passenger_id FROM bookings.tickets) p",
        "dim_seat": "bookings.seats",
        "fct_boarding_pass": "bookings.boarding_passes",
        "fct_booking_ticket": "bookings.ticket_flights",
        "fct_flight_activity": "bookings.flights",
        "fct_seat_occupied_daily": "bookings.flights WHERE status = 'Arrived'",
    }.items(),
)
def test_a_mart_has_one_row_per_row_of_its_grain(flights: Flights, mart: str, rows: str) -> None:
    equal(flights, f"SELECT count(*) FROM mart.{mart}", f"SELECT count(*) FROM {rows}")


def test_amounts_add_up_to_the_source(flights: Flights) -> None:
    equal(
        flights,
        "SELECT sum(amount), count(DISTINCT book_nk) FROM mart.fct_booking_ticket",
        "SELECT sum(amount), (SELECT count(*) FROM bookings.bookings) FROM bookings.ticket_flights",
    )
    equal(
        flights,
        "SELECT sum(total_amount) FROM (SELECT DISTINCT book_nk, total_amount FROM"
        " mart.fct_booking_ticket) b",
        "SELECT sum(total_amount) FROM bookings.bookings",
    )


def test_facts_carry_the_attributes_of_the_joined_rows(flights: Flights) -> None:
    joined = (
        "SELECT c.ticket_no, c.flight_id, book_ref, passenger_id, departure_airport,"
        " arrival_airport, aircraft_code, flight_no, status, boarding_no, c.fare_conditions,"
        " seat_no FROM bookings.boarding_passes JOIN bookings.ticket_flights c USING (ticket_no,"
        " flight_id) JOIN bookings.tickets USING (ticket_no) JOIN bookings.flights USING"
        " (flight_id) ORDER BY 1, 2"
    )
    looked_up = (
        "SELECT ticket_no, flight_id, book_ref, passenger_nk, d.airport_nk, a.airport_nk,"
        " aircraft_nk, flight_no, status, boarding_no, fare_conditions, seat_no FROM"
        " mart.fct_boarding_pass b JOIN mart.dim_passenger p ON p.passenger_id = b.passenger_id"
        " JOIN mart.dim_airport d ON d.airport_id = b.departure_airport JOIN mart.dim_airport a ON"
        " a.airport_id = b.arrival_airport JOIN mart.dim_aircrafts c ON c.aircraft_id ="
        " b.aircraft_code ORDER BY 1, 2"
    )
    equal(flights, looked_up, joined)


def test_seats_of_arrived_flights_add_up(flights: Flights) -> None:
    assert flights.in_warehouse("SELECT count(*) FROM mart.dim_seat") == [(1339,)]
    equal(
        flights,
        "SELECT sum(seat_occupied), sum(total_seat) FROM mart.fct_seat_occupied_daily",
        "SELECT (SELECT count(*) FROM bookings.boarding_passes JOIN bookings.flights USING"
        " (flight_id) WHERE status = 'Arrived'), (SELECT count(*) FROM bookings.flights JOIN"
        " bookings.seats USING (aircraft_code) WHERE status = 'Arrived')",
    )
    wrong = (
        "total_seat - seat_occupied <> empty_seats OR empty_seats < 0 OR seat_occupied < 0 OR"
        " total_seat <= 0"
    )
    assert flights.in_warehouse(
        f"SELECT count(*) FROM mart.fct_seat_occupied_daily WHERE {wrong}"
    ) == [(0,)]


@pytest.mark.parametrize(("mart", "column"), KEYS)
def test_every_key_of_a_fact_exists_in_its_dimension(
    flights: Flights, mart: str, column: str
) -> None:
    dimension, key = str(dimension_of(column)).split(".")
    dangling = (
        f"SELECT count(*) FROM mart.{mart} f WHERE {column} IS NOT NULL "
        f"AND NOT EXISTS (SELECT FROM mart.{dimension} d WHERE d.{key} = f.{column})"
    )
    assert flights.in_warehouse(dangling) == [(0,)]
    nulls = flights.in_warehouse(
        f"SELECT count(*) FILTER (WHERE {column} IS NULL), count(*) FROM mart.{mart}"
    )[0]
    assert (0 < nulls[0] < nulls[1]) if column.startswith("actual_") else nulls[0] == 0


@pytest.mark.parametrize(
    ("mart", "key"),
    [
        *((mart, COLUMNS[mart][0]) for mart in COLUMNS if mart.startswith("dim_")),
        *(("dim_" + mart, f"{mart}_nk") for mart in ("airport", "passenger")),
        *(("dim_" + part, f"{part}_id") for part in ("date", "time")),
    ],
)
def test_keys_of_dimensions_are_unique(flights: Flights, mart: str, key: str) -> None:
    counts = f"SELECT count(*), count(DISTINCT {key}), count({key}) FROM mart.{mart}"
    [(rows, different, known)] = flights.in_warehouse(counts)
    assert rows == different == known > 0


def test_a_surrogate_key_is_a_hash_of_the_natural_key(flights: Flights) -> None:
    known = flights.in_warehouse("SELECT airport_nk, airport_id FROM mart.dim_airport")
    assert {
        code: int.from_bytes(hashlib.md5(code.encode()).digest()[:8], "big", signed=True)
        for code, _ in known
    } == dict(known)


def test_names_are_english(flights: Flights) -> None:
    equal(
        flights,
        "SELECT airport_nk, airport_name, city, coordinates::text, timezone FROM mart.dim_airport"
        " ORDER BY 1",
        "SELECT airport_code, airport_name ->> 'en', city ->> 'en', coordinates::text, timezone "
        "FROM bookings.airports_data ORDER BY 1",
    )
    equal(
        flights,
        "SELECT aircraft_nk, model, range FROM mart.dim_aircrafts ORDER BY 1",
        "SELECT aircraft_code, model ->> 'en', range FROM bookings.aircrafts_data ORDER BY 1",
    )


def test_delays_and_durations_are_unknown_until_the_flight_has_moved(flights: Flights) -> None:
    equal(
        flights,
        "SELECT flight_nk, delay_departure, delay_arrival, travel_time FROM"
        " mart.fct_flight_activity ORDER BY 1",
        "SELECT flight_id, actual_departure - scheduled_departure, actual_arrival -"
        " scheduled_arrival, actual_arrival - actual_departure FROM bookings.flights ORDER BY 1",
    )


def test_the_calendar_has_every_day_and_the_clock_every_minute(flights: Flights) -> None:
    [(days, first, last)] = flights.in_warehouse(
        "SELECT count(*), min(date_id), max(date_id) FROM mart.dim_date"
    )
    assert (days, first, last) == (14610, 20100101, 20491231)
    [monday] = flights.in_warehouse(
        "SELECT full_date::text, quarter, month_name, iso_week, day_of_week, day_name, is_weekend "
        "FROM mart.dim_date WHERE date_id = 20170814"
    )
    assert monday == ("2017-08-14", 3, "August", 33, 1, "Monday", False)
    [(minutes, last)] = flights.in_warehouse("SELECT count(*), max(time_id) FROM mart.dim_time")
    assert (minutes, last) == (1440, 2359)
    assert flights.in_warehouse(
        "SELECT hour, minute, time_of_day::text, part_of_day FROM mart.dim_time WHERE time_id = 705"
    ) == [(7, 5, "07:05:00", "morning")]


def test_facts_are_built_after_their_dimensions() -> None:
    order = list(transform_inputs(flights_pipeline()))
    assert sorted(order) == sorted(MARTS)
    for fact in FACTS:
        dimensions = {str(dimension_of(c)).split(".")[0] for c in COLUMNS[fact] if dimension_of(c)}
        assert dimensions <= set(transform_inputs(flights_pipeline())[fact].transforms)
        assert all(order.index(dimension) < order.index(fact) for dimension in dimensions)
