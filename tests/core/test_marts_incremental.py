"""The flights marts after changes in the source: each reaches every mart it concerns, and no more
is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.flights import a_day_passes
from demo.servers import PostgresServer, S3Server
from loadsheet.outcome import Outcome
from loadsheet.spec.models import Transform
from tests.core.flights_world import Flights, drop, flights_pipeline, missing, new_flights, select

FACTS = ("fct_boarding_pass", "fct_booking_ticket", "fct_flight_activity")
INPUT = re.compile(r"(?:(\w+)\.)?_load_id > :since_load")
TABLES = frozenset(table.name for table in flights_pipeline().tables)


@dataclass
class Changed:
    """The pipeline after a second run over targeted changes; `places` are the rows they were made
    to."""

    flights: Flights
    places: dict[str, Any]
    since_load: int
    outcomes: dict[str, Outcome]

    def mart(self, columns: str, mart: str, condition: str) -> list[tuple[Any, ...]]:
        """Rows of a mart; `{name}` in the condition is a place."""
        return self.flights.in_warehouse(
            f"SELECT {columns} FROM mart.{mart} WHERE {condition}".format(**self.places)
        )


@pytest.fixture
def flights(tmp_path: Path, postgres: PostgresServer, s3: S3Server) -> Iterator[Flights]:
    made = new_flights(tmp_path, postgres, s3, 400)
    made.go()
    yield made
    drop(postgres, made)


@pytest.fixture(scope="module")
def changed(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Changed]:
    made = new_flights(tmp_path_factory.mktemp("flights"), postgres, s3, 400)
    made.go()
    made.keep_marts("kept")
    since, places = last_number(made), places_to_change(made)
    made.in_source(CHANGES.format(**places))
    yield Changed(made, places, since, made.go())
    drop(postgres, made)


CHANGES = """
UPDATE bookings.bookings SET total_amount = 123456.78 WHERE book_ref = '{book_ref}';
UPDATE bookings.tickets SET passenger_id = '9999 999999', passenger_name = 'ANNA K'
    WHERE ticket_no = '{ticket_no}';
UPDATE bookings.ticket_flights SET fare_conditions = 'Comfort', amount = 1.23
    WHERE ticket_no = '{coupon}';
UPDATE bookings.boarding_passes SET seat_no = '99Z' WHERE ticket_no = '{pass}';
UPDATE bookings.flights SET
    scheduled_departure = '2017-08-20 21:30+00', actual_departure = '2017-08-20 22:45+00',
    scheduled_arrival = '2017-08-21 00:30+00', actual_arrival = '2017-08-21 01:30+00'
    WHERE flight_id = {flight_id};
UPDATE bookings.airports_data
    SET timezone = 'Pacific/Kiritimati', airport_name = '{{"en": "Elsewhere"}}'
    WHERE airport_code = '{airport}';
"""


def places_to_change(flights: Flights) -> dict[str, Any]:
    """Rows to change, so chosen that each change is the only reason to compute some row of each
    fact again."""
    [(airport,)] = flights.in_source(
        "SELECT departure_airport FROM bookings.boarding_passes JOIN bookings.flights f USING"
        " (flight_id) WHERE EXISTS (SELECT FROM bookings.boarding_passes JOIN bookings.flights a"
        " USING (flight_id) WHERE a.arrival_airport = f.departure_airport) GROUP BY 1 ORDER BY"
        " count(*), 1 LIMIT 1"
    )
    elsewhere = flights.in_source(
        "SELECT book_ref, ticket_no, flight_id FROM bookings.boarding_passes JOIN bookings.tickets"
        " USING (ticket_no) JOIN bookings.flights USING (flight_id) WHERE %s NOT IN"
        " (departure_airport, arrival_airport) AND status = 'Arrived' AND passenger_id IN (SELECT"
        " passenger_id FROM bookings.tickets GROUP BY 1 HAVING count(*) > 1) ORDER BY 1, 2, 3",
        airport,
    )
    apart: list[tuple[Any, ...]] = []
    for row in elsewhere:
        if not any(set(row) & set(taken) for taken in apart):
            apart.append(row)
    booking, ticket, coupon, boarding, flight = apart[:5]
    return {
        "airport": airport,
        "book_ref": booking[0],
        "ticket_no": ticket[1],
        "coupon": coupon[1],
        "pass": boarding[1],
        "flight_id": flight[2],
    }


def last_number(flights: Flights) -> int:
    """The newest load number there is."""
    return int(flights.in_warehouse("SELECT last_value FROM loadsheet.load_no")[0][0])


def test_marts_equal_a_rebuild_after_targeted_changes(changed: Changed) -> None:
    assert changed.flights.stale() == {}
    built = changed.flights.in_warehouse(
        "SELECT bool_or(full_build) FROM loadsheet.transform_run WHERE since_load > 0 OR run_no"
        " > %s",
        changed.since_load,
    )
    assert built == [(False,)]


@pytest.mark.parametrize(
    ("columns", "mart", "condition", "expected"),
    [
        (
            "DISTINCT total_amount::text",
            "fct_booking_ticket",
            "book_nk = '{book_ref}'",
            [("123456.78",)],
        ),
        ("passenger_name", "dim_passenger", "passenger_nk = '9999 999999'", [("ANNA K",)]),
        ("DISTINCT amount::text", "fct_booking_ticket", "ticket_no = '{coupon}'", [("1.23",)]),
        ("DISTINCT fare_conditions", "fct_boarding_pass", "ticket_no = '{coupon}'", [("Comfort",)]),
        ("DISTINCT seat_no", "fct_boarding_pass", "ticket_no = '{pass}'", [("99Z",)]),
        (
            "airport_name, timezone",
            "dim_airport",
            "airport_nk = '{airport}'",
            [("Elsewhere", "Pacific/Kiritimati")],
        ),
        (
            "delay_departure::text, delay_arrival::text, travel_time::text",
            "fct_flight_activity",
            "flight_nk = {flight_id}",
            [("01:15:00", "01:00:00", "02:45:00")],
        ),
        (
            "date_flight IN (20170820, 20170821)",
            "fct_seat_occupied_daily",
            "flight_nk = {flight_id}",
            [(True,)],
        ),
    ],
)
def test_a_change_reaches_the_mart(
    changed: Changed, columns: str, mart: str, condition: str, expected: Any
) -> None:
    assert changed.mart(columns, mart, condition) == expected


@pytest.mark.parametrize(
    ("mart", "key"),
    [
        ("fct_boarding_pass", "flight_id"),
        ("fct_booking_ticket", "flight_nk"),
        ("fct_flight_activity", "flight_nk"),
    ],
)
def test_a_delayed_flight_reaches_its_facts(changed: Changed, mart: str, key: str) -> None:
    columns = (
        "DISTINCT scheduled_departure_utc_date_id, scheduled_departure_utc_time_id,"
        " scheduled_arrival_utc_time_id"
    )
    assert changed.mart(columns, mart, key + " = {flight_id}") == [(20170820, 2130, 30)]


def moment(event: str) -> str:
    """SQL for the time that a pair of keys stands for."""
    return f"to_timestamp({event}_date_id || lpad({event}_time_id::text, 4, '0'), 'YYYYMMDDHH24MI')"


@pytest.mark.parametrize("mart", FACTS)
def test_local_keys_follow_the_airports_time_zone(changed: Changed, mart: str) -> None:
    for event in ("departure", "arrival"):
        local, utc = (moment(f"scheduled_{event}_{zone}") for zone in ("local", "utc"))
        there = f"JOIN mart.dim_airport p ON p.airport_id = f.{event}_airport"
        shifts = changed.mart(
            f"DISTINCT ({local} - {utc})::text", f"{mart} f {there}", "airport_nk = '{airport}'"
        )
        assert shifts == [("14:00:00",)]  # Pacific/Kiritimati


def test_a_ticket_of_another_passenger_takes_its_facts_along(changed: Changed) -> None:
    for fact in ("fct_booking_ticket", "fct_boarding_pass"):
        looked_up = f"{fact} f JOIN mart.dim_passenger p ON p.passenger_id = f.passenger_id"
        assert changed.mart("DISTINCT passenger_nk", looked_up, "ticket_no = '{ticket_no}'") == [
            ("9999 999999",)
        ]


def test_only_rows_that_differ_are_written(changed: Changed) -> None:
    outcomes = changed.outcomes
    assert outcomes["dim_airport"].counts == {"inserted": 0, "updated": 1, "deleted": 0}
    for name in ("dim_date", "dim_time", "dim_aircrafts", "dim_seat"):
        assert outcomes[name].skipped
    differing = changed.flights.differing()
    for fact in FACTS:
        assert outcomes[fact].counts["updated"] * 2 == differing[fact] > 0
        assert outcomes[fact].counts["inserted"] == outcomes[fact].counts["deleted"] == 0


def inputs() -> Iterator[tuple[str, int]]:
    """Every place where a fact's SQL asks an input for new rows. Aircraft (`p`) have a test of
    their own."""
    for fact in FACTS:
        for place, found in enumerate(INPUT.finditer(flights_pipeline().transform(fact).sql)):
            if found.group(1) != "p":
                yield fact, place


def without(transform: Transform, place: int) -> str:
    """The transform's SQL with one of its inputs ignored."""
    found = list(INPUT.finditer(transform.sql))[place]
    return transform.sql[: found.start()] + "false" + transform.sql[found.end() :]


def missed(flights: Flights, fact: str, text: str, since_load: int) -> int:
    """Rows that differ between the kept mart and a rebuild, and that the increment `text` does not
    return."""
    transform = flights_pipeline().transform(fact)
    with psycopg.connect(flights.warehouse) as session:
        due = f"{select(session, transform.sql, 0)} EXCEPT ALL TABLE kept.{fact}"
        return missing(session, due, select(session, text, since_load))


@pytest.mark.parametrize("fact", FACTS)
def test_an_increment_returns_every_row_that_a_rebuild_would_change(
    changed: Changed, fact: str
) -> None:
    assert (
        missed(changed.flights, fact, flights_pipeline().transform(fact).sql, changed.since_load)
        == 0
    )


@pytest.mark.parametrize(("fact", "place"), list(inputs()))
def test_an_increment_that_ignores_an_input_is_caught(
    changed: Changed, fact: str, place: int
) -> None:
    assert (
        missed(
            changed.flights,
            fact,
            without(flights_pipeline().transform(fact), place),
            changed.since_load,
        )
        > 0
    )


def test_a_key_waits_for_its_dimensions_row(flights: Flights) -> None:
    [(flight,)] = flights.in_source("SELECT min(flight_id) FROM bookings.boarding_passes")
    flights.in_source(
        "INSERT INTO bookings.aircrafts_data VALUES ('NEW', '{\"en\": \"Newcomer\"}', 1000);"
        f"UPDATE bookings.flights SET aircraft_code = 'NEW' WHERE flight_id = {flight}"
    )
    flights.go(only=TABLES - {"aircrafts_data"})
    code = (
        "SELECT aircraft_code, aircraft_nk FROM mart.fct_flight_activity "
        f"LEFT JOIN mart.dim_aircrafts ON aircraft_id = aircraft_code WHERE flight_nk = {flight}"
    )
    assert flights.in_warehouse(code) == [(None, None)]
    flights.keep_marts("kept")
    since = last_number(flights)
    flights.go()
    assert flights.in_warehouse(code)[0][1] == "NEW"
    assert flights.stale() == {}
    for fact in FACTS:
        transform = flights_pipeline().transform(fact)
        aircraft = [
            i for i, found in enumerate(INPUT.finditer(transform.sql)) if found.group(1) == "p"
        ]
        assert missed(flights, fact, transform.sql, since) == 0
        assert all(
            missed(flights, fact, without(transform, place), since) > 0 for place in aircraft
        )


def test_rows_leave_a_mart_with_their_reason(flights: Flights) -> None:
    [(arrived,)] = flights.in_source(
        "SELECT min(flight_id) FROM bookings.flights WHERE status = 'Arrived'"
    )
    [(alone,)] = flights.in_source(
        "SELECT min(passenger_id) FROM (SELECT passenger_id FROM bookings.tickets GROUP BY 1 HAVING"
        " count(*) = 1) p"
    )
    [(shared, newest)] = flights.in_source(
        "SELECT passenger_id, max(ticket_no) FROM bookings.tickets GROUP BY 1 HAVING count(*) > 1"
        " ORDER BY 1 LIMIT 1"
    )
    flights.in_source(
        f"UPDATE bookings.tickets SET passenger_name = 'NEWEST NAME' WHERE ticket_no = '{newest}';"
        f"UPDATE bookings.tickets SET passenger_name = 'MOVED', passenger_id = '{shared}' "
        f"WHERE passenger_id = '{alone}'"
    )
    flights.in_source(
        "UPDATE bookings.flights SET status = 'Departed', actual_arrival = NULL WHERE flight_id ="
        f" {arrived}"
    )
    flights.go()
    assert (
        flights.in_warehouse(
            f"SELECT FROM mart.fct_seat_occupied_daily WHERE flight_nk = {arrived}"
        )
        == []
    )
    assert (
        flights.in_warehouse(f"SELECT FROM mart.dim_passenger WHERE passenger_nk = '{alone}'") == []
    )
    assert flights.stale() == {}
    flights.in_source(
        f"UPDATE bookings.tickets SET passenger_id = '{alone}' WHERE passenger_name = 'MOVED'"
    )
    flights.go()
    assert flights.in_warehouse(
        f"SELECT passenger_name FROM mart.dim_passenger WHERE passenger_nk = '{shared}'"
    ) == [("NEWEST NAME",)]
    assert flights.stale() == {}


def test_marts_equal_a_rebuild_after_days_and_corrections(flights: Flights) -> None:
    for correction in (
        (
            'UPDATE bookings.aircrafts_data SET model = \'{"en": "Renamed"}\' WHERE aircraft_code'
            " = '773'"
        ),
        (
            "DELETE FROM bookings.seats WHERE ctid IN (SELECT min(ctid) FROM bookings.seats GROUP"
            " BY aircraft_code)"
        ),
        "UPDATE bookings.seats SET fare_conditions = 'Comfort' WHERE seat_no = '5A'",
    ):
        a_day_passes(flights.source)
        flights.in_source(correction)
        flights.go()
        assert flights.stale() == {}
    assert flights.in_warehouse("SELECT count(*) FROM mart.dim_seat") == [(1330,)]
    assert flights.in_warehouse(
        "SELECT model FROM mart.dim_aircrafts WHERE aircraft_nk = '773'"
    ) == [("Renamed",)]
    flights.keep_marts("kept")
    flights.rebuild()
    assert flights.differing() == {}


def test_a_run_without_news_builds_nothing(flights: Flights) -> None:
    runs = flights.in_warehouse("SELECT count(*) FROM loadsheet.transform_run")
    assert all(outcome.skipped for step, outcome in flights.go().items() if step != "create_bucket")
    assert flights.in_warehouse("SELECT count(*) FROM loadsheet.transform_run") == runs
