"""The flights source is the same for the same seed, consistent, and changes only as a day says it
does."""

from __future__ import annotations

import psycopg
import pytest

from demo.flights import a_day_passes, generate
from demo.flights.scales import SCALES
from demo.flights.tables import TABLES
from demo.servers import PostgresServer

INCONSISTENT = {
    "a booking's total is not the sum of its amounts": (
        """
        SELECT book_ref FROM bookings.bookings JOIN bookings.tickets USING (book_ref)
        JOIN bookings.ticket_flights USING (ticket_no) GROUP BY book_ref, total_amount
        HAVING sum(amount) <> total_amount"""
    ),
    "a booking without a ticket": (
        """
        SELECT book_ref FROM bookings.bookings LEFT JOIN bookings.tickets USING (book_ref)
        WHERE ticket_no IS NULL"""
    ),
    "a seat that the aircraft has not, or of another class": (
        """
        SELECT * FROM bookings.boarding_passes
        JOIN bookings.ticket_flights t USING (ticket_no, flight_id)
        JOIN bookings.flights USING (flight_id)
        LEFT JOIN bookings.seats s USING (aircraft_code, seat_no)
        WHERE s.fare_conditions IS DISTINCT FROM t.fare_conditions"""
    ),
    "a boarding pass for a flight that has not opened": (
        """
        SELECT * FROM bookings.boarding_passes JOIN bookings.flights USING (flight_id)
        WHERE status IN ('Scheduled', 'Cancelled')"""
    ),
    "a passenger left behind": (
        """
        SELECT * FROM bookings.ticket_flights JOIN bookings.flights USING (flight_id)
        LEFT JOIN bookings.boarding_passes USING (ticket_no, flight_id)
        WHERE status IN ('Departed', 'Arrived') AND seat_no IS NULL"""
    ),
    "times that contradict the status": (
        """
        SELECT * FROM bookings.flights
        WHERE (actual_departure IS NOT NULL) <> (status IN ('Departed', 'Arrived'))
        OR (actual_arrival IS NOT NULL) <> (status = 'Arrived') OR actual_departure > bookings.now()
        OR actual_arrival > bookings.now()
        OR (status = 'Scheduled' AND scheduled_departure < bookings.now())"""
    ),
    "a flight from a place other than where the last one ended": (
        """
        SELECT * FROM (SELECT departure_airport, lag(arrival_airport) OVER trip AS last,
                              scheduled_departure,
                              lag(scheduled_arrival) OVER trip AS landed
                       FROM bookings.ticket_flights JOIN bookings.flights USING (flight_id)
                       WINDOW trip AS (PARTITION BY ticket_no ORDER BY scheduled_departure)) legs
        WHERE last <> departure_airport OR landed > scheduled_departure"""
    ),
    "a time zone PostgreSQL does not know": (
        """
        SELECT * FROM bookings.airports_data
        WHERE timezone NOT IN (SELECT name FROM pg_timezone_names)"""
    ),
}


def rows_of(dsn: str) -> dict[str, list[str]]:
    """Every table as sorted lines of text."""
    with psycopg.connect(dsn) as connection:
        return {
            table: [
                line
                for (line,) in connection.execute(
                    f"SELECT t::text FROM bookings.{table} t ORDER BY 1"
                )
            ]
            for table in TABLES
        }


def counts_of(dsn: str) -> dict[str, int]:
    return {table: len(rows) for table, rows in rows_of(dsn).items()}


def contradictions(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as connection:
        found = {
            name: len(connection.execute(query).fetchall()) for name, query in INCONSISTENT.items()
        }
    return {name: count for name, count in found.items() if count}


@pytest.fixture(scope="module")
def source(postgres: PostgresServer) -> str:
    dsn = postgres.create_database("generated")
    generate(dsn)
    return dsn


def test_the_same_seed_gives_the_same_rows_in_every_column(two_databases: tuple[str, str]) -> None:
    for dsn in two_databases:
        generate(dsn, 400, seed=7)
    first, second = map(rows_of, two_databases)
    assert first == second


def test_another_seed_gives_other_rows(two_databases: tuple[str, str]) -> None:
    for seed, dsn in enumerate(two_databases):
        generate(dsn, 100, seed=seed)
    first, second = map(rows_of, two_databases)
    assert first["tickets"] != second["tickets"]


def test_the_demo_edition_has_its_size_and_the_fleet_and_airports_are_complete(source: str) -> None:
    counts, scale = counts_of(source), SCALES["demo"]
    assert (counts["aircrafts_data"], counts["seats"], counts["airports_data"]) == (9, 1339, 104)
    assert (counts["bookings"], counts["flights"]) == (scale.bookings, scale.flights)
    assert counts["tickets"] == pytest.approx(scale.tickets, rel=0.01)
    assert counts["ticket_flights"] == pytest.approx(scale.ticket_flights, rel=0.01)
    assert counts["boarding_passes"] == pytest.approx(scale.ticket_flights * scale.past, rel=0.02)


def test_each_aircraft_has_its_number_of_seats(source: str) -> None:
    with psycopg.connect(source) as connection:
        seats = dict(
            connection.execute(
                "SELECT aircraft_code, count(*) FROM bookings.seats GROUP BY 1"
            ).fetchall()
        )
    expected = {
        "773": 402,
        "763": 222,
        "SU9": 97,
        "320": 140,
        "321": 170,
        "319": 116,
        "733": 130,
        "CN1": 12,
        "CR2": 50,
    }
    assert seats == expected


def test_the_rows_do_not_contradict_each_other(source: str) -> None:
    assert contradictions(source) == {}


def test_some_contact_data_is_null_and_all_of_it_has_a_phone(source: str) -> None:
    query = (
        "SELECT count(*), count(contact_data), count(contact_data ->> 'phone') FROM"
        " bookings.tickets"
    )
    with psycopg.connect(source) as connection:
        total, given, phones = connection.execute(query).fetchone() or (0, 0, 0)
    assert 0 < total - given < total / 10 and phones == given


def test_updated_at_follows_an_update_and_created_at_does_not(database: str) -> None:
    generate(database, 50)
    with psycopg.connect(database) as connection:
        before = (
            "SELECT created_at, updated_at FROM bookings.seats WHERE aircraft_code = 'CN1' AND"
            " seat_no = '1A'"
        )
        created, _ = connection.execute(before).fetchone() or (None, None)
        connection.execute(
            "UPDATE bookings.seats SET fare_conditions = 'Economy' WHERE aircraft_code = 'CN1'"
        )
        now = connection.execute("SELECT pg_catalog.now()").fetchone()
        assert connection.execute(before).fetchone() == (created, *(now or ()))


def test_a_day_changes_what_it_says_and_nothing_else(database: str) -> None:
    generate(database, 600)
    for _ in range(3):
        before = rows_of(database)
        said = a_day_passes(database)
        after = rows_of(database)
        for table in TABLES:
            inserted, updated = said.get(table, (0, 0))
            assert len(after[table]) - len(before[table]) == inserted, table
            assert len(set(before[table]) - set(after[table])) == updated, table
        assert {
            "bookings",
            "tickets",
            "ticket_flights",
            "boarding_passes",
            "flights",
            "airports_data",
        } == set(said)
        assert said["airports_data"].updated == 1 and said["flights"].updated > 0


def test_days_leave_the_rows_consistent_even_after_the_first_schedule_has_ended(
    database: str,
) -> None:
    generate(database, 300)
    for _ in range(20):
        a_day_passes(database)
    assert contradictions(database) == {}


def test_the_rows_of_a_day_carry_the_real_time_in_updated_at(database: str) -> None:
    generate(database, 100)
    with psycopg.connect(database, autocommit=True) as connection:
        start = (connection.execute("SELECT clock_timestamp()").fetchone() or (None,))[0]
        said = a_day_passes(database)
        for table, (inserted, updated) in said.items():
            recent = f"SELECT count(*) FROM bookings.{table} WHERE updated_at >= %s"
            assert connection.execute(recent.encode(), (start,)).fetchone() == (
                inserted + updated,
            ), table


def test_a_day_with_no_room_for_the_bookings_asked_for_fails_and_keeps_the_rest(
    database: str,
) -> None:
    generate(database, 30)
    bookings = counts_of(database)["bookings"]
    with pytest.raises(RuntimeError, match="no room left for"):
        a_day_passes(database, bookings=50_000)
    assert counts_of(database)["bookings"] == bookings and contradictions(database) == {}


def test_an_unknown_scale_is_refused_with_the_known_ones(database: str) -> None:
    with pytest.raises(ValueError, match="demo, small, medium, big"):
        generate(database, "huge")
