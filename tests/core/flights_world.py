"""The flights pipeline on a generated source, and the oracle that says whether its marts equal a
rebuild."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from demo.flights import generate
from demo.servers import PostgresServer, S3Server
from loadsheet.connections.lookup import Connection
from loadsheet.engine.runner import run_pipeline
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.warehouse.parameters import bind_parameters
from tests.granted import Granted
from tests.project import ROOT, Project

MARTS = (
    "dim_aircrafts",
    "dim_airport",
    "dim_date",
    "dim_passenger",
    "dim_seat",
    "dim_time",
    "fct_boarding_pass",
    "fct_booking_ticket",
    "fct_flight_activity",
    "fct_seat_occupied_daily",
)
_REQUEST = RunRequest(run_id="oracle")


def flights_pipeline() -> Pipeline:
    """The pipeline in `pipelines/flights`, as it is."""
    return load_pipeline(ROOT / "pipelines" / "flights" / "pipeline.yml")


@dataclass
class Flights(Project):
    """The flights pipeline between two databases of a test."""

    name: str = "flights"

    def __post_init__(self) -> None:
        self._granted = Granted(ROOT)

    def connections(self, conn_id: str) -> Connection:
        """The spec's own connection ids."""
        return super().connections({"flights_source": "shop_source"}.get(conn_id, conn_id))

    def go(self, **request: Any) -> dict[str, Outcome]:
        """Run and expect that nothing failed; what became of each step, by its plain name for
        transforms."""
        asked = RunRequest(run_id=f"test__{secrets.token_hex(4)}", **request)
        results = run_pipeline(flights_pipeline(), asked, self.connections).values()
        failed = [r.result for r in results if isinstance(r.result, Exception)]
        if failed:
            raise failed[0]
        return {r.step.name if r.step.kind == "transform" else r.step.id: r.result for r in results}  # type: ignore[misc]

    def keep_marts(self, schema: str) -> None:
        """Copy every mart as it is now into `schema`."""
        self.in_warehouse(f"CREATE SCHEMA {schema}")
        for mart in MARTS:
            self.in_warehouse(f"CREATE TABLE {schema}.{mart} AS TABLE mart.{mart}")

    def rebuild(self) -> None:
        """Drop the marts and all memory of them, then build them from staging."""
        self.in_warehouse("DROP SCHEMA mart CASCADE; DELETE FROM loadsheet.transform_run")
        self.go(only=frozenset())

    def differing(self, one: str = "mart", other: str = "kept") -> dict[str, int]:
        """Rows by which marts of two schemas differ, `EXCEPT ALL` both ways over every column;
        equal ones left out."""
        with psycopg.connect(self.warehouse) as session:
            counts = {
                m: difference(session, f"TABLE {one}.{m}", f"TABLE {other}.{m}") for m in MARTS
            }
        return {mart: count for mart, count in counts.items() if count}

    def stale(self) -> dict[str, int]:
        """Rows by which marts differ from their SELECT over all of staging; equal ones left out."""
        with psycopg.connect(self.warehouse) as session:
            counts = {
                t.name: difference(session, f"TABLE mart.{t.name}", select(session, t.sql, 0))
                for t in flights_pipeline().transforms
            }
        return {mart: count for mart, count in counts.items() if count}


def new_flights(folder: Path, postgres: PostgresServer, s3: S3Server, scale: str | int) -> Flights:
    """A generated source, an empty warehouse."""
    source, warehouse = (
        postgres.create_database(f"flights_{secrets.token_hex(6)}") for _ in range(2)
    )
    generate(source, scale)
    return Flights(folder, source, warehouse, s3)


def drop(postgres: PostgresServer, flights: Flights) -> None:
    """Drop its databases."""
    for dsn in (flights.source, flights.warehouse):
        postgres.drop_database(dsn.rpartition("/")[2])


def select(session: psycopg.Connection[Any], text: str, since_load: int) -> str:
    """A transform's SELECT with its parameters filled in."""
    return bind_parameters(text, _REQUEST, since_load).as_string(session)


def difference(session: psycopg.Connection[Any], one: str, other: str) -> int:
    """Rows of either query that the other lacks."""
    return missing(session, one, other) + missing(session, other, one)


def missing(session: psycopg.Connection[Any], some: str, others: str) -> int:
    """Rows of `some` that `others` lacks, as often as it lacks them. Compared as text: points know
    no `=`."""
    as_text = "SELECT ROW(q.*)::text FROM ({}) q"
    query = f"SELECT count(*) FROM ({as_text} EXCEPT ALL {as_text}) d".format(some, others)
    row = session.execute(sql.SQL(query)).fetchone()
    assert row
    return int(row[0])
