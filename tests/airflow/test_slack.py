"""What Slack is told when a task has failed, and that telling it never harms the task."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from demo.servers import SlackReceiver
from operators.slack import failure_message, notify_failure
from tests.airflow.conftest import define_slack

LOG_URL = "http://127.0.0.1:8080/dags/flights/runs/manual__1/tasks/load.load_bookings?try_number=3"


def context(error: BaseException | str | None = None) -> Any:
    """As on a manual run without a logical date: no `logical_date`, `ds`, `ts` or `data_interval_*`."""
    ti = SimpleNamespace(dag_id="flights", task_id="load.load_bookings", try_number=3, max_tries=2, log_url=LOG_URL)
    found = {"ti": ti, "run_id": "manual__2026-01-01T00:00:00+00:00"}
    return found if error is None else {**found, "exception": error}


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


def text_of(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False)


def test_a_failure_names_pipeline_step_run_time_try_error_place_and_log(slack: SlackReceiver) -> None:
    notify_failure(context(raised(ValueError("the lake is dry"))), slack_conn_id="slack")
    assert len(slack.messages) == 1
    told = text_of(slack.messages[0])
    for part in ("flights", "load.load_bookings", "manual__2026-01-01T00:00:00+00:00", " UTC", "3 of 3"):
        assert part in told
    assert "ValueError: the lake is dry" in told
    assert "test_slack.py:" in told and "in raised" in told
    assert f"<{LOG_URL}|Open the log>" in told


def test_without_an_exception_it_says_that_the_process_was_lost(slack: SlackReceiver) -> None:
    notify_failure(context(), slack_conn_id="slack")
    assert "the task's process was killed or lost" in text_of(slack.messages[0])


def test_an_exception_given_as_text_is_told_too() -> None:
    assert "went away" in text_of(failure_message(context("the executor went away")))


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


def test_the_password_of_a_connection_that_the_task_opened_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.log import mask_secret

    mask_secret("correct horse battery")
    assert "battery" not in text_of(failure_message(context("could not log in with correct horse battery")))


def test_long_and_odd_errors_stay_within_slacks_limits_and_markup() -> None:
    message = failure_message(context("<!channel> & ``` " + "&<" * 4000))
    texts = [block["text"]["text"] for block in message["blocks"] if "text" in block]
    assert all(len(text) <= 3000 for text in texts)
    error = next(text for text in texts if text.startswith("*Error*"))
    assert "<!channel>" not in error and "&lt;!channel&gt; &amp;" in error
    assert error.count("```") == 2


@pytest.mark.parametrize("status", [404, 500])
def test_slack_refusing_is_logged_without_its_token(
    slack: SlackReceiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    slack.respond(status=status)
    with caplog.at_level(logging.WARNING):
        notify_failure(context("x"), slack_conn_id="slack")
    assert len(slack.messages) == 1
    assert "Slack was not told about this failure" in caplog.text
    assert "hush" not in caplog.text


def test_slack_being_down_costs_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    define_slack(monkeypatch, f"http://127.0.0.1:{port}")
    started = time.monotonic()
    notify_failure(context("x"), slack_conn_id="slack")
    assert time.monotonic() - started < 3
    assert "Slack was not told about this failure" in caplog.text


def test_a_missing_connection_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", '{"conn_type": "slackwebhook"}')
    notify_failure(context("x"), slack_conn_id="empty")
    assert "Slack was not told about this failure" in caplog.text


def test_slow_slack_costs_six_seconds(slack: SlackReceiver, caplog: pytest.LogCaptureFixture) -> None:
    slack.respond(delay=9)
    started = time.monotonic()
    notify_failure(context("x"), slack_conn_id="slack")
    assert time.monotonic() - started < 6.5
    assert "Slack was not told about this failure" in caplog.text


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
    started = time.monotonic()
    notify_failure(context("x"), slack_conn_id="slack")
    assert time.monotonic() - started < 6.5
    assert "no answer within 6 s" in caplog.text


def test_a_context_nobody_expected_is_logged_and_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    notify_failure({}, slack_conn_id="slack")  # type: ignore[typeddict-item]
    assert "Slack was not told about this failure" in caplog.text
