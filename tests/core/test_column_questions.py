"""The columns of a source table are asked for by a cheaper statement where all have plain types."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from loadsheet.source import catalog

OWN = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (n int, m mood);
CREATE DOMAIN felt AS mood;
CREATE DOMAIN grade AS int;
CREATE DOMAIN grades AS int[];
CREATE TABLE plain (
    id int PRIMARY KEY, name varchar(5), tags char(3)[], n numeric(9, 2)[], at timestamptz(3),
    span interval day to second(2), bits bit(3), vector oidvector, loose text COLLATE tolerant,
    twice int GENERATED ALWAYS AS (id * 2) STORED, rough real DEFAULT 1
);
CREATE TABLE own (
    id int PRIMARY KEY, m mood, ms mood[], p pair, ps pair[], f felt, g grade, gs grade[],
    gg grades, name regclass, names regclass[], rights aclitem[]
);
"""
# The embedded server has no ICU, which makes such a collation.
TOLERANT = """
CREATE COLLATION tolerant FROM "C";
UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'tolerant';
"""


@pytest.fixture
def described(connection: psycopg.Connection[Any]) -> dict[str, list[dict[str, Any]]]:
    """What each of the two statements answers about all relations of a database, its catalogs
    among them."""
    connection.execute(TOLERANT + OWN)
    relations = "SELECT oid FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')"
    oids = [row[0] for row in connection.execute(relations)]
    answers = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for name in ("_PLAIN_COLUMNS", "_COLUMNS"):
            cursor.execute(getattr(catalog, name), {"oids": oids})
            answers[name] = cursor.fetchall()
    return answers


def test_both_statements_describe_columns_of_plain_types_alike(
    described: dict[str, list[dict[str, Any]]],
) -> None:
    """Only those that are no plain ones differ: the control."""
    plain = others = 0
    for one, full in zip(described["_PLAIN_COLUMNS"], described["_COLUMNS"], strict=True):
        if one.pop("is_plain"):
            plain += 1
            assert one == full
        else:
            others += one != full
    assert plain > 1000 and others > 20


def test_plain_types_are_those_that_come_with_postgresql(
    connection: psycopg.Connection[Any], described: dict[str, list[dict[str, Any]]]
) -> None:
    found = {}
    for table in ("plain", "own"):
        [(oid,)] = connection.execute("SELECT %s::regclass::oid", (f"public.{table}",)).fetchall()
        rows = [row for row in described["_PLAIN_COLUMNS"] if row["relation"] == oid]
        found[table] = {row["name"] for row in rows if row["is_plain"]}
    assert len(found["plain"]) == 11 and found["own"] == {"id"}
