"""What the SQL of a transform reads: tables, and other transforms."""

from __future__ import annotations

import pytest

from loadsheet.spec.models import (
    Inputs,
)
from tests.unit.transforms import inputs


@pytest.mark.parametrize(
    ("sql", "tables", "transforms"),
    [
        (
            "SELECT * FROM staging.bookings b JOIN staging.flights USING (x)",
            ["bookings", "flights"],
            [],
        ),
        ("SELECT * FROM flights, bookings", ["bookings", "flights"], []),
        ("SELECT * FROM STAGING.Bookings", ["bookings"], []),
        ('SELECT * FROM "staging"."Seat Map"', ["Seat Map"], []),
        ("SELECT * FROM mart.dim_airport JOIN other ON true", [], ["other", "dim_airport"]),
        ("SELECT (SELECT max(x) FROM flights) FROM generate_series(1, 2)", ["flights"], []),
        ("SELECT 1 FROM bookings WHERE EXISTS (SELECT FROM mart.other)", ["bookings"], ["other"]),
        (
            "SELECT 1 FROM bookings UNION ALL (SELECT 2 FROM flights EXCEPT SELECT 3 FROM other)",
            ["bookings", "flights"],
            ["other"],
        ),
        (
            (
                "SELECT * FROM bookings b, LATERAL (SELECT * FROM flights f WHERE f.x = b.x) l,"
                " LATERAL each(j) AS j(k, v)"
            ),
            ["bookings", "flights"],
            [],
        ),
        ("SELECT * FROM ONLY staging.bookings TABLESAMPLE system (1)", ["bookings"], []),
        ("SELECT * FROM bookings FOR UPDATE OF bookings", ["bookings"], []),
        ("TABLE bookings", ["bookings"], []),
        ("VALUES (1, 'bookings')", [], []),
        ("SELECT 'FROM bookings' /* FROM flights */ -- FROM flights", [], []),
        (
            (
                "SELECT * FROM pg_catalog.pg_class JOIN pg_stat_activity ON true JOIN"
                " information_schema.tables ON true"
            ),
            [],
            [],
        ),
        ("SELECT * FROM loadsheet.load", [], []),
    ],
)
def test_reads_of_a_select(sql: str, tables: list[str], transforms: list[str]) -> None:
    assert inputs(sql) == Inputs(tuple(tables), tuple(transforms))


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("WITH bookings AS (SELECT 1) SELECT * FROM bookings", []),
        ("WITH bookings AS (SELECT * FROM bookings) SELECT * FROM bookings", ["bookings"]),
        ("WITH bookings AS (SELECT 1), x AS (SELECT * FROM bookings) SELECT * FROM x", []),
        (
            "WITH x AS (SELECT * FROM bookings), bookings AS (SELECT 1) SELECT * FROM x",
            ["bookings"],
        ),
        (
            (
                "WITH RECURSIVE bookings AS (SELECT 1 UNION ALL SELECT n FROM bookings) SELECT *"
                " FROM bookings"
            ),
            [],
        ),
        ("WITH bookings AS (SELECT 1) SELECT * FROM staging.bookings", ["bookings"]),
        ("WITH bookings AS (SELECT 1) SELECT 1 UNION SELECT * FROM bookings", []),
        (
            "SELECT * FROM (WITH bookings AS (SELECT 1) SELECT * FROM bookings) q, bookings",
            ["bookings"],
        ),
        (
            (
                "WITH a AS (WITH flights AS (SELECT * FROM bookings) SELECT * FROM flights) SELECT"
                " * FROM a"
            ),
            ["bookings"],
        ),
        ('WITH "Bookings" AS (SELECT 1) SELECT * FROM Bookings', ["bookings"]),
        (
            "WITH bookings AS (SELECT 1) SELECT (SELECT max(x) FROM bookings) FROM flights",
            ["flights"],
        ),
    ],
)
def test_a_cte_hides_a_table_only_in_its_reach(sql: str, tables: list[str]) -> None:
    assert inputs(sql).tables == tuple(tables)


@pytest.mark.parametrize(
    ("sql", "tables", "transforms"),
    [
        (
            (
                "INSERT INTO mart.me (a) SELECT a FROM bookings ON CONFLICT (a) DO UPDATE SET a ="
                " excluded.a"
            ),
            ["bookings"],
            [],
        ),
        ("INSERT INTO mart.other SELECT * FROM bookings", ["bookings"], []),
        ("WITH x AS (SELECT * FROM flights) INSERT INTO mart.me SELECT * FROM x", ["flights"], []),
        ("CREATE TABLE mart.me AS SELECT * FROM flights", ["flights"], []),
        ("CREATE VIEW mart.v AS SELECT * FROM flights", ["flights"], []),
        ("SELECT * INTO mart.me FROM flights", ["flights"], []),
        (
            (
                "MERGE INTO mart.other o USING staging.bookings b ON o.x = b.x WHEN MATCHED THEN"
                " DELETE"
            ),
            ["bookings"],
            [],
        ),
        (
            (
                "MERGE INTO mart.me o USING (SELECT * FROM other) b ON o.x = b.x WHEN MATCHED THEN"
                " DELETE"
            ),
            [],
            ["other"],
        ),
        (
            "UPDATE mart.other SET x = (SELECT max(x) FROM flights) FROM bookings b WHERE b.x = 1",
            ["bookings", "flights"],
            [],
        ),
        (
            (
                "DELETE FROM mart.me USING bookings b WHERE true; DELETE FROM mart.me WHERE x IN"
                " (SELECT x FROM flights)"
            ),
            ["bookings", "flights"],
            [],
        ),
        (
            (
                "DROP TABLE bookings; TRUNCATE mart.other; ALTER TABLE mart.other ADD x int;"
                " ANALYZE bookings;COMMENT ON TABLE mart.other IS 'x'; CREATE INDEX i ON mart.other"
                " (x); GRANT SELECT ON mart.other TO public;SET work_mem = '1GB'"
            ),
            [],
            [],
        ),
        ("CREATE TABLE mart.x (id int REFERENCES mart.other (id))", [], []),
        (
            (
                "CREATE TEMP TABLE bookings AS SELECT * FROM staging.bookings; SELECT * FROM"
                " bookings, flights"
            ),
            ["bookings", "flights"],
            [],
        ),
        ("CREATE TEMP TABLE bookings (x int); INSERT INTO mart.me SELECT * FROM bookings", [], []),
        ("CREATE TABLE staging.scratch AS SELECT 1; SELECT * FROM staging.scratch", [], []),
        (
            "DO $$ BEGIN INSERT INTO mart.me SELECT * FROM staging.bookings; END $$",
            ["bookings"],
            [],
        ),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 FROM mart.other $$",
            [],
            ["other"],
        ),
        (
            (
                "DO $$ BEGIN EXECUTE 'select 1 from staging.nowhere'; PERFORM 1 FROM"
                " staging.nowhere; END $$"
            ),
            [],
            [],
        ),
        ("", [], []),
    ],
)
def test_reads_of_a_script(sql: str, tables: list[str], transforms: list[str]) -> None:
    assert inputs(sql, "script") == Inputs(tuple(tables), tuple(transforms))


@pytest.mark.parametrize(
    "expression",
    [
        "DISTINCT ON (a) a",
        "a::numeric(10,2)::text",
        "x AT TIME ZONE 'utc' AT TIME ZONE tz",
        "j->>'en', j#>>'{a,b}', j @> '{}'::jsonb, j ? 'k'",
        "a[1:2], a[1], a[1:][:2], coordinates[0]",
        (
            "count(*) FILTER (WHERE x) OVER (PARTITION BY y ORDER BY z ROWS BETWEEN UNBOUNDED"
            " PRECEDING AND CURRENT ROW)"
        ),
        (
            "percentile_cont(0.5) WITHIN GROUP (ORDER BY x), extract(epoch FROM a - b), a IS NOT"
            " DISTINCT FROM b"
        ),
        (
            "ROW(1, 2), ARRAY[1, 2], (r).field, a COLLATE \"C\", make_interval(days => 1), E'\\n',"
            " U&'\\0441'"
        ),
        (
            "md5(a || '|' || b)::uuid, date_trunc('day', x) + interval '1 day', to_char(x,"
            " 'YYYYMMDD')::int"
        ),
    ],
)
def test_postgresql_expressions_are_understood(expression: str) -> None:
    assert inputs(f"SELECT {expression} FROM staging.bookings").tables == ("bookings",)


def test_all_parameters_may_be_used() -> None:
    sql = (
        "SELECT :run_id::text FROM bookings WHERE _load_id > :since_load AND t >= :interval_start"
        " AND t < :interval_end"
    )
    assert inputs(sql).tables == ("bookings",)
