"""The check of a transform's SQL says what a server would say. tests/core asks one about the same
cases."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from loadsheet.errors import SpecError
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import (
    Inputs,
    Lake,
    Materialized,
    Pipeline,
    Source,
    Table,
    Transform,
    Warehouse,
)
from tests.sql_cases import ACCEPTED, ENDING, REFUSED, SCRIPTS


def inputs(sql: str, materialized: Materialized = "table") -> Inputs:
    """What the transform `me` of this SQL reads, beside a transform `other`."""
    me = Transform(name="me", sql=sql, file=Path("me.sql"), materialized=materialized)
    other = Transform(name="other", sql="SELECT 1 AS a", file=Path("other.sql"))
    made = Pipeline(
        name="p",
        file=Path("pipeline.yml"),
        source=Source(conn_id="s"),
        lake=Lake(conn_id="l", bucket="b"),
        warehouse=Warehouse(conn_id="w"),
        tables=(Table(name="bookings"), Table(name="flights")),
        transforms=(me, other),
    )
    return transform_inputs(made)["me"]


def problem(sql: str, materialized: Materialized = "table") -> str:
    with pytest.raises(SpecError) as caught:
        inputs(sql, materialized)
    return str(caught.value.problems[0])


@pytest.mark.parametrize("sql", ACCEPTED.values(), ids=ACCEPTED)
def test_a_select_that_postgresql_takes_is_read(sql: str) -> None:
    found = inputs(sql)
    assert "bookings" in found.tables
    assert ("flights" in found.tables) == ("flights" in sql)
    assert found.transforms == (("other",) if "mart.other" in sql else ())


@pytest.mark.parametrize(("sql", "said"), REFUSED.items(), ids=REFUSED)
def test_a_select_that_postgresql_refuses_is_a_problem_at_its_place(
    sql: str, said: tuple[str, str]
) -> None:
    place, message = said
    found = problem(sql)
    assert found.startswith(f"me.sql:{place} transforms.me: ") and message in found
    assert "hint: " in found


@pytest.mark.parametrize("sql", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_that_postgresql_runs_is_read(sql: str) -> None:
    assert inputs(sql, "script") == Inputs(("bookings",), ())


@pytest.mark.parametrize("statement", ENDING)
@pytest.mark.parametrize(
    "before", ["", "SELECT 1; ", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; "]
)
def test_a_script_may_not_end_its_transaction(statement: str, before: str) -> None:
    assert "a script runs in one transaction, found" in problem(f"{before}{statement};", "script")


@pytest.mark.parametrize(
    "sql",
    ["SELCT 1", "foo", "SELECT 1; TRUNCAT mart.other", "DROP TABLE x; bar baz", "BEGIN CALL f() "],
)
def test_what_is_no_statement_is_a_problem(sql: str) -> None:
    found = problem(sql, "script")
    assert (
        "cannot be read as PostgreSQL" in found or "no statement of PostgreSQL begins with" in found
    )


@pytest.mark.parametrize("seed", range(4))
def test_whatever_becomes_of_sql_it_is_read_or_a_problem_with_a_place(seed: int) -> None:
    chance = random.Random(seed)
    pool = [
        *ACCEPTED.values(),
        *REFUSED,
        *SCRIPTS.values(),
        *ENDING,
        "CALL f(:run_id) ",
        "EXPLAIN SELECT 1 ",
    ]
    for _ in range(500):
        text = chance.choice(pool)
        for _ in range(chance.randint(1, 4)):
            at, other = chance.randrange(len(text) + 1), chance.choice(pool)
            begin = chance.randrange(len(other))
            text = (
                text[:at]
                + other[begin : begin + chance.randrange(30)]
                + text[at + chance.randrange(8) :]
            )
        try:
            inputs(text, "script")
        except SpecError as error:
            assert all(found.line >= 1 and found.column >= 1 for found in error.problems)


def test_what_a_function_is_given_beside_subqueries_is_no_input() -> None:
    sql = (
        "SELECT JSON_VALUE(doc, '$.a' DEFAULT (SELECT max(a) FROM mart.other) ON EMPTY) AS v FROM"
        " bookings"
    )
    assert inputs(sql) == Inputs(("bookings",), ("other",))
