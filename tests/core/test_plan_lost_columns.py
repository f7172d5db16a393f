"""`loadsheet plan --connect` says that a transform names a column which the load before it renames,
replaces or never makes: with the SQL file, line and column, before the run fails there."""

from __future__ import annotations

import pytest

from tests.core.planned import *  # noqa: F403
from tests.core.planned import TABLES, found, plan
from tests.project import Project

NAMES = "SELECT c.id,\n       c.name AS who\nFROM staging.customer c\n"
ALONE = "SELECT id,\n       name AS who\nFROM staging.customer\n"
JOINED = "SELECT id, who\nFROM (SELECT id, name AS who FROM staging.customer) c\nWHERE c.id > 0\n"
STEP = "transform.transform_names"


@pytest.mark.parametrize(
    ("sql", "place"), [(NAMES, "2:10"), (ALONE, "2:8"), (JOINED, "2:18")], ids=("t.c", "c", "inner")
)
def test_a_renamed_column_is_an_error_of_the_plan_and_of_the_run(
    shop: Project, sql: str, place: str
) -> None:
    shop.spec(TABLES, {"names": sql})
    shop.succeed()
    shop.in_source("ALTER TABLE customer RENAME name TO full_name")
    shop.in_source("INSERT INTO customer VALUES (900, 'new')")
    document = plan(shop, code=1)
    assert found(document, STEP) == [
        f"names.sql:{place}: reads customer.name, which the load before it renames to full_name:"
        " write full_name in the SQL file"
    ]
    assert document["steps"][STEP]["does"] == "would fail"
    assert shop.run()[STEP].state == "failed"
    shop.spec(TABLES, {"names": sql.replace("name", "full_name")})
    assert found(plan(shop), STEP) == []


def test_a_column_that_the_first_load_will_not_make_is_an_error_with_what_was_meant(
    shop: Project,
) -> None:
    shop.spec(TABLES, {"names": NAMES.replace("c.name", "c.nome")})
    (error,) = found(plan(shop, code=1), STEP)
    assert error == (
        "names.sql:2:10: reads customer.nome, which the table will not have; did you mean 'name'?"
    )
    assert shop.run()[STEP].state == "failed"


@pytest.mark.parametrize("sql", [NAMES, ALONE, JOINED], ids=("t.c", "c", "inner"))
def test_a_dropped_column_is_a_warning_since_the_run_succeeds(shop: Project, sql: str) -> None:
    shop.spec(TABLES, {"names": sql})
    shop.succeed()
    shop.in_source("ALTER TABLE customer DROP name")
    shop.in_source("INSERT INTO customer VALUES (900)")
    document = plan(shop)
    (warning,) = found(document, STEP, "warning")
    assert "reads customer.name, which is no longer read from the source" in warning
    assert document["connect"]["warnings"] == 1
    shop.succeed()


def test_names_that_are_no_columns_are_not_errors(shop: Project) -> None:
    """The load is the first: nothing but the SQL's text is known."""
    sql = (
        "SELECT c.id AS key, c, c.ctid::text AS place, current_user AS who, c._load_id,"
        " row_number() OVER w AS number\n"
        "FROM staging.customer c, generate_series(1, 2) series\n"
        "WHERE series > 1 AND c.tableoid > 0 WINDOW w AS (ORDER BY c.id)\n"
    )
    shop.spec(TABLES, {"names": sql.replace("c, ", "c::text AS whole, ", 1)})
    assert found(plan(shop), STEP) == []
    shop.succeed()


def test_an_error_of_the_server_has_its_line_and_column(shop: Project) -> None:
    shop.succeed()
    shop.spec(TABLES, {"names": "SELECT :since_load, id,\n  c.nme FROM staging.customer c"})
    (error,) = found(plan(shop, code=1), STEP)
    assert error.startswith("names.sql:2:3: column c.nme does not exist (SQLSTATE 42703)")
    shop.spec(TABLES, {"names": "SELECT :run_id AS run, id,\n  nme FROM staging.customer"})
    (error,) = found(plan(shop, code=1), STEP)
    assert error.startswith('names.sql:2:3: column "nme" does not exist')
