"""No column that decides is left out of the lineage: what changes when a column of a staging table
does is compared with what `loadsheet lineage` says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet.sql.text import ident
from tests.core.test_lineage import said
from tests.project import Project

TABLES = """
CREATE SCHEMA staging;
CREATE TABLE staging.sale (id int, shop int, amount numeric, kind text, tags text[],
    at timestamptz, doc jsonb, flag bool);
CREATE TABLE staging.shop (id int, name text, city text, parent int);
CREATE TABLE staging."Odd Name" ("Id" int, "a.b" text, "sel""ect" text, "Ünï" text, "order" int);
INSERT INTO staging.sale
SELECT i, 1 + i % 3, i * 7 % 11, chr(97 + i % 4), ARRAY[chr(97 + i % 3), 'z'],
    '2026-01-01'::timestamptz + i * interval '7 hours',
    jsonb_build_object('k', i, 'l', jsonb_build_array(i, i + 1), 'name', 'a' || i % 3), i % 2 = 0
FROM generate_series(1, 12) i;
INSERT INTO staging.shop VALUES
    (1, 'a', 'Oslo', NULL), (2, 'b', 'Lima', 1), (3, 'c', 'Oslo', 2), (4, 'd', 'Rome', 2);
INSERT INTO staging."Odd Name" VALUES (1, 'x', 'y', 'z', 3), (2, 'xx', 'yy', 'zz', 2);
"""
KEYS = {"sale": "id", "shop": "id", "Odd Name": "Id"}
CHANGES = (
    "UPDATE {table} SET {column} = NULL",
    "UPDATE {table} SET {column} = (SELECT max({column}) FROM {table})",
    "UPDATE {table} SET {column} = (SELECT x.{column} FROM {table} x WHERE x.{key} > {table}.{key}"
    " ORDER BY x.{key} LIMIT 1)",
)
# A mart's name behind a comment's sign, and its SELECT.
CASES = dict(
    re.findall(
        r"^-- (\w+)\n(.+?);$",
        Path(__file__).with_name("lineage_oracle.sql").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)
Change = tuple[str, str, str, str | None]
"""A mart, a column of it or `*` for its rows, and the table and column that have changed it; None
for the table's rows."""
Rows = dict[str, list[str]]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Project]:
    ends = [postgres.create_database(f"oracle_{end}") for end in ("source", "warehouse")]
    project = Project(tmp_path_factory.mktemp("oracle"), *ends, s3)
    project.spec(dict.fromkeys(KEYS), CASES)
    project.as_loader(TABLES)
    yield project
    for uri in ends:
        postgres.drop_database(uri.rpartition("/")[2])


@pytest.fixture(scope="module")
def document(world: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(world, "shop", "--json"))
    return found


@pytest.fixture(scope="module")
def changed(world: Project) -> set[Change]:
    """What changes when a column of a staging table does, or its rows are gone."""
    found: set[Change] = set()
    reading = {table: {mart: sql for mart, sql in CASES.items() if table in sql} for table in KEYS}
    with psycopg.connect(world.uri("warehouse")) as connection:
        before = {mart: rows_of(connection, sql) for mart, sql in CASES.items()}
        for table, column, change in changes(connection):
            with suppress(psycopg.Error), connection.transaction(force_rollback=True):
                connection.execute(change)  # type: ignore[call-overload]
                for mart, sql in reading[table].items():
                    with suppress(psycopg.Error), connection.transaction():
                        now = rows_of(connection, sql)
                        names = differing(before[mart], now)
                        found |= {(mart, name, table, column) for name in names}
    return found


def rows_of(connection: psycopg.Connection[Any], sql: str) -> tuple[int, Rows]:
    """The number of the rows, and the values of each column in one order."""
    cursor = connection.execute(sql)  # type: ignore[call-overload]
    names = [column.name for column in cursor.description or ()]
    rows = cursor.fetchall()
    return len(rows), {
        name: sorted(repr(row[place]) for row in rows) for place, name in enumerate(names)
    }


def changes(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, str | None, str]]:
    """Each table and column with a statement that changes it, and None for its rows."""
    columns = connection.execute(
        "SELECT relname, attname FROM pg_class c JOIN pg_attribute ON attrelid = c.oid"
        " WHERE relnamespace = 'staging'::regnamespace AND relkind = 'r' AND attnum > 0"
    ).fetchall()
    for table, column in columns:
        for change in CHANGES:
            yield (
                table,
                column,
                change.format(
                    table=f"staging.{ident(table)}", column=ident(column), key=ident(KEYS[table])
                ),
            )
    for table in KEYS:
        yield table, None, f"DELETE FROM staging.{ident(table)}"


def differing(before: tuple[int, Rows], now: tuple[int, Rows]) -> list[str]:
    """The columns that have other values; `*` where there are more or fewer rows."""
    if before[0] != now[0]:
        return ["*"]
    return [name for name in before[1] if before[1][name] != now[1][name]]


def left_out(changed: set[Change], document: dict[str, Any]) -> set[Change]:
    """The changes that the lineage does not explain: by the column, or by the mart's rows. For the
    rows of a table, any of its columns will do."""
    known: set[tuple[str, str, str, str | None]] = set()
    for edge in document["edges"]:
        mart, table = (edge[end]["table"].partition(".")[2] for end in ("to", "from"))
        for column in (edge["from"]["column"], None):
            known.add((mart, edge["to"]["column"] or "*", table, column))
    return {
        (mart, name, *origin)
        for mart, name, *origin in changed
        if not {(mart, name, *origin), (mart, "*", *origin)} & known
    }


def test_what_changes_a_column_is_in_its_lineage(
    changed: set[Change], document: dict[str, Any]
) -> None:
    assert {mart for mart, *_ in changed} > {"having_count", "recur", "jsonb"}
    assert left_out(changed, document) == set()


def test_without_what_only_decides_much_is_left_out(
    changed: set[Change], document: dict[str, Any]
) -> None:
    direct = [edge for edge in document["edges"] if edge["direct"]]
    missing = left_out(changed, document | {"edges": direct})
    assert {mart for mart, *_ in missing} > {"except_all", "having_count", "ordered_then_cut"}
