"""Transforms: run when something they read changed, incremental where they ask for it, equal to a
rebuild."""

from __future__ import annotations

from typing import Any

import pytest

from loadsheet.errors import Refused
from tests.project import Project

SOURCE = """
CREATE TABLE customer (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE sale (
    id int PRIMARY KEY, customer int, amount numeric,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO customer SELECT i, 'name ' || i FROM generate_series(1, 50) i;
INSERT INTO sale SELECT i, i % 50 + 1, i FROM generate_series(1, 1000) i;
"""
TABLES = {"customer": {"incremental": "at"}, "sale": {"incremental": "at"}}
MERGE = {"materialized": "merge", "unique_key": "id"}
PER_SALE = """
SELECT s.id, c.name, s.amount FROM staging.sale s JOIN staging.customer c ON c.id = s.customer
WHERE s._load_id > :since_load OR c._load_id > :since_load
"""


def built(project: Project, **transforms: Any) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, transforms)
    project.succeed()
    return project


def last_run(project: Project) -> tuple[Any, ...]:
    return project.in_warehouse(
        "SELECT full_build, inserted, updated, deleted FROM loadsheet.transform_run ORDER BY run_no"
        " DESC LIMIT 1"
    )[0]


def wrong(project: Project) -> int:
    expected = PER_SALE.replace(":since_load", "0")
    both = ("SELECT id, name, amount FROM mart.per_sale", expected)
    return sum(
        project.in_warehouse(f"SELECT count(*) FROM ({one} EXCEPT ALL {other}) wrong")[0][0]
        for one, other in (both, both[::-1])
    )


def test_a_merge_builds_only_what_changed_and_skips_when_nothing_did(project: Project) -> None:
    built(project, per_sale=(PER_SALE, MERGE))
    assert wrong(project) == 0
    project.in_source("UPDATE customer SET name = 'renamed', at = clock_timestamp() WHERE id = 1")
    project.in_source("INSERT INTO sale VALUES (2000, 1, 5)")
    project.succeed()
    assert wrong(project) == 0
    assert last_run(project) == (False, 1, 20, 0)
    assert project.succeed()["transform.transform_per_sale"] == "skipped"


def test_rows_that_are_gone_from_an_input_leave_the_mart(project: Project) -> None:
    built(project, per_sale=(PER_SALE, MERGE))
    project.in_source("DELETE FROM sale WHERE id <= 10")
    project.succeed(full_refresh=frozenset({"sale"}))
    assert wrong(project) == 0
    full, inserted, updated, deleted = last_run(project)
    assert (full, inserted, updated, deleted) == (True, 0, 0, 10)


def test_a_transform_that_failed_is_due_even_when_its_inputs_skip(project: Project) -> None:
    built(
        project, per_sale=(PER_SALE.replace("s.amount", "1 / (s.amount - 2000) AS amount"), MERGE)
    )
    project.in_source("INSERT INTO sale VALUES (2000, 1, 2000)")
    error = project.run()["transform.transform_per_sale"].result
    assert isinstance(error, Refused) and "per_sale.sql: division by zero (SQLSTATE 22012)" in str(
        error
    )
    project.spec(TABLES, {"per_sale": (PER_SALE, MERGE)})
    states = project.succeed()
    assert (
        states["load.load_sale"] == "skipped" and states["transform.transform_per_sale"] == "done"
    )
    assert wrong(project) == 0


def test_changed_sql_rebuilds_and_new_columns_appear(project: Project) -> None:
    built(project, per_sale=(PER_SALE, MERGE))
    project.spec(TABLES, {"per_sale": (PER_SALE.replace("s.amount", "s.amount, s.at"), MERGE)})
    project.succeed()
    assert wrong(project) == 0
    assert project.in_warehouse("SELECT count(at) FROM mart.per_sale") == [(1000,)]


def test_tables_views_and_scripts_follow_each_other_in_the_order_of_their_reads(
    project: Project,
) -> None:
    built(
        project,
        z_last=(
            "DELETE FROM mart.log; INSERT INTO mart.log SELECT total, :run_id FROM mart.big",
            {"materialized": "script"},
        ),
        big=(
            "SELECT name, total FROM totals WHERE total > 5000; -- done",
            {"materialized": "view"},
        ),
        totals=(
            (
                "SELECT name, sum(amount) AS total FROM customer JOIN sale ON customer ="
                " customer.id GROUP BY 1"
            ),
            {},
        ),
        log=("SELECT 0::numeric AS total, ''::text AS run_id WHERE false", {}),
    )
    assert project.in_warehouse("SELECT count(*) FROM mart.log") == project.in_warehouse(
        "SELECT count(*) FROM mart.big"
    )
    project.in_source("INSERT INTO sale VALUES (5000, 1, 1000000)")
    states = project.succeed()
    assert states["transform.transform_log"] == "skipped"
    assert project.in_warehouse(
        "SELECT max(total) > 1000000, count(DISTINCT run_id) FROM mart.log"
    ) == [(True, 1)]
    assert set(project.succeed().values()) == {"done", "skipped"}


def test_parameters_are_bound_and_never_pasted(project: Project) -> None:
    built(
        project, who=("SELECT :run_id AS run, '%s :run_id' AS text, :interval_start AS start", {})
    )
    project.succeed(
        run_id="x'; DROP TABLE staging.sale; --%s", full_refresh="all", interval_start="2026-01-01"
    )
    assert project.in_warehouse("SELECT run, text, start::date::text FROM mart.who") == [
        ("x'; DROP TABLE staging.sale; --%s", "%s :run_id", "2026-01-01")
    ]


@pytest.mark.parametrize(
    ("sql", "settings", "message"),
    [
        ("SELECT count(*) FROM staging.sale", MERGE, "no column 'id', which unique_key names"),
        ("SELECT 1 AS id UNION ALL SELECT 1", MERGE, "share the key (id)"),
        ("SELECT NULL::int AS id", MERGE, "1 row has no complete key (id)"),
        (
            "SELECT nonsense FROM staging.sale",
            {},
            'column "nonsense" does not exist (SQLSTATE 42703)',
        ),
    ],
)
def test_a_wrong_select_is_refused_with_its_reason(
    project: Project, sql: str, settings: dict[str, Any], message: str
) -> None:
    project.in_source(SOURCE)
    project.spec(TABLES, {"bad": (sql, settings)})
    results = project.run()
    error = results["transform.transform_bad"].result
    assert isinstance(error, Refused) and message in str(error)
    assert results["load.load_sale"].state == "done"


@pytest.mark.parametrize(
    ("settings", "sql", "place", "caret"),
    [
        ({}, "SELECT id\n  , nope\nFROM staging.sale", "2:5", "   2 |   , nope\n     |     ^^^^"),
        (
            {"materialized": "view"},
            "SELECT 'é' AS a,\n  upperr('x') AS b FROM staging.sale",
            "2:3",
            "   2 |   upperr('x') AS b FROM staging.sale\n     |   ^^^^^^",
        ),
        (
            {"materialized": "script"},
            "SELECT 1;\n\nINSERT INTO staging.nowhere SELECT 1",
            "3:13",
            "   3 | INSERT INTO staging.nowhere SELECT 1\n     |             ^^^^^^^",
        ),
        # The bound values are longer than the names in the file.
        (
            MERGE,
            "SELECT id, :run_id AS r FROM staging.sale WHERE _load_id > :since_load\n AND nope = 1",
            "2:6",
            "   2 |  AND nope = 1\n     |      ^^^^",
        ),
    ],
)
def test_an_error_in_the_sql_has_its_line_and_a_caret(
    project: Project, settings: dict[str, Any], sql: str, place: str, caret: str
) -> None:
    """The message named the file alone."""
    project.in_source(SOURCE)
    project.spec(TABLES, {"per_sale": (sql, settings)})
    error = project.run()["transform.transform_per_sale"].result
    assert isinstance(error, Refused)
    assert f"per_sale.sql:{place}: " in error.reason and "Next: " in error.reason
    assert str(error).endswith(f"\n{caret}")
    shown = project.cli("run", "shop").stdout
    assert "\n".join(f"  {line}" for line in caret.splitlines()) in shown
    (recorded,) = project.in_warehouse("SELECT message FROM loadsheet.failure")
    assert recorded[0] == error.reason  # one line, for the status


def test_a_table_somebody_else_made_is_not_replaced(project: Project) -> None:
    project.in_warehouse("CREATE SCHEMA mart; CREATE TABLE mart.mine AS SELECT 1 AS precious")
    project.in_source(SOURCE)
    project.spec(TABLES, {"mine": "SELECT 2 AS precious"})
    error = project.run()["transform.transform_mine"].result
    assert isinstance(error, Refused) and "was not made by Loadsheet" in str(error)
    assert project.in_warehouse("SELECT precious FROM mart.mine") == [(1,)]


def test_a_mart_with_a_view_on_it_is_rebuilt_in_place(project: Project) -> None:
    built(project, per_sale=(PER_SALE.split("WHERE")[0], {"unique_key": "id"}))
    project.in_warehouse("CREATE VIEW on_top AS SELECT name FROM mart.per_sale")
    project.in_source("UPDATE sale SET amount = 0, at = clock_timestamp() WHERE id = 3")
    project.succeed()
    assert wrong(project) == 0
    assert last_run(project)[1:] == (0, 1, 0)


def test_a_script_may_call_a_procedure_with_parameters(project: Project) -> None:
    project.in_source(SOURCE)
    text = """
    CREATE TABLE IF NOT EXISTS mart.runs (run text, sales bigint);
    CREATE OR REPLACE PROCEDURE mart.note(run text) LANGUAGE sql
    BEGIN ATOMIC INSERT INTO mart.runs SELECT run, count(*) FROM staging.sale; END;
    CALL mart.note(:run_id) """
    project.spec(TABLES, {"runs": (text, {"materialized": "script"})})
    project.succeed(run_id="the_first")
    assert project.in_warehouse("SELECT * FROM mart.runs") == [("the_first", 1000)]
