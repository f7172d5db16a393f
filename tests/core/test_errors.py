"""What operators read when it breaks: pipeline, table, run, the server's code and the next step;
and what is retried.

Each trouble is made with real servers. It lasts until undone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.engine.failures import failure_explained
from loadsheet.errors import LoadsheetError, Refused, Superseded, Unavailable
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from tests.core.troubles import *  # noqa: F403
from tests.core.troubles import (
    EXTRACT,
    LOAD,
    RETRIES,
    TRANSFORM,
    Shop,
    a_bucket_removed_on_the_way,
    a_constraint_of_somebody_else,
    a_database_closed_for_connections,
    a_lake_that_is_not_there,
    a_lock_held_by_another,
    a_missing_database,
    a_missing_privilege_in_the_source,
    a_missing_privilege_in_the_warehouse,
    a_missing_table,
    a_read_only_warehouse,
    a_server_that_is_not_there,
    a_session_ended_by_an_administrator,
    a_wrong_key_of_the_lake,
    a_wrong_password,
    sql_that_stumbles_over_a_value,
    too_many_connections,
)


@dataclass(frozen=True)
class Case:
    """A trouble, the step that meets it, its code, whether it may pass, and what the message must
    also say."""

    trouble: Callable[[Shop], Any]
    step: str
    code: str
    passes: bool
    says: str


CASES = [
    Case(
        a_lock_held_by_another,
        LOAD,
        "SQLSTATE 55P03",
        True,
        "report tool, idle in transaction, since ",
    ),
    Case(
        a_session_ended_by_an_administrator,
        LOAD,
        "SQLSTATE 57P01",
        True,
        "Next: check that it runs",
    ),
    Case(
        a_server_that_is_not_there,
        EXTRACT,
        "SQLSTATE 08001",
        True,
        "port 1 failed: Connection refused",
    ),
    Case(
        a_database_closed_for_connections,
        EXTRACT,
        "SQLSTATE 57P03",
        True,
        "ALLOW_CONNECTIONS true",
    ),
    Case(
        too_many_connections,
        EXTRACT,
        "SQLSTATE 53300",
        True,
        "ALTER ROLE ... CONNECTION LIMIT",
    ),
    Case(
        a_read_only_warehouse,
        EXTRACT,
        "SQLSTATE 25006",
        True,
        "Next: after a failover, point the connection at",
    ),
    Case(
        a_lake_that_is_not_there,
        "create_bucket",
        "",
        True,
        ": Connection refused. The lake could not be reached",
    ),
    Case(
        a_wrong_password, EXTRACT, "SQLSTATE 28P01", False, "Next: correct the connection's login"
    ),
    Case(
        a_missing_database,
        EXTRACT,
        "SQLSTATE 3D000",
        False,
        "Next: create it, or correct the connection",
    ),
    Case(
        a_missing_privilege_in_the_source,
        EXTRACT,
        "SQLSTATE 42501",
        False,
        "table item (SQLSTATE 42501)",
    ),
    Case(
        a_missing_privilege_in_the_warehouse,
        LOAD,
        "SQLSTATE 42501",
        False,
        "Next: grant the role what it lacks",
    ),
    Case(a_missing_table, EXTRACT, "", False, "it is called public.items now"),
    Case(
        a_constraint_of_somebody_else,
        LOAD,
        "SQLSTATE 23514",
        False,
        'violates check constraint "mine"',
    ),
    Case(
        sql_that_stumbles_over_a_value,
        TRANSFORM,
        "SQLSTATE 22P02",
        False,
        "names.sql: invalid input syntax",
    ),
    Case(
        a_wrong_key_of_the_lake,
        "create_bucket",
        "S3 SignatureDoesNotMatch",
        False,
        "Next: correct login and password",
    ),
    Case(
        a_bucket_removed_on_the_way,
        EXTRACT,
        "S3 NoSuchBucket",
        False,
        "Next: run the step create_bucket",
    ),
]


OF_A_CONNECTION = {
    a_lock_held_by_another: "warehouse",
    a_read_only_warehouse: "warehouse",
    a_missing_privilege_in_the_source: "shop_source",
    a_missing_privilege_in_the_warehouse: "warehouse",
    a_constraint_of_somebody_else: "warehouse",
    sql_that_stumbles_over_a_value: "warehouse",
    a_session_ended_by_an_administrator: "warehouse",
    a_server_that_is_not_there: "shop_source",
    a_database_closed_for_connections: "warehouse",
    too_many_connections: "warehouse",
    a_wrong_password: "shop_source",
    a_missing_database: "warehouse",
    a_lake_that_is_not_there: "lake",
    a_wrong_key_of_the_lake: "lake",
    a_bucket_removed_on_the_way: "lake",
}
"""The troubles that a server tells of, and its connection. It was in no message."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.trouble.__name__)
def test_each_trouble_is_named_retried_if_it_may_pass_and_leaves_nothing_behind(
    shop: Shop, case: Case
) -> None:
    with case.trouble(shop) as hook:
        results = shop.run(hook)
    failed = results[case.step]
    assert (failed.state, failed.tries) == ("failed", 1 + RETRIES if case.passes else 1)
    assert [wait.number for wait in shop.waits] == (
        list(range(1, RETRIES + 1)) if case.passes else []
    )
    error = failed.result
    assert type(error) is (Unavailable if case.passes else Refused)
    assert isinstance(error, LoadsheetError) and error.retryable is case.passes
    assert (error.pipeline, error.step, error.run_id) == ("shop", case.step, shop.run_id)
    assert error.code == case.code and case.code in str(error)
    name = {"create_bucket": "shop", TRANSFORM: "shop.names"}.get(case.step, "shop.item")
    assert str(error).startswith(f"{name}: {failed.step.kind} failed in run {shop.run_id}: ")
    assert case.says in str(error) and "\n" not in str(error)
    named = re.search(r": the (\w+) \(connection '(\w+)'(?:, role '\w+')?\): ", str(error))
    conn_id = OF_A_CONNECTION.get(case.trouble)
    end = conn_id and conn_id.removeprefix("shop_")
    assert (named.groups() if named else (None, None)) == (end, conn_id)
    assert "Ada" not in str(error) and "p4ss" not in str(error) and "wr0ng" not in str(error)
    shop.converges()


def test_a_server_that_stops_in_the_middle_is_named(shop: Shop) -> None:
    with PostgresServer() as other:
        shop.project.warehouse = other.create_database("elsewhere")

        def stop(step: Step, moment: str) -> None:
            if (step.kind, moment) == ("load", "progress"):
                other.stop()

        error = shop.run(stop)[LOAD].result
    assert isinstance(error, Unavailable) and error.code in (
        "SQLSTATE 08001",
        "SQLSTATE 08006",
        "SQLSTATE 57P01",
    )
    assert str(error).startswith(
        f"shop.item: load failed in run {shop.run_id}: "
    ) and "Next: check that" in str(error)
    assert ": the warehouse (connection 'warehouse'): " in str(error)


def test_a_load_whose_extraction_is_gone_says_what_to_clear_and_is_not_retried(shop: Shop) -> None:
    def drop(step: Step, moment: str) -> None:
        if (step.kind, moment) == ("load", "started"):
            shop.project.in_warehouse("DROP TABLE mart.names; DROP TABLE staging.item")

    failed = shop.run(drop)[LOAD]
    assert isinstance(failed.result, Superseded) and failed.tries == 1
    text = str(failed.result)
    assert text.startswith(
        f"shop.item: load failed in run {shop.run_id}: staging.item is gone since"
    )
    assert (
        "in Airflow clear extract.extract_item" in text
        and "`loadsheet run shop --tables item`" in text
    )


def test_what_nobody_foresaw_is_not_retried_and_notes_its_place(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(
        "loadsheet.warehouse.load_transaction.LoadTransaction._write_increment", broken
    )
    failed = shop.run()[LOAD]
    assert isinstance(failed.result, TypeError) and failed.tries == 1
    assert failed.result.__notes__ == [f"shop.item: load failed in run {shop.run_id}"]


def test_a_refusal_keeps_its_own_words_and_loses_the_rows(shop: Shop) -> None:
    def stumble() -> None:
        try:
            shop.project.in_warehouse("SELECT CAST('open, Ada' AS point)")
        except psycopg.errors.DataError as error:
            first = Refused(f"cannot hold what the source sent: {error.diag.message_primary}")
            first.__cause__ = error
            raise Refused(f"staging.item: {first}") from first

    pipeline = load_pipeline(shop.project.folder / "pipelines" / "shop" / "pipeline.yml")
    step, request = Step(kind="load", name="item"), RunRequest(run_id="r1")
    with (
        pytest.raises(Refused) as caught,
        failure_explained(step, pipeline, request, shop.project.connections),
    ):
        stumble()
    assert str(caught.value).startswith(
        "shop.item: load failed in run r1: staging.item: cannot hold what the source sent: "
        'invalid input syntax for type point: "***" (SQLSTATE 22P02). A value does not fit. Next: '
    )
