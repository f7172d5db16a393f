"""How a core failure ends an Airflow task, and what its text may hold."""

from __future__ import annotations

import traceback
from typing import Any

import psycopg
import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRuntimeError,
    ErrorType,
)
from airflow.sdk.execution_time.comms import ErrorResponse

from loadsheet.airflow.operators import as_airflow_errors
from loadsheet.engine.execute import execute
from loadsheet.errors import (
    ConnectionMissing,
    Corrupt,
    HeldBack,
    InputError,
    LoadsheetError,
    Overtaken,
    Refused,
    Superseded,
    TimedOut,
    Unavailable,
)
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.redact import clean
from loadsheet.spec.pipeline_file import load_pipeline
from tests.project import Project


def fail(error: BaseException) -> BaseException:
    with pytest.raises(BaseException) as caught, as_airflow_errors():
        raise error
    return caught.value


@pytest.mark.parametrize(
    "error", [InputError("x"), ConnectionMissing("x"), Corrupt("x"), Refused("x"), Superseded("x")]
)
def test_what_a_retry_cannot_mend_fails_at_once(error: LoadsheetError) -> None:
    assert type(fail(error)) is AirflowFailException


@pytest.mark.parametrize(
    "error",
    [
        Overtaken("x"),
        HeldBack("x"),
        TimedOut("x"),
        Unavailable("x"),
        OSError("x"),
        psycopg.OperationalError("x"),
    ],
)
def test_what_a_retry_may_mend_is_retried(error: Exception) -> None:
    assert type(fail(error)) is AirflowException


@pytest.mark.parametrize(
    "error", [psycopg.errors.UndefinedTable("x"), psycopg.errors.DivisionByZero("x")]
)
def test_wrong_sql_and_wrong_data_are_not_retried(error: psycopg.Error) -> None:
    assert type(fail(error)) is AirflowFailException


def test_a_bug_is_not_retried_and_says_where_it_was_met() -> None:
    error = TypeError("x")
    error.add_note("shop.item: load failed in run r1")
    failed = fail(error)
    assert type(failed) is AirflowFailException
    assert str(failed).splitlines()[:2] == ["TypeError: x", "shop.item: load failed in run r1"]
    assert failed.__traceback__ and "raise error" in "".join(traceback.format_exception(failed))


@pytest.mark.parametrize(
    "error",
    [AirflowFailException("x"), AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR))],
)
def test_airflows_own_exceptions_pass(error: Exception) -> None:
    assert fail(error) is error


def test_a_timeout_and_a_kill_pass() -> None:
    error = KeyboardInterrupt("x")
    assert fail(error) is error


def test_the_log_shows_the_place_but_not_the_row(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE t (name text PRIMARY KEY)")
    connection.execute("INSERT INTO t VALUES ('Ada')")
    with pytest.raises(AirflowFailException) as caught, as_airflow_errors():
        connection.execute("INSERT INTO t SELECT name FROM t")
    shown = "".join(traceback.format_exception(caught.value))
    assert "duplicate key value" in shown and "(SQLSTATE 23505)" in shown
    assert "INSERT INTO t SELECT" in shown  # the frame of the code that failed
    assert "Ada" not in shown


def test_a_step_fails_the_task_with_its_place_its_code_and_the_next_step(project: Project) -> None:
    project.in_source("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    project.spec({"item": None})
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")

    def run() -> AirflowException:
        with pytest.raises(AirflowException) as caught, as_airflow_errors():
            execute(
                Step(kind="extract", name="item"),
                pipeline,
                RunRequest(run_id="manual__1"),
                project.connections,
            )
        return caught.value

    project.source, right = (
        project.source.replace(":", ":wrong", 2).replace("wrong//", "//"),
        project.source,
    )
    hopeless = run()
    assert type(hopeless) is AirflowFailException
    assert str(hopeless).startswith(
        "shop.item: extract failed in run manual__1: the source (connection 'shop_source'):"
        " connection failed: "
    )
    assert "(SQLSTATE 28P01)" in str(hopeless) and "Next: correct the connection's login" in str(
        hopeless
    )
    project.source = right
    project.warehouse = "postgresql://nobody:x@127.0.0.1:1/none"
    passing = run()
    assert type(passing) is AirflowException and "(SQLSTATE 08001)" in str(passing)
    assert "connect_warehouse" in "".join(traceback.format_exception(passing))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("duplicate key\nDETAIL:  Key (name)=(Ada\nLovelace) already exists.", "duplicate key"),
        ('broken\nCONTEXT:  COPY t, line 3, column name: "Ada"', "broken"),
        (
            'invalid input syntax for type integer: "12 "34""',
            'invalid input syntax for type integer: "***"',
        ),
        ('malformed array literal: "{Ada"', 'malformed array literal: "***"'),
        (
            'date/time field value out of range: "1999-99-99"',
            'date/time field value out of range: "***"',
        ),
        (
            'value "9999999999" is out of range for type integer',
            'value "***" is out of range for type integer',
        ),
        (
            'relation "staging.bookings" does not exist',
            'relation "staging.bookings" does not exist',
        ),
        ("postgresql://ada:s3cr:et@x@db:5432/lake failed", "postgresql://***@db:5432/lake failed"),
        ("connecting with password=hunter2 host=db", "connecting with password=*** host=db"),
        ("{'secret_key': 'abc def', 'region': 'x'}", "{'secret_key': ***, 'region': 'x'}"),
        ("X-Amz-Signature=0af1&X-Amz-Date=1", "X-Amz-Signature=***&X-Amz-Date=1"),
        (
            "https://hooks.slack.com/services/T0/B0/xyz is gone",
            "https://hooks.slack.com/services/*** is gone",
        ),
        (
            'password authentication failed for user "ada"',
            'password authentication failed for user "ada"',
        ),
    ],
)
def test_text_loses_rows_and_secrets_and_nothing_else(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
