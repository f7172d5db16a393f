"""What hangs on a mart whose columns change: views of this pipeline and of others, views on views,
keys, and columns that were added to the table."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from loadsheet.errors import Refused
from loadsheet.outcome import Outcome
from loadsheet.warehouse import mart_columns
from tests.core.planned import found, plan
from tests.project import Project

VIEW = {"materialized": "view"}
MERGE = {"materialized": "merge", "unique_key": "id"}


@pytest.fixture
def shop(project: Project) -> Project:
    """A mart `sales` with the view transform `big` on it, and the view transform `top` on that."""
    project.in_source(
        "CREATE TABLE sale (id int PRIMARY KEY, amount int, name text);"
        "INSERT INTO sale VALUES (1, 10, 'a'), (2, 20, 'b')"
    )
    spec(project, "s.id, s.amount")
    project.succeed()
    return project


def spec(
    project: Project, columns: str, big: str = "SELECT * FROM mart.sales", **options: Any
) -> None:
    transforms: dict[str, Any] = {
        "sales": (f"SELECT {columns} FROM staging.sale s", options),
        "big": (big, dict(VIEW)),
        "top": ("SELECT max(id) AS id FROM mart.big", dict(VIEW)),
    }
    project.spec({"sale": None}, transforms)


@pytest.fixture
def role(shop: Project) -> Iterator[str]:
    name = f"owner_{secrets.token_hex(4)}"
    shop.in_warehouse(f"CREATE ROLE {name}; GRANT ALL ON SCHEMA mart TO {name}")
    yield name
    shop.in_warehouse(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}")
    shop.in_warehouse(f"DROP ROLE {name}")


def refused(shop: Project, step: str = "sales") -> str:
    """What plan and run both say about the transform that they refuse."""
    [message] = found(plan(shop, code=1), f"transform.transform_{step}")
    result = shop.run()[f"transform.transform_{step}"].result
    assert isinstance(result, Refused) and message in str(result), result
    return message


def test_views_on_views_are_made_again_with_their_owner_and_nothing_more(
    shop: Project, role: str
) -> None:
    """A default privilege would open a view to whoever may not read it."""
    shop.in_warehouse(
        f"ALTER VIEW mart.top OWNER TO {role};"
        "ALTER DEFAULT PRIVILEGES IN SCHEMA mart GRANT SELECT ON TABLES TO PUBLIC"
    )
    spec(shop, "s.id, s.amount * 1.5 AS amount")
    error = shop.run()["transform.transform_sales"].result
    fix = f'GRANT "{role}" TO "{shop.loader}"; GRANT CREATE ON SCHEMA "mart" TO "{role}";'
    assert isinstance(error, Refused) and f"nothing was written. Run {fix}" in str(error)
    assert shop.in_warehouse("SELECT to_regclass('mart.top') IS NULL") == [(False,)]
    shop.in_warehouse(fix)
    shop.succeed()
    views = shop.in_warehouse(
        "SELECT relname, pg_get_userbyid(relowner) = %s, has_table_privilege('pg_monitor', oid,"
        " 'SELECT') FROM pg_class WHERE relname IN ('big', 'top') ORDER BY 1",
        role,
    )
    assert views == [("big", False, False), ("top", True, False)]
    assert shop.in_warehouse("SELECT amount::text FROM mart.big ORDER BY 1") == [
        ("15.0",),
        ("30.0",),
    ]


def test_without_the_comparison_a_value_is_rounded_again(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what every run did before."""
    monkeypatch.setattr(mart_columns, "change_of", lambda *_: None)
    spec(shop, "s.id, s.amount + 0.7 AS amount")
    shop.succeed()
    assert shop.in_warehouse("SELECT amount FROM mart.sales ORDER BY 1") == [(11,), (21,)]


def test_a_view_above_a_view_transform_is_named(shop: Project) -> None:
    shop.in_warehouse("CREATE VIEW public.report AS SELECT amount FROM mart.big")
    spec(shop, "s.id, s.amount::bigint AS amount")
    message = refused(shop)
    assert "view mart.big (with view public.report on it) uses it" in message
    assert 'run DROP VIEW "public"."report";' in message
    shop.in_warehouse("DROP VIEW public.report")
    shop.succeed()
    assert shop.in_warehouse("SELECT pg_typeof(amount)::text FROM mart.big LIMIT 1") == [
        ("bigint",)
    ]


def test_a_materialized_view_and_a_function_are_named(shop: Project) -> None:
    shop.in_warehouse(
        "CREATE MATERIALIZED VIEW public.counted AS SELECT amount FROM mart.sales;"
        "CREATE FUNCTION public.total() RETURNS bigint"
        " BEGIN ATOMIC SELECT sum(amount) FROM mart.sales; END"
    )
    spec(shop, "s.id", big="SELECT id FROM mart.sales")
    message = refused(shop)
    assert "function public.total(), materialized view public.counted use it" in message
    assert 'run DROP MATERIALIZED VIEW "public"."counted";' in message


def test_a_view_of_another_pipeline_is_made_again_or_named(shop: Project) -> None:
    other = replace(shop, name="other")
    shop.in_source("CREATE TABLE other (id int PRIMARY KEY)")
    other.spec(
        {"other": None},
        {"theirs": ("SELECT id, amount FROM mart.sales", dict(VIEW))},
        external=["mart.*"],
    )
    other.succeed()
    spec(shop, "s.name, s.id, s.amount::bigint AS amount")
    shop.succeed()
    assert shop.in_warehouse("SELECT * FROM mart.theirs ORDER BY 1") == [(1, 10), (2, 20)]
    spec(shop, "s.id")
    message = refused(shop)
    assert "column amount is no longer in its SELECT, but view mart.theirs uses it" in message
    assert shop.in_warehouse("SELECT count(amount) FROM mart.big") == [(2,)]


def test_a_view_transform_that_no_longer_fits_is_named_and_nothing_is_written(
    shop: Project,
) -> None:
    spec(shop, "s.id, s.amount", big="SELECT id, amount % 2 AS odd FROM mart.sales")
    shop.succeed()
    spec(shop, "s.id, s.name AS amount", big="SELECT id, amount % 2 AS odd FROM mart.sales")
    result = shop.run()["transform.transform_sales"].result
    assert isinstance(result, Refused)
    assert "view mart.big does not fit its new columns: operator does not exist" in str(result)
    assert shop.in_warehouse("SELECT count(odd) FROM mart.big") == [(2,)]


def test_a_view_transform_with_other_columns_keeps_what_belongs_to_it(
    shop: Project, role: str
) -> None:
    """CREATE OR REPLACE took the options away, and DROP the grants and comments as well."""
    shop.in_warehouse(
        f"GRANT SELECT ON mart.big TO {role}; COMMENT ON VIEW mart.big IS 'mine';"
        "ALTER VIEW mart.big SET (security_invoker = true)"
    )
    kept = (
        "SELECT reloptions::text, obj_description(oid), has_table_privilege(%s, oid, 'SELECT')"
        " FROM pg_class WHERE relname = 'big'"
    )
    for big in (
        "SELECT *, 1 AS one FROM mart.sales",
        "SELECT 1.5 AS one, id FROM mart.sales",
    ):
        spec(shop, "s.id, s.amount", big=big)
        shop.succeed()
        assert shop.in_warehouse(kept, role) == [("{security_invoker=true}", "mine", True)]
    shop.in_warehouse("CREATE VIEW public.report AS SELECT one FROM mart.big")
    spec(shop, "s.id, s.amount", big="SELECT id FROM mart.sales")
    message = refused(shop, "big")
    assert "the view must be made again, but view public.report uses it" in message
    assert shop.in_warehouse("SELECT count(*) FROM public.report") == [(2,)]


def test_a_key_that_changes_in_place_becomes_the_primary_key(shop: Project) -> None:
    spec(shop, "s.id, s.amount, 1 AS one", **MERGE)
    shop.succeed()
    shop.in_warehouse("CREATE VIEW public.report AS SELECT one FROM mart.sales")
    spec(
        shop,
        "s.id AS number, s.amount, 1 AS one",
        big="SELECT * FROM mart.sales",
        materialized="merge",
        unique_key=["number", "amount"],
    )
    shop.in_warehouse("DROP VIEW mart.top, mart.big")
    project_top = shop.folder / "pipelines" / "shop" / "sql" / "top.sql"
    project_top.write_text("SELECT max(number) AS id FROM mart.big")
    shop.succeed()
    [(definition,)] = shop.in_warehouse(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'"
        " AND conrelid = 'mart.sales'::regclass"
    )
    assert definition == "PRIMARY KEY (number, amount)"
    assert shop.in_warehouse("SELECT number, amount, one FROM mart.sales ORDER BY 1") == [
        (1, 10, 1),
        (2, 20, 1),
    ]


def test_a_key_whose_type_gets_narrower_cannot_change_in_place(shop: Project) -> None:
    spec(shop, "s.id::bigint AS id, s.amount, 1 AS one", **MERGE)
    shop.succeed()
    shop.in_warehouse("CREATE VIEW public.report AS SELECT one FROM mart.sales")
    spec(shop, "s.id, s.amount, 1 AS one", **MERGE)
    message = refused(shop)
    assert "column id is integer in its SELECT and bigint in the table" in message
    assert "view public.report keeps the table from being replaced" in message


def test_a_generated_column_that_was_added_to_the_table_is_kept(shop: Project) -> None:
    spec(shop, "s.id, s.amount", big="SELECT id FROM mart.sales", **MERGE)
    shop.succeed()
    shop.in_warehouse(
        "ALTER TABLE mart.sales ADD twice int GENERATED ALWAYS AS (amount * 2) STORED"
    )
    spec(shop, "s.id, s.amount, s.name", big="SELECT id FROM mart.sales", **MERGE)
    shop.succeed()
    rows = shop.in_warehouse("SELECT id, amount, twice, name FROM mart.sales ORDER BY 1")
    assert rows == [(1, 10, 20, "a"), (2, 20, 40, "b")]
    spec(shop, "s.id, s.name", big="SELECT id FROM mart.sales", **MERGE)
    assert "default value for column twice of table mart.sales uses it" in refused(shop)


def test_an_index_that_cannot_be_made_on_the_new_type_is_named(shop: Project) -> None:
    spec(shop, "s.id, s.name", big="SELECT id FROM mart.sales")
    shop.succeed()
    shop.in_warehouse("CREATE INDEX by_name ON mart.sales (lower(name))")
    spec(shop, "s.id, s.amount AS name", big="SELECT id FROM mart.sales")
    result = shop.run()["transform.transform_sales"].result
    assert isinstance(result, Refused) and "run DROP INDEX mart.by_name;" in str(result).replace(
        "Run", "run"
    )


@pytest.mark.parametrize("full_refresh", [frozenset(), frozenset({"sales"})])
def test_an_input_whose_type_changes_alters_an_incremental_mart(
    shop: Project, full_refresh: frozenset[str]
) -> None:
    """The SQL is the same, so nothing else says that the mart's columns change."""
    columns = "s.id, s.amount, 1 AS one"
    where = " WHERE s._load_id > :since_load"
    spec(shop, columns, **MERGE)
    sql = shop.folder / "pipelines" / "shop" / "sql" / "sales.sql"
    sql.write_text(sql.read_text() + where)
    shop.succeed()
    shop.in_warehouse("CREATE VIEW public.report AS SELECT one FROM mart.sales")
    shop.in_warehouse("ALTER TABLE staging.sale ALTER amount TYPE bigint")
    shop.in_source("ALTER TABLE sale ALTER amount TYPE bigint; UPDATE sale SET amount = 3000000000")
    steps = plan(shop)["steps"]["transform.transform_sales"]
    results = shop.run(full_refresh=full_refresh)
    outcome = results["transform.transform_sales"].result
    assert isinstance(outcome, Outcome) and "amount is bigint, was integer" in outcome.message
    assert any(remark["code"] == "drift" for remark in steps["remarks"])
    assert shop.in_warehouse("SELECT DISTINCT amount FROM mart.big") == [(3000000000,)]
    assert shop.in_warehouse("SELECT count(*) FROM public.report") == [(2,)]


def test_columns_comments_and_conditions_may_have_any_character(shop: Project) -> None:
    big = """SELECT id, amount AS "per%cent", name FROM mart.sales WHERE name LIKE '%'"""
    spec(shop, """s.id, s.amount, s.name, s.amount AS "a""b%s" """, big=big)
    shop.succeed()
    shop.in_warehouse("COMMENT ON COLUMN mart.big.\"per%cent\" IS '100 % of it''s'")
    shop.in_warehouse('CREATE VIEW public.report AS SELECT "a""b%s" FROM mart.sales')
    spec(shop, """s.id, s.amount * 0.5 AS amount, s.name, s.amount AS "a""b%s" """, big=big)
    shop.succeed()
    assert shop.in_warehouse('SELECT "per%cent"::text FROM mart.big ORDER BY id') == [
        ("5.0",),
        ("10.0",),
    ]
    [(comment,)] = shop.in_warehouse(
        "SELECT description FROM pg_description WHERE objoid = 'mart.big'::regclass"
    )
    assert comment == "100 % of it's"
    spec(shop, "s.id, s.amount * 0.5 AS amount, s.name", big=big)
    assert 'column a"b%s is no longer in its SELECT, but view public.report uses it' in refused(
        shop
    )


def test_a_view_transform_with_a_trigger_stays_and_keeps_the_mart_in_place(shop: Project) -> None:
    """What a trigger does cannot be made again exactly, so the view is not dropped."""
    shop.in_warehouse(
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER t INSTEAD OF INSERT ON mart.big FOR EACH ROW EXECUTE FUNCTION public.f()"
    )
    spec(shop, "s.name, s.id, s.amount")
    shop.succeed()
    assert shop.in_warehouse("SELECT id, name FROM mart.sales ORDER BY 1") == [(1, "a"), (2, "b")]
    assert shop.in_warehouse("SELECT tgrelid::regclass::text FROM pg_trigger") == [("mart.big",)]
    spec(shop, "s.name, s.id, s.amount::bigint")
    assert "view mart.big (with trigger t on view mart.big on it) uses it" in refused(shop)


@pytest.mark.parametrize("hangs", [False, True])
def test_rows_that_shared_what_becomes_the_key_are_replaced(shop: Project, hangs: bool) -> None:
    """A merge would have updated both rows of a key, and kept both."""
    twice = "1 AS id, s.amount, 1 AS one"
    spec(shop, twice)
    shop.succeed()
    if hangs:
        shop.in_warehouse("CREATE VIEW public.report AS SELECT one FROM mart.sales")
    spec(shop, "s.id, s.amount, 1 AS one", **MERGE)
    told = plan(shop)["steps"]["transform.transform_sales"]
    shop.succeed()
    assert shop.in_warehouse("SELECT id FROM mart.sales ORDER BY 1") == [(1,), (2,)]
    built = shop.in_warehouse(
        "SELECT replaced FROM loadsheet.transform_run WHERE transform = 'sales'"
        " ORDER BY run_no DESC LIMIT 1"
    )
    assert built == [(told["is_rebuilt"],)]
