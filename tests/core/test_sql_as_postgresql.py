"""A real server agrees with the check about SQL: see tests/unit/test_sql_as_postgresql.py."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql_cases import ACCEPTED, ENDING, REFUSED, SCRIPTS, SETUP

PATH = "SET LOCAL search_path = staging, mart, public"


@pytest.fixture
def server(connection: psycopg.Connection) -> psycopg.Connection:
    connection.execute(SETUP)
    return connection


def build(server: psycopg.Connection, sql: str) -> None:
    with server.transaction(force_rollback=True):
        server.execute(PATH)
        server.execute(f"CREATE TABLE mart.me AS\n{sql}", binary=True)


def test_the_server_takes_each_select_that_the_check_takes(server: psycopg.Connection) -> None:
    for sql in ACCEPTED.values():
        build(server, sql)


@pytest.mark.parametrize("sql", REFUSED)
def test_the_server_refuses_each_select_that_the_check_refuses(
    server: psycopg.Connection, sql: str
) -> None:
    with pytest.raises(psycopg.ProgrammingError):
        build(server, sql)


@pytest.mark.parametrize("sql", SCRIPTS.values(), ids=SCRIPTS)
def test_the_server_runs_each_script_that_the_check_takes(
    server: psycopg.Connection, sql: str
) -> None:
    with server.transaction(force_rollback=True):
        server.execute(PATH)
        server.execute(sql)


@pytest.mark.parametrize("statement", ENDING)
def test_each_statement_that_a_script_may_not_hold_ends_the_transaction_or_fails_in_one(
    server: psycopg.Connection, statement: str
) -> None:
    server.execute("BEGIN")
    before = server.execute("SELECT pg_current_xact_id()").fetchone()
    try:
        server.execute(statement)
        after = server.execute("SELECT pg_current_xact_id()").fetchone()
    except psycopg.errors.ActiveSqlTransaction:
        return
    assert after != before or statement.startswith(("START", "BEGIN"))
