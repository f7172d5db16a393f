"""SQL that cannot be read, or is no single SELECT, is a problem at its place, and never a crash."""

from __future__ import annotations

import pytest

from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import (
    Inputs,
    Materialized,
)
from tests.unit.transforms import inputs, pipeline, problems


def within(depth: int) -> str:
    """Without a limit, 30,000 of these end the process itself (SIGSEGV)."""
    return "SELECT 1 AS a FROM " + "(SELECT * FROM " * depth + "staging.bookings" + ") AS x" * depth


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 20_000,
        "SELECT " + "(" * 3_000 + "1" + ")" * 3_000,
        within(1_001),
        within(5_000),
    ],
)
def test_sql_nested_too_deeply_is_a_problem_and_no_traceback(sql: str) -> None:
    assert "nested too deeply" in problems(sql)[0]


def test_sql_nested_as_deep_as_anybody_writes_it_is_read() -> None:
    assert "me" in transform_inputs(pipeline({"me": within(300)}))


def test_quotes_of_one_kind_within_the_other_are_text() -> None:
    made = pipeline({"me": "SELECT 1 FROM generate_series(a, b, '1 \"a')"})
    assert transform_inputs(made) == {"me": Inputs((), ())}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "a || " * 30_000 + "b",
        "SELECT 1" + " UNION ALL SELECT 1" * 20_000,
        "SELECT " + "CASE WHEN a THEN " * 5_000 + "1" + " END" * 5_000,
        "SELECT " + "NOT " * 20_000 + "true",
    ],
    ids=["operators", "queries", "cases", "words"],
)
def test_a_chain_too_long_is_a_problem_and_no_crash(sql: str) -> None:
    """Without a limit, 100,000 operators end the process itself (SIGSEGV)."""
    assert "nested too deeply" in problems(sql)[0]


def test_a_chain_as_long_as_a_generated_query_is_read() -> None:
    sql = (
        "SELECT "
        + "a || " * 500
        + "b AS c FROM bookings"
        + " UNION ALL SELECT a FROM flights" * 500
    )
    assert inputs(sql).tables == ("bookings", "flights")


def test_a_nul_character_is_a_problem_where_it_stands() -> None:
    assert problems("SELECT 1;\nDROP \0 TABLE x", "script")[0].startswith("sql/me.sql:2:6 ")


@pytest.mark.parametrize("before", ["é", "日本", "😀", "é 😀 日"])
def test_places_are_counted_in_characters(before: str) -> None:
    assert problems(f"SELECT '{before}' AS a,\n'{before}' FROM staging.nowhere")[0].startswith(
        f"sql/me.sql:2:{len(before) + 17} "
    )
    assert problems(f"SELECT '{before}' AS a FROM x GROUP y")[0].startswith(
        f"sql/me.sql:1:{len(before) + 29} "
    )


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1; SELECT 2", "expected one SELECT, found 2 statements"),
        ("", "there is no SELECT"),
        ("-- only a comment", "there is no SELECT"),
        ("DELETE FROM mart.me", "expected one SELECT, found DELETE"),
        ("DO $$ BEGIN END $$", "expected one SELECT, found DO"),
        ("SELECT * INTO x FROM bookings", "found SELECT INTO"),
        (
            "WITH x AS (DELETE FROM mart.other RETURNING *) SELECT * FROM x",
            "found DELETE inside it",
        ),
    ],
)
@pytest.mark.parametrize("materialized", ["table", "view", "merge"])
def test_anything_but_one_select_is_a_problem_unless_it_is_a_script(
    sql: str, message: str, materialized: Materialized
) -> None:
    assert message in problems(sql, materialized)[0]


@pytest.mark.parametrize(
    "sql", ["SELECT 1;", "SELECT 1 ; -- done", ";;SELECT 1;;", "(SELECT 1)", "/* x */ SELECT 1"]
)
def test_empty_statements_do_not_count(sql: str) -> None:
    assert inputs(sql) == Inputs((), ())


@pytest.mark.parametrize(
    ("sql", "start"),
    [
        (
            "SELECT 1\nFROM bookings WHERE\n x = = 3",
            "sql/me.sql:3:6 transforms.me: cannot be read as PostgreSQL at '='",
        ),
        (
            "SELECT a FROM bookings\n  GROUP x",
            (
                "sql/me.sql:2:9 transforms.me: cannot be read as PostgreSQL at 'x' after 'FROM"
                " bookings GROUP'"
            ),
        ),
        ("SELECT (1", "sql/me.sql:1:9 transforms.me: cannot be read as PostgreSQL at '1'"),
        (
            "SELECT 1,\n  'it''s",
            "sql/me.sql:2:3 transforms.me: a quote or a comment opens here and never ends",
        ),
        ("SELECT 'a\nb', $$ x", "sql/me.sql:2:5 transforms.me: a quote or a comment"),
        ("SELECT 1 /* x", "sql/me.sql:1:10 transforms.me: a quote or a comment"),
    ],
)
@pytest.mark.parametrize("materialized", ["table", "script"])
def test_sql_that_cannot_be_read_is_located(
    sql: str, start: str, materialized: Materialized
) -> None:
    (problem,) = problems(sql, materialized)
    assert problem.startswith(start)
    assert "class" not in problem and "Token" not in problem
    assert "hint:" in problem
