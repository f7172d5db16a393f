"""The lineage of the flights marts. The oracle is an experiment: the values of one staging column
are changed, and what then differs in a mart has to be in the lineage, and the other way round."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer, S3Server
from tests.core.flights_world import Flights, drop, flights_pipeline, new_flights, select
from tests.core.lineage_of import Ends, ends_of, read, written
from tests.project import ROOT

GOLDEN = Path(__file__).with_name("lineage_flights.txt")
Changes = dict[tuple[str, str], set[str]]
"""Staging column and mart -> the mart's columns that differ; `rows` where their number does."""


@pytest.fixture(scope="module")
def flights(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Flights]:
    made = new_flights(tmp_path_factory.mktemp("flights"), postgres, s3, 60)
    made.go()
    yield made
    drop(postgres, made)


@pytest.fixture(scope="module")
def golden() -> dict[str, Ends]:
    return read(GOLDEN.read_text().splitlines())


@pytest.fixture(scope="module")
def changes(flights: Flights) -> Changes:
    """What differs in each mart when the values of one staging column change."""
    found: Changes = {}
    with psycopg.connect(flights.warehouse) as session:
        columns = prepare(session)
        queries = digest_queries(session)
        before = digests(session, queries)
        for table, column, type_name in columns:
            with session.transaction(force_rollback=True):
                change(session, table, column, type_name)
                for mart, digest in digests(session, queries, table).items():
                    differing = {name for name in digest if digest[name] != before[mart][name]}
                    found[f"{table}.{column}", mart] = differing
        session.rollback()
    return found


def prepare(session: psycopg.Connection[Any]) -> list[tuple[str, str, str]]:
    """Let staging take any value, and count half of its rows as loaded later; its columns."""
    columns = session.execute(
        "SELECT table_name::text, column_name::text, data_type::text"
        " FROM information_schema.columns WHERE table_schema = 'staging'"
    ).fetchall()
    for table in {table for table, _, _ in columns}:
        for (key,) in session.execute(
            # From PostgreSQL 18 on, NOT NULL is one of them, and stays while there is a key.
            "SELECT conname::text FROM pg_constraint WHERE conrelid = %s::regclass"
            " ORDER BY contype = 'n'",
            (f"staging.{table}",),
        ).fetchall():
            session.execute(f"ALTER TABLE staging.{table} DROP CONSTRAINT {key}")
        # By the place, not by the row: created_at differs from run to run. With most places, the
        # rows of fct_boarding_pass that a new ticket brings are there without it.
        place = "abs(hashtext('c' || ctid::text))"
        session.execute(f"UPDATE staging.{table} SET _load_id = 1 + {place} % 2")
    for table, column, _ in columns:
        session.execute(f"ALTER TABLE staging.{table} ALTER {column} DROP NOT NULL")
    # Else no flight that has arrived shows when it was to leave.
    session.execute("UPDATE staging.flights SET actual_departure = NULL WHERE flight_id % 5 = 0")
    return [one for one in columns if one[1] != "_load_id"]


def change(session: psycopg.Connection[Any], table: str, column: str, type_name: str) -> None:
    """A third of the rows get NULL, the others the value of another row; times become later than
    all that there are."""
    later = " + interval '9000 days'" if type_name.startswith("timestamp") else ""
    session.execute(
        f"UPDATE staging.{table} t SET {column} = CASE WHEN n % 3 > 0 THEN other{later} END"
        f" FROM (SELECT ctid, row_number() OVER () AS n,"
        f" lag({column}, 1, {column}) OVER (ORDER BY {column}::text) AS other"
        f" FROM staging.{table}) o WHERE o.ctid = t.ctid"
    )


def digest_queries(session: psycopg.Connection[Any]) -> dict[str, str]:
    """A query for each mart with an input: of each column a hash of its values, and the number of
    rows, twice: built in full, and from what was loaded later."""
    queries = {}
    for transform in flights_pipeline().transforms:
        if "staging." not in transform.sql:
            continue
        builds = [select(session, transform.sql, since) for since in (0, 1)]
        names = [one.name for one in session.execute(f"{builds[0]} LIMIT 0").description or ()]
        hashes = [f"sum(hashtextextended(coalesce({name}::text, ''), 0)) {name}" for name in names]
        digests = [f"SELECT count(*) AS rows, {', '.join(hashes)} FROM ({one}) q" for one in builds]
        queries[transform.name] = " UNION ALL ".join(digests)
    return queries


def digests(
    session: psycopg.Connection[Any], queries: Mapping[str, str], reading: str = ""
) -> dict[str, dict[str, Any]]:
    """The digests of each mart that reads the staging table: by column, and `rows`."""
    found = {}
    for mart, query in queries.items():
        if f"staging.{reading}" in query:
            result = session.execute(query)
            names = [one.name for one in result.description or ()]
            found[mart] = dict(zip(names, zip(*result.fetchall(), strict=True), strict=True))
    return found


def unexplained(changes: Changes, lineage: Mapping[str, Ends]) -> set[str]:
    """`column of a mart <- staging column` for each difference that the lineage does not have."""
    found = set()
    for (source, mart), differing in changes.items():
        rows = hows_of(lineage[f"rows of {mart}"], source)
        # What only groups rows changes no value of another column as long as no group is gone.
        if rows == {"group_by"} and "rows" not in differing:
            rows = set()
        for name in differing - {"rows"}:
            if not rows and not hows_of(lineage[f"{mart}.{name}"], source):
                found.add(f"{mart}.{name} <- {source}")
        if "rows" in differing and not rows:
            found.add(f"rows of {mart} <- {source}")
    return found


def hows_of(ends: Ends, source: str) -> set[str]:
    return {how for how, names in ends.items() if source in names}


def test_every_column_of_the_marts_is_traced(flights: Flights) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "loadsheet", "--project", str(ROOT), "lineage", "flights", "--json"],
        env=flights.environment(),
        text=True,
        capture_output=True,
        check=True,
    )
    document = json.loads(result.stdout)
    assert written(ends_of(document)) == GOLDEN.read_text().splitlines()
    assert not any(table["not_traced"] or table["rows_unknown"] for table in document["tables"])
    unknown = [column["unknown"] for table in document["tables"] for column in table["columns"]]
    assert not any(unknown)


def test_what_changes_with_a_source_column_is_in_the_lineage(
    changes: Changes, golden: dict[str, Ends]
) -> None:
    assert len(changes) > 100
    assert unexplained(changes, golden) == set()


def test_what_is_in_the_lineage_changes_with_its_source_column(
    changes: Changes, golden: dict[str, Ends]
) -> None:
    idle = set()
    for name, ends in golden.items():
        mart, _, column = name.partition(".")
        for source in ends.get("direct", set()):
            if not source.endswith(".*") and column not in changes[source, mart]:
                idle.add(f"{name} <- {source}")
    assert idle == set()


def test_columns_of_the_same_name_are_no_lineage(changes: Changes, golden: dict[str, Ends]) -> None:
    """The negative control: a guess by names, and a lineage that lacks one column."""
    sources = {source for source, _ in changes}
    by_name = {
        name: {"direct": {one for one in sources if one.endswith("." + name.partition(".")[2])}}
        for name in golden
    }
    wrong = unexplained(changes, by_name)
    assert "dim_airport.airport_nk <- airports_data.airport_code" in wrong
    assert "fct_booking_ticket.book_local_date_id <- bookings.book_date" in wrong
    name = "fct_booking_ticket.book_local_date_id"
    lacking = {**golden, name: {"direct": {"airports_data.timezone"}}}
    assert unexplained(changes, lacking) == {f"{name} <- bookings.book_date"}
