"""Transforms that read a table, a column or a parameter that cannot be there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadsheet.errors import SpecError
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import (
    Deletes,
    Incremental,
    Pattern,
    Table,
)
from tests.unit.transforms import pipeline, problems


def test_an_unknown_staging_table_is_a_problem_with_a_hint() -> None:
    (problem,) = problems("SELECT *\n  FROM staging.boookings")
    assert problem.startswith(
        "sql/me.sql:2:16 transforms.me: reads staging.boookings, which is not a table"
    )
    assert "did you mean 'bookings'?" in problem


def test_an_unknown_staging_table_like_no_other_is_to_be_added() -> None:
    assert "add 'zzz' to `tables`" in problems("SELECT * FROM staging.zzz")[0]


# What is read, and the table that it makes an input: the keys of deleted rows change with it.
KEYS_OF_DELETED_ROWS = {
    "staging.hard__deleted": "hard",
    "hard__deleted": "hard",
    # Also a pattern's, whatever else the pattern matches; its name needs the schema.
    "staging.log_1__deleted": "log_1",
    "log_1__deleted": None,
    # There is no such table.
    "staging.soft__deleted": None,
    "staging.whole__deleted": None,
    "staging.part_1__deleted": "part_1__deleted",
    "mart.hard__deleted": None,
    "staging.kept__deleted": "kept__deleted",
}


@pytest.mark.parametrize("read", KEYS_OF_DELETED_ROWS)
def test_the_keys_of_deleted_rows_are_an_input_with_their_table(read: str) -> None:
    merged = Table(
        name="hard", incremental=Incremental(cursor="at"), deletes=Deletes(action="hard")
    )
    soft = replace(merged, name="soft", deletes=Deletes(action="soft"))
    tables = (
        merged,
        soft,
        replace(merged, name="whole", incremental=None),
        replace(merged, name="kept"),
        replace(soft, name="kept__deleted"),
    )
    patterns = (
        Pattern(name="log_*", table=replace(merged, name="log_*")),
        Pattern(name="part_*", table=replace(soft, name="part_*")),
    )
    made = pipeline({"me": f"SELECT * FROM {read}"})
    made = replace(made, tables=tables, patterns=patterns)
    expected = KEYS_OF_DELETED_ROWS[read]
    if expected:
        assert list(transform_inputs(made)["me"].tables) == [expected]
        return
    with pytest.raises(SpecError):
        transform_inputs(made)


def test_the_hint_for_keys_that_are_not_kept_names_the_setting() -> None:
    hint = "only a merged table with `deletes: hard` has it, and bookings is none"
    assert hint in problems("SELECT * FROM staging.bookings__deleted")[0]


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        (
            "SELECT * FROM mart.dim_airprt",
            "reads mart.dim_airprt, which is not a transform",
            "did you mean 'dim_airport'?",
        ),
        (
            "SELECT * FROM mart.bookings",
            "reads mart.bookings, which is not a transform",
            "did you mean staging.bookings?",
        ),
        (
            "SELECT * FROM stagging.flights",
            "reads stagging.flights, which this pipeline neither loads nor builds",
            "did you mean staging.flights?",
        ),
        (
            "SELECT * FROM public.bookings",
            "reads public.bookings, which",
            "did you mean staging.bookings?",
        ),
        ("SELECT * FROM bokings", "reads bokings, which", "did you mean staging.bookings?"),
        (
            "SELECT * FROM public.rates",
            "reads public.rates, which",
            "list `public.rates` under `external`",
        ),
        ("SELECT * FROM rates", "reads rates, which", "list `public.rates` under `external`"),
    ],
)
def test_a_table_that_nobody_makes_is_a_problem_with_a_way_out(
    sql: str, message: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        transform_inputs(pipeline({"dim_airport": "SELECT 1 AS one", "me": sql}))
    (problem,) = caught.value.problems
    assert message in problem.message and hint in problem.hint
    assert problem.code == "unknown-table"


@pytest.mark.parametrize(
    ("sql", "external", "read"),
    [
        ("SELECT * FROM public.rates", "public.rates", ("public.rates",)),
        ("SELECT * FROM PUBLIC.Rates", "public.rates", ("public.rates",)),
        ("SELECT * FROM rates", "public.rates", ("public.rates",)),
        ("SELECT * FROM public.rates", "public.*", ("public.rates",)),
        ("SELECT * FROM rates", "public.*", ()),  # it may be in another schema
        ("SELECT * FROM rates, mart.b", "mart.rates", ("mart.rates",)),
    ],
)
def test_a_table_declared_external_may_be_read_and_is_no_input_of_the_pipeline(
    sql: str, external: str, read: tuple[str, ...]
) -> None:
    declared = replace(pipeline({"me": sql, "b": "SELECT 1"}), external=(external,))
    found = transform_inputs(declared)["me"]
    assert (found.tables, found.external) == ((), read)


@pytest.mark.parametrize("external", ["public.rate", "other.*", "staging.rates"])
def test_another_table_declared_external_does_not_help(external: str) -> None:
    assert "reads public.rates" in problems("SELECT * FROM public.rates", external=(external,))[0]


CARRIED = (
    Table(name="bookings", include=("ref", "amount")),
    Table(name="flights", exclude=("note",)),
    Table(name="x"),
)


@pytest.mark.parametrize(
    ("sql", "start", "hint"),
    [
        (
            "SELECT b.amout AS a FROM staging.bookings b",
            "1:10 transforms.me: reads bookings.amout",
            "did you mean 'amount'?",
        ),
        (
            "SELECT amout AS a FROM bookings",
            "1:8 transforms.me: reads bookings.amout",
            "did you mean 'amount'?",
        ),
        (
            "SELECT b.day FROM bookings b",
            "1:10 transforms.me: reads bookings.day",
            "tables.bookings.columns.include",
        ),
        (
            "SELECT f.note FROM flights f",
            "1:10 transforms.me: reads flights.note, a column that is excluded",
            "tables.flights.columns.exclude",
        ),
        (
            "SELECT x.a FROM x,\n (SELECT note FROM flights) q",
            "2:10 transforms.me: reads flights.note",
            "exclude",
        ),
        (
            "WITH q AS (SELECT B.Amout FROM bookings AS b) SELECT * FROM q",
            "1:21 transforms.me: reads bookings.amout",
            "amount",
        ),
        (
            "SELECT o.id_nk FROM mart.other o",
            "1:10 transforms.me: reads other.id_nk",
            "it has id, name",
        ),
        (
            "SELECT o.total FROM mart.other o",
            "1:10 transforms.me: reads other.total",
            "it has id, name",
        ),
        (
            "SELECT x.a FROM x WHERE EXISTS (SELECT FROM other o WHERE o.idd = x.a)",
            "1:61 transforms.me: reads other.idd",
            "id",
        ),
    ],
)
def test_a_column_that_cannot_be_there_is_a_problem(sql: str, start: str, hint: str) -> None:
    made = pipeline({"other": 'SELECT x.id, x.v AS "name" FROM x', "me": sql})
    with pytest.raises(SpecError) as caught:
        transform_inputs(replace(made, tables=CARRIED))
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"sql/me.sql:{start}") and hint in problem.hint
    assert problem.code == "unknown-column"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT b.ref, amount, b._load_id, b.ctid, b FROM bookings b ORDER BY b.amount",
        "SELECT amount AS amoun FROM bookings ORDER BY amoun",
        "SELECT b.a FROM bookings AS b (a, c)",
        "SELECT x.anything, note FROM x",
        "SELECT note FROM flights f JOIN x ON true",
        "SELECT (SELECT max(x.a) FROM x WHERE x.b = b.ref) AS m FROM bookings b",
        "SELECT (SELECT ref FROM x) AS m FROM bookings b",
        "SELECT user, current_date FROM bookings",
        "SELECT j.amout FROM bookings b, LATERAL (SELECT 1 AS amout) j",
        "SELECT k FROM bookings b, each(b.ref) AS j(k, v)",
        "SELECT o.id, o.name FROM other o",
        "SELECT s.whatever FROM star s",
        "SELECT c.whatever FROM counted c",
        "SELECT bookings.ref FROM staging.bookings UNION SELECT x.q FROM x ORDER BY ref",
        "WITH bookings AS (SELECT 1 AS q) SELECT bookings.q FROM bookings",
    ],
)
def test_a_column_that_could_be_there_is_no_problem(sql: str) -> None:
    others = {
        "other": "SELECT id, v AS name FROM x",
        "star": "SELECT * FROM x",
        "counted": "SELECT count(*) FROM x",
    }
    made = replace(pipeline({**others, "me": sql}), tables=CARRIED)
    assert "me" in transform_inputs(made)


def test_a_unique_key_must_be_a_column_of_the_select() -> None:
    made = pipeline({"me": "SELECT id AS user_id, name FROM bookings"})
    (me,) = made.transforms
    keyed = replace(made, transforms=(replace(me, materialized="merge", unique_key=("userid",)),))
    with pytest.raises(
        SpecError, match=r"its SELECT has no column 'userid', which unique_key names\n.*'user_id'"
    ):
        transform_inputs(keyed)


def test_an_unquoted_name_finds_no_table_with_capitals() -> None:
    with pytest.raises(
        SpecError, match=r"did you mean 'Orders'\? Its capitals need quotes: .Orders."
    ):
        transform_inputs(pipeline({"me": "SELECT * FROM staging.Orders"}, tables=("Orders",)))


def test_an_unknown_parameter_is_a_problem_that_lists_the_known() -> None:
    (problem,) = problems("SELECT 1\nWHERE x > :since_laod")
    assert problem.startswith("sql/me.sql:2:11 transforms.me: unknown parameter :since_laod")
    assert ":since_load, :until_load, :interval_start, :interval_end, :run_id" in problem
