"""`loadsheet verify` of a mart: the rows of its table, and those that its SELECT returns."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.errors import InputError
from tests.core.verifying import counts
from tests.project import Project

SOURCE = """
CREATE TABLE sale (
    id int PRIMARY KEY, place text, amount numeric, weight float8,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO sale SELECT i, 'place ' || i % 7, i / 7.0, i / 3.0 FROM generate_series(1, 500) i;
"""
MERGE = {"materialized": "merge", "unique_key": "id"}
MARTS: dict[str, Any] = {
    "dim": ("SELECT id, place, amount FROM sale WHERE _load_id > :since_load; -- new ones", MERGE),
    "per_place": "SELECT place, count(*) AS sales, sum(amount) AS amount FROM sale GROUP BY place;",
    "shown": ("SELECT * FROM sale", {"materialized": "view"}),
    "noted": ("INSERT INTO public.noted SELECT 1", {"materialized": "script"}),
}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.in_warehouse("CREATE TABLE public.noted (n int); GRANT INSERT ON noted TO PUBLIC")
    project.spec({"sale": {"incremental": "at"}}, MARTS)
    project.succeed()
    return project


def cli(project: Project, *arguments: str) -> Result:
    """`loadsheet verify shop` in this process, which is faster than one of its own."""
    command = ["--project", str(project.folder), "verify", "shop", *arguments]
    return CliRunner().invoke(app, command, env=project.environment())


def test_marts_are_compared_with_their_select_after_the_tables(shop: Project) -> None:
    assert cli(shop).stdout == (
        "sale: equal, 500 rows\n"
        "dim: equal, 500 rows\n"
        "per_place: equal, 7 rows\n"
        "1 table, 2 marts: 3 equal\n"
        "left out: shown (a view), noted (a script)\n"
    )
    shop.in_warehouse("UPDATE mart.dim SET amount = 0 WHERE id = 7")
    damaged = cli(shop, "dim", "--values")
    assert damaged.exit_code == 1
    assert damaged.stdout == (
        "dim: differs, 500 rows, 1 different\n"
        "  different: id = 7: amount is '0', '1.00000000000000000000' in its SELECT\n"
        "1 mart: 1 differ\n"
    )


def test_each_kind_of_difference_is_found_and_rows_without_a_key_are_counted(
    shop: Project,
) -> None:
    shop.in_warehouse(
        "DELETE FROM mart.dim WHERE id = 3; INSERT INTO mart.dim VALUES (900, 'x', 1);"
        "UPDATE mart.dim SET place = 'place 1 ' WHERE id = 1;"
        "UPDATE mart.per_place SET sales = 0 WHERE place = 'place 3'"
    )
    found = shop.verify()
    assert found["sale"].state == "equal"
    assert counts(found["dim"]) == {"missing": 1, "extra": 1, "different": 1}
    assert found["dim"].named["missing"][0].key == {"id": "3"}
    assert counts(found["per_place"]) == {"missing": 1, "extra": 1}


def test_a_mart_that_is_due_may_differ(shop: Project, looks: list[str]) -> None:
    """So its SELECT does not run once more, only to show that it does."""
    shop.in_source("INSERT INTO sale VALUES (501, 'new', 1, 1)")
    shop.spec({"sale": {"incremental": "at"}})
    shop.succeed()
    shop.spec({"sale": {"incremental": "at"}}, MARTS)
    looks.clear()
    found = shop.verify()
    assert looks == ["total"] * 2 + ["buckets"] * 4
    assert found["sale"].state == "equal"
    for name in ("dim", "per_place"):
        assert found[name].state == "not proven"
        assert "the mart is due (new rows): run the pipeline" in found[name].why
        assert (counts(found[name]), found[name].unproven > 0) == ({}, True)
    shop.succeed()
    assert {verdict.state for verdict in shop.verify().values()} == {"equal"}


def test_a_row_that_was_changed_in_staging_shows_in_the_mart(shop: Project) -> None:
    """No ledger knows of it, so the mart is not built again."""
    shop.in_warehouse("UPDATE staging.sale SET place = 'place 2' WHERE id = 7")
    found = shop.verify()
    assert counts(found["sale"]) == counts(found["dim"]) == {"different": 1}
    assert counts(found["per_place"]) == {"missing": 2, "extra": 2}


UNPROVEN = [
    ("SELECT id, now() AS at FROM sale", "it calls now()"),
    (
        "SELECT place, sum(weight) AS weight FROM sale GROUP BY place",
        "it reads floating-point numbers",
    ),
    (
        "SELECT s.place, sum((s).weight) AS weight FROM sale s GROUP BY s.place",
        "it reads floating-point numbers",
    ),
    ("SELECT max((s).amount) AS amount FROM sale s", "any of several values that are equal"),
    ("SELECT id FROM sale ORDER BY place LIMIT 3", "it has a LIMIT"),
    ("SELECT s.id, o.n FROM sale s JOIN public.other o ON o.n < s.id", "public.other"),
    ("SELECT id, place FROM shown", "mart.shown, which is no table"),
    (
        "SELECT id, CAST(replace(place, place, 'no' || 'w') AS timestamptz) AS t FROM sale",
        "it makes a time of a text",
    ),
]


@pytest.mark.parametrize(("select", "why"), UNPROVEN)
def test_a_select_that_may_return_other_rows_proves_no_difference(
    shop: Project, select: str, why: str
) -> None:
    shop.in_warehouse("CREATE TABLE public.other AS SELECT 1 AS n")
    shop.spec(
        {"sale": {"incremental": "at"}}, {**MARTS, "doubtful": select}, external=["public.other"]
    )
    shop.succeed()
    is_volatile = "now()" in select or "timestamptz" in select
    assert shop.verify()["doubtful"].state == ("not proven" if is_volatile else "equal")
    shop.in_warehouse("DELETE FROM mart.doubtful")
    found = shop.verify()["doubtful"]
    assert (found.state, counts(found)) == ("not proven", {})
    assert why in found.why


def test_what_cannot_be_compared_is_said(shop: Project) -> None:
    shop.spec(
        {"sale": {"incremental": "at"}},
        {**MARTS, "of_a_run": "SELECT id, :run_id AS run FROM sale", "later": "SELECT 1 AS n"},
    )
    found = shop.verify("shown", "noted", "of_a_run", "later")
    assert {verdict.state for verdict in found.values()} == {"not compared"}
    assert "shows what its SELECT returns" in found["shown"].why
    assert "a script is not compared" in found["noted"].why
    assert "its SELECT reads :run_id" in found["of_a_run"].why
    assert "mart.later does not exist" in found["later"].why
    shop.spec({"sale": {"incremental": "at"}}, {"per_place": "SELECT count(*) AS n FROM sale"})
    assert "(its SQL changed)" in shop.verify("per_place")["per_place"].why
    with pytest.raises(InputError, match="a mart has no cursor"):
        shop.verify("per_place", since="2026-01-01")


def test_a_column_of_a_domain_is_compared(shop: Project) -> None:
    shop.in_warehouse("CREATE DOMAIN public.sum_of_money AS numeric(9, 2) CHECK (VALUE < 1000)")
    select = "SELECT id, CAST(amount AS public.sum_of_money) AS amount FROM sale"
    shop.spec({"sale": {"incremental": "at"}}, {"sums": (select, MERGE)})
    shop.succeed()
    found = shop.verify("sums")["sums"]
    assert (found.state, found.left_out) == ("equal", [])
    shop.in_warehouse("UPDATE mart.sums SET amount = amount + 0.01 WHERE id = 7")
    found = shop.verify("sums")["sums"]
    assert (found.unproven, found.state) == (1, "not proven")  # a domain is no known type
    assert "it makes values of the type public.sum_of_money" in found.why


# A SELECT, what makes it fail after its build, and what is said then.
FAILING = {
    "ratio": (
        "SELECT id, 1 / (id - 501) AS r FROM sale",
        "UPDATE staging.sale SET id = 501 WHERE id = 7",
        "its SELECT fails: division by zero (SQLSTATE 22012)",
    ),
    "checked": (
        "SELECT CAST(id AS public.small) AS id FROM sale",
        "ALTER DOMAIN public.small ADD CHECK (VALUE < 400) NOT VALID",
        "its SELECT fails: value for domain public.small violates check constraint",
    ),
    "raising": (
        "SELECT public.shown(id) AS id FROM sale",
        "CREATE OR REPLACE FUNCTION public.shown(n int) RETURNS int LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE 'not today'; END $$",
        "its SELECT fails: not today (SQLSTATE P0001)",
    ),
    "numbered": (
        "SELECT nextval('public.numbers') AS n FROM sale",
        "",
        "its SELECT writes, which a comparison does not: cannot execute nextval()",
    ),
}


def test_a_select_that_fails_now_does_not_end_the_comparison(shop: Project) -> None:
    shop.in_warehouse(
        "CREATE DOMAIN public.small AS int; CREATE SEQUENCE public.numbers;"
        "GRANT USAGE ON SEQUENCE public.numbers TO PUBLIC;"
        "CREATE FUNCTION public.shown(n int) RETURNS int LANGUAGE sql AS 'SELECT n'"
    )
    marts = {name: select for name, (select, _, _) in FAILING.items()}
    shop.spec({"sale": {"incremental": "at"}}, {**marts, "sums": "SELECT 1 AS n"})
    shop.succeed()
    for _, statement, _ in FAILING.values():
        if statement:
            shop.in_warehouse(statement)
    found = shop.verify(*marts, "sums")
    assert found["sums"].state == "equal"
    for name, (_, _, why) in FAILING.items():
        assert found[name].state == "not compared"
        assert found[name].why.startswith(why)


def test_the_verdict_on_a_mart_is_shown_by_status(shop: Project) -> None:
    shop.in_warehouse("DELETE FROM mart.dim WHERE id = 3")
    shop.verify()
    command = ["--project", str(shop.folder), "status", "shop"]
    page = CliRunner().invoke(app, command, env=shop.environment()).stdout
    assert "dim: 1 missing, found " in page
    assert "`loadsheet verify shop dim`" in page
