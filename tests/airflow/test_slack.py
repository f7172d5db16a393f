"""What Slack is told when a task has failed and when it works again, and that telling it never
harms the task."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowFailException

from demo.servers import SlackReceiver
from loadsheet.airflow.alerts import sending
from loadsheet.airflow.alerts.callbacks import notify_failure, notify_success
from loadsheet.airflow.alerts.incidents import variable_key
from loadsheet.airflow.alerts.slack import slack_message
from loadsheet.airflow.alerts.task_messages import failure_message as message_about_failure
from loadsheet.airflow.operators import NotExtracted, as_airflow_errors
from loadsheet.engine.execute import execute
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.verify.step import verify_due
from tests.airflow.alert_world import LOG_URL, context, raised, variables
from tests.airflow.conftest import define_slack
from tests.project import Project

__all__ = ["variables"]


def fail(**more: Any) -> None:
    notify_failure(
        context("the lake is dry", **more), slack_conn_id="slack", events=["failure", "recovery"]
    )


def work(**more: Any) -> None:
    notify_success(context(**more), slack_conn_id="slack")


def failure_message(context: Any) -> dict[str, Any]:
    return slack_message(message_about_failure(context))


def text_of(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False)


def seconds(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def test_a_failure_names_pipeline_step_run_time_try_error_place_and_log(
    slack: SlackReceiver,
) -> None:
    notify_failure(context(raised(ValueError("the lake is dry"))), slack_conn_id="slack")
    assert len(slack.messages) == 1
    told = text_of(slack.messages[0])
    for part in (
        "flights",
        "load.load_bookings",
        "manual__2026-01-01T00:00:00+00:00",
        " UTC",
        "3 of 3",
    ):
        assert part in told
    assert "ValueError: the lake is dry" in told
    assert "alert_world.py:" in told and "in raised" in told
    assert f"<{LOG_URL}|Open the log>" in told


@pytest.mark.parametrize(
    ("try_number", "max_tries", "told"),
    [(1, 2, "1, not retried"), (2, 2, "2, not retried"), (3, 2, "3 of 3"), (1, 0, "1 of 1")],
)
def test_a_failure_that_no_retry_follows_promises_none(
    try_number: int, max_tries: int, told: str
) -> None:
    """A refused step was told as "1 of 3", and nobody tried it again."""
    found = context("refused")
    found["ti"].try_number, found["ti"].max_tries = try_number, max_tries
    (fields,) = (block["fields"] for block in failure_message(found)["blocks"] if "fields" in block)
    assert f"*Try*\n{told}" in [field["text"] for field in fields]


def test_without_an_exception_it_says_that_the_process_was_lost(slack: SlackReceiver) -> None:
    notify_failure(context(), slack_conn_id="slack")
    assert "the task's process was killed or lost" in text_of(slack.messages[0])


def test_an_exception_given_as_text_is_told_too() -> None:
    assert "went away" in text_of(failure_message(context("the executor went away")))


def test_a_load_that_failed_because_its_extract_did_is_no_second_failure(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    found = context(NotExtracted("extract.extract_any [seats] of this run is failed"))
    notify_failure(found, slack_conn_id="slack", events=["failure", "recovery"])
    assert (slack.messages, variables) == ([], {})


def test_rows_and_secrets_stay_here(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    connection.execute("INSERT INTO t VALUES (1, 'Ada Lovelace')")
    with pytest.raises(psycopg.Error) as duplicate:
        connection.execute("INSERT INTO t VALUES (1, 'Grace Hopper')")
    with pytest.raises(psycopg.Error) as unreadable:
        connection.execute("SELECT cast(name AS integer) FROM t")
    assert "(1)" in str(duplicate.value) and "Ada" in str(unreadable.value)
    told = text_of(failure_message(context(duplicate.value)))
    assert "duplicate key value violates unique constraint" in told and "(1)" not in told
    told = text_of(failure_message(context(unreadable.value)))
    assert "invalid input syntax for type integer" in told and "Ada" not in told


def test_the_password_of_a_connection_that_the_task_opened_is_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.sdk.log import mask_secret

    mask_secret("correct horse battery")
    assert "battery" not in text_of(
        failure_message(context("could not log in with correct horse battery"))
    )


def test_long_and_odd_errors_stay_within_slacks_limits_and_markup() -> None:
    message = failure_message(context("<!channel> & ``` " + "&<" * 4000))
    texts = [block["text"]["text"] for block in message["blocks"] if "text" in block]
    assert all(len(text) <= 3000 for text in texts)
    error = next(text for text in texts if text.startswith("*Error*"))
    assert "<!channel>" not in error and "&lt;!channel&gt; &amp;" in error
    assert error.count("```") == 2


@pytest.mark.parametrize(
    ("status", "headers"), [(404, {}), (500, {}), (429, {}), (429, {"Retry-After": "30"})]
)
def test_slack_refusing_costs_nothing_and_is_logged_without_its_token(
    slack: SlackReceiver, status: int, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    slack.respond(status=status, headers=headers)
    assert seconds(lambda: notify_failure(context("x"), slack_conn_id="slack")) < 3
    assert len(slack.messages) == 1
    assert "Slack did not get the message about this failure" in caplog.text
    assert "hush" not in caplog.text


def test_slack_asking_for_a_moment_gets_it(
    slack: SlackReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    slack.respond(status=429, headers={"Retry-After": "1"}, times=1)
    assert 1 <= seconds(lambda: notify_failure(context("x"), slack_conn_id="slack")) < 7
    assert len(slack.messages) == 2  # the first one was refused
    assert "Slack did not get the message" not in caplog.text


def test_slack_asking_again_and_again_costs_six_seconds(
    slack: SlackReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    slack.respond(status=429, headers={"Retry-After": "2"})
    assert seconds(lambda: notify_failure(context("x"), slack_conn_id="slack")) < 7
    assert "Slack did not get the message about this failure" in caplog.text


@pytest.mark.parametrize("address", ["http://127.0.0.1:{free_port}", "http://nobody.invalid"])
def test_slack_out_of_reach_costs_little(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    define_slack(monkeypatch, address.format(free_port=port))
    assert seconds(lambda: notify_failure(context("x"), slack_conn_id="slack")) < 7
    assert "Slack did not get the message about this failure" in caplog.text


def test_a_missing_connection_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", '{"conn_type": "slackwebhook"}')
    notify_failure(context("x"), slack_conn_id="empty")
    assert "Slack did not get the message about this failure" in caplog.text


def test_slow_slack_costs_six_seconds(
    slack: SlackReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    slack.respond(delay=9)
    assert seconds(lambda: notify_failure(context("x"), slack_conn_id="slack")) < 7
    assert "Slack may not have got the message about this failure" in caplog.text


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that answers one byte a second: no single read ever times out."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                while not stop.wait(1):
                    peer.send(b"H")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join()


def test_dripping_slack_costs_six_seconds(
    dripping: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    define_slack(monkeypatch, dripping)
    assert seconds(lambda: notify_failure(context("x"), slack_conn_id="slack")) < 7
    assert "no answer in time" in caplog.text


def test_a_context_nobody_expected_is_logged_and_swallowed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notify_failure({}, slack_conn_id="slack", events=["failure", "recovery"])  # type: ignore[typeddict-item]
    notify_success({}, slack_conn_id="slack")  # type: ignore[typeddict-item]
    assert "No message was sent about this failure" in caplog.text
    assert "No message was sent about this success" in caplog.text


def test_a_recovery_names_pipeline_step_run_time_failure_and_log(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    fail(run_id="scheduled__1")
    work(run_id="scheduled__2")
    told = text_of(slack.messages[1])
    for part in (
        "flights works again",
        "load.load_bookings",
        "scheduled__2",
        "Failed since",
        " UTC",
        "scheduled__1",
    ):
        assert part in told
    assert f"<{LOG_URL}|Open the log>" in told


def test_a_recovery_is_told_once_and_nothing_is_left(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    fail()
    assert list(variables) == ["loadsheet_failed__flights__load.load_bookings"]
    work()  # cleared in the same run
    work(run_id="the next one")
    assert len(slack.messages) == 2 and variables == {}


def test_a_task_that_always_worked_has_nothing_to_tell(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    work()
    assert slack.messages == [] and variables == {}


def test_several_failed_runs_have_one_recovery_that_names_the_first(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    for run in ("scheduled__1", "manual__2", "scheduled__3"):
        fail(run_id=run)
    work(run_id="scheduled__4")
    assert [("works again" in text_of(message)) for message in slack.messages] == [
        False,
        False,
        False,
        True,
    ]
    told = text_of(slack.messages[3])
    assert "scheduled__1" in told and "manual__2" not in told and "scheduled__3" not in told


def test_a_task_recovers_when_it_works_not_when_another_does(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    fail(step="load.load_bookings", run_id="1")
    # so that the load is upstream_failed: nobody is called for it
    fail(step="extract.extract_bookings", run_id="2")
    work(step="extract.extract_bookings", run_id="3")
    work(step="load.load_bookings_archive", run_id="3")
    assert len(slack.messages) == 3 and "extract.extract_bookings" in text_of(slack.messages[2])
    work(step="load.load_bookings", run_id="3")
    assert len(slack.messages) == 4 and "load.load_bookings" in text_of(slack.messages[3])


def test_a_table_that_the_run_left_out_has_not_recovered(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    fail(step="extract.extract_bookings")
    work(step="extract.extract_bookings", tables=("seats",))
    assert len(slack.messages) == 1
    work(step="extract.extract_bookings", tables=("bookings",))
    assert len(slack.messages) == 2


def test_who_refused_a_failure_is_not_told_that_it_is_over(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    slack.respond(status=500)
    fail(run_id="1")
    slack.respond()
    work(run_id="2")
    assert len(slack.messages) == 1 and variables == {}
    fail(run_id="3")
    work(run_id="4")
    assert len(slack.messages) == 3 and "works again" in text_of(slack.messages[2])


def test_a_recovery_that_slack_refused_is_told_by_the_next_success(
    slack: SlackReceiver, variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    fail()
    slack.respond(status=500, times=1)
    work(run_id="2")
    assert "Slack did not get the message about this recovery" in caplog.text
    work(run_id="3")
    work(run_id="4")
    assert [run in text_of(slack.messages[-1]) for run in ('"*Run*\\n3"', '"*Run*\\n4"')] == [
        True,
        False,
    ]
    assert len(slack.messages) == 3 and variables == {}


def test_a_recovery_that_slack_took_without_an_answer_is_not_told_twice(
    slack: SlackReceiver,
    variables: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail()
    slack.respond(delay=9)
    monkeypatch.setattr(sending, "GIVE_UP_SECONDS", 1.0)
    work()
    work()
    assert "Slack may not have got the message about this recovery" in caplog.text
    assert len(slack.messages) == 2


def test_without_the_event_recovery_nothing_is_remembered(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    notify_failure(context("x"), slack_conn_id="slack", events=["failure"])
    assert len(slack.messages) == 1 and variables == {}


def test_without_the_event_failure_only_the_recovery_is_told(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    notify_failure(context("x"), slack_conn_id="slack", events=["recovery"])
    notify_success(context(), slack_conn_id="slack", events=["recovery"])
    assert len(slack.messages) == 1 and "works again" in text_of(slack.messages[0])


def test_variables_out_of_reach_cost_the_recovery_and_not_the_failure(
    slack: SlackReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(prefix: str) -> list[str]:
        raise ConnectionError("the API server is away")

    monkeypatch.setattr(Variable, "keys", away)
    fail()
    work()
    assert len(slack.messages) == 1
    assert "There will be no message when this task works again" in caplog.text
    assert "There is no message if this task works again" in caplog.text


def test_names_too_long_for_airflow_stay_apart() -> None:
    one, other = (variable_key("d" * 200, "load.load_" + "t" * 60 + end) for end in "ab")
    assert one != other and len(one) == len(other) == 250


def test_rows_that_differ_are_told_by_table_count_and_key_and_not_by_their_values(
    project: Project, slack: SlackReceiver
) -> None:
    project.in_source("CREATE TABLE person (id int PRIMARY KEY, name text)")
    project.in_source("INSERT INTO person VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Mary')")
    project.spec({"person": None}, verify="1 run")
    project.succeed()
    project.in_warehouse("UPDATE staging.person SET name = 'Eve' WHERE id = 2")
    project.in_warehouse("DELETE FROM loadsheet.verified")
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    request, connections = RunRequest(run_id="manual__1"), project.connections
    with pytest.raises(AirflowFailException) as failure, as_airflow_errors():
        step = Step(kind="verify", name="staging")
        execute(step, pipeline, request, connections, verify=verify_due)
    notify_failure(context(failure.value, step="verify"), slack_conn_id="slack")
    (message,) = slack.messages
    assert "person: 1 different (id = 2 in name)" in message["text"]
    told = text_of(message)
    assert f"<{LOG_URL}|Open the log>" in told
    assert "Next: `loadsheet verify shop` names more rows" in told
    for value in ("Ada", "Grace", "Mary", "Eve"):
        assert value not in told


def test_a_verify_step_that_left_out_tables_has_not_recovered(
    slack: SlackReceiver, variables: dict[str, str]
) -> None:
    fail(step="verify")
    work(step="verify", tables=("seats",))
    assert len(slack.messages) == 1
    work(step="verify")
    assert len(slack.messages) == 2
