"""What is told of a trouble after its alarm: in the thread of the alarm, once on each route."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from loadsheet.airflow.alerts import sending
from loadsheet.airflow.alerts.callbacks import notify_failure, notify_success
from loadsheet.airflow.alerts.incidents import variable_key
from loadsheet.airflow.freshness_alerts import send_all
from loadsheet.freshness.watch import Incident, Memory, after_telling
from tests.airflow.alert_world import (
    KINDS,
    ROUTES,
    World,
    as_slack,
    context,
    fail,
    variables,
    work,
    world,
)
from tests.airflow.receivers import Answer, Request

__all__ = ["variables", "world"]


def test_a_bot_answers_in_the_thread_of_the_failure(
    world: World, variables: dict[str, str]
) -> None:
    """Later failures too: the channel has one message for each trouble."""
    routes = [KINDS["bot"], KINDS["webhook"]]
    fail(routes, run_id="1")
    fail(routes, run_id="2")
    work(routes, run_id="3")
    first, second, third = world.by_bot
    assert "thread_ts" not in first
    thread = json.loads(as_slack(world.posted_to("/api/")[0]).body)["ts"]
    assert (second["thread_ts"], second["channel"]) == (thread, "C1")
    assert third["thread_ts"] == thread and "works again" in third["text"]
    assert variables == {}
    fail(routes, run_id="4")
    assert "thread_ts" not in world.by_bot[3]  # a new trouble


@pytest.mark.parametrize(
    "error",
    [
        "thread_not_found",
        "restricted_action_thread_locked",
        "is_archived",  # and a new channel has its name
        "channel_not_found",  # the connection leads to another workspace now
        "not_in_channel",
    ],
)
def test_a_thread_that_takes_no_reply_is_left(
    world: World, variables: dict[str, str], error: str
) -> None:
    """Else no recovery could be posted any more."""
    routes = [KINDS["bot"]]
    fail(routes)

    def answer(request: Request) -> Answer:
        if "thread_ts" in request.document:
            body = json.dumps({"ok": False, "error": error}).encode()
            return Answer(body=body, headers={"Content-Type": "application/json"})
        return as_slack(request)

    world.http.answer = answer
    work(routes)
    last = world.by_bot[-1]
    assert "thread_ts" not in last and "works again" in last["text"] and variables == {}


@pytest.mark.parametrize("refusing", ["pagerduty", "teams"])
def test_a_route_that_refused_a_recovery_is_told_later_and_no_other_again(
    world: World, variables: dict[str, str], refusing: str
) -> None:
    paths = {"pagerduty": "/v2/enqueue", "teams": "/workflows"}
    routes = [KINDS["pagerduty"], KINDS["teams"], KINDS["webhook"]]
    fail(routes, run_id="1")

    def answer(request: Request) -> Answer:
        return Answer(500 if request.path.startswith(paths[refusing]) else 200)

    world.http.answer = answer
    work(routes, run_id="2")
    work(routes, run_id="3")
    assert len(variables) == 1
    world.http.answer = as_slack
    work(routes, run_id="4")
    work(routes, run_id="5")
    assert variables == {}
    (other,) = paths.keys() - {refusing}
    assert len(world.posted_to(paths[other])) == len(world.posted_to("/hook")) == 2
    assert len(world.posted_to(paths[refusing])) == 1 + 3


def test_a_new_failure_after_a_recovery_that_some_know_of_is_told_to_all(
    world: World, variables: dict[str, str]
) -> None:
    routes = [KINDS["pagerduty"], KINDS["webhook"]]
    fail(routes, run_id="1")
    world.http.answer = lambda request: Answer(500 if request.path == "/v2/enqueue" else 200)
    work(routes, run_id="2")
    world.http.answer = as_slack
    fail(routes, run_id="3")
    work(routes, run_id="4")
    states = [request.document["state"] for request in world.posted_to("/hook")]
    assert states == ["open", "resolved", "open", "resolved"] and variables == {}
    assert world.posted_to("/hook")[3].document["facts"]["First in run"] == "3"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"slak_conn_id": "slack"}, "a route has no key 'slak_conn_id'"),
        ({"events": ["failure"]}, "a route needs one of slack_conn_id, "),
        ({"webhook_conn_id": "x", "events": "failure"}, "events is not a list of failure, "),
        ({"webhook_conn_id": "x", "events": ["fail"]}, "events is not a list of failure, "),
    ],
)
def test_a_mistake_in_a_dag_of_your_own_is_named_and_keeps_no_other_route_from_its_message(
    world: World,
    variables: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    wrong: dict[str, Any],
    said: str,
) -> None:
    fail([wrong, KINDS["webhook"]])
    assert said in caplog.text and len(world.posted_to("/hook")) == 1


def test_mapped_tasks_of_a_dag_of_your_own_are_told_apart(
    world: World, variables: dict[str, str]
) -> None:
    """Their operator may have a `name`, which all of them share."""
    routes = [KINDS["webhook"]]
    mapped = [context("no"), context("no"), context()]
    for found, number in zip(mapped, (0, 1, 0), strict=True):
        found["ti"].map_index = number
        found["task"].name = "pod"
    notify_failure(mapped[0], routes=routes)
    notify_failure(mapped[1], routes=routes)
    notify_success(mapped[2], routes=routes)
    first, second, over = (request.document["incident"] for request in world.posted_to("/hook"))
    assert first == over != second and len(variables) == 1


def test_who_was_not_told_of_a_failure_hears_of_no_recovery(
    world: World, variables: dict[str, str]
) -> None:
    """A route that refused it, one that was added meanwhile, and one that was removed."""
    world.http.answer = lambda request: Answer(500 if request.path == "/hook" else 200)
    fail([KINDS["webhook"], KINDS["pagerduty"], KINDS["email"]])
    world.http.answer = as_slack
    work([KINDS["webhook"], KINDS["pagerduty"], KINDS["teams"]])
    assert len(world.posted_to("/hook")) == 1 and world.posted_to("/workflows") == []
    actions = [request.document["event_action"] for request in world.posted_to("/v2/enqueue")]
    assert actions == ["trigger", "resolve"]
    assert len(world.mailbox.mails) == 1 and variables == {}


def test_a_later_failure_that_a_route_refuses_does_not_take_its_recovery_away(
    world: World, variables: dict[str, str]
) -> None:
    fail([KINDS["webhook"]], run_id="1")
    world.http.answer = lambda request: Answer(500)
    fail([KINDS["webhook"]], run_id="2")
    world.http.answer = as_slack
    work([KINDS["webhook"]], run_id="3")
    states = [request.document["state"] for request in world.posted_to("/hook")]
    assert states == ["open", "open", "resolved"] and variables == {}


def test_a_process_that_dies_while_it_tells_a_failure_leaves_the_recovery(
    world: World, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(sending, "tell", die)
        fail([KINDS["webhook"]])
    work([KINDS["webhook"]])
    assert len(world.posted_to("/hook")) == 1 and variables == {}


@pytest.mark.parametrize("text", ["", "7", "null", '{"events": ["failure"]}'])
def test_a_failure_that_cannot_be_read_is_forgotten_when_the_task_works(
    world: World, variables: dict[str, str], text: str
) -> None:
    """One that was edited, or is of another version: else each success would stumble over it."""
    variables[variable_key("flights", "load.load_bookings")] = text
    only = {**KINDS["webhook"], "events": ["recovery"]}
    work([only, KINDS["teams"]])
    assert variables == {} and world.posted_to("/workflows") == []
    (told,) = (request.document for request in world.posted_to("/hook"))
    assert told["facts"]["Failed since"] == "not known"


def test_a_bot_answers_in_the_thread_of_a_late_table(world: World) -> None:
    """Also where a first message at its end was refused."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    alarm = Incident(
        pipeline="shop",
        key="paused",
        cause="its DAG is paused",
        since=now,
        targets=("staging.a",),
        affected=("staging.a",),
    )
    memory = Memory(incidents=(alarm,))
    routes = {"shop": [ROUTES["bot"], ROUTES["webhook"]]}
    memory = after_telling(memory, dict(send_all([alarm], [], routes)))
    (told,) = memory.incidents
    assert told.told and told.threads.keys() == {ROUTES["bot"].place}
    over = replace(told, targets=(), over=True)
    world.http.answer = lambda request: Answer(500)
    memory = Memory(incidents=(over,))
    memory = after_telling(memory, dict(send_all([over], [], routes)))
    world.http.answer = as_slack
    assert after_telling(memory, dict(send_all(memory.incidents, [], routes))) == Memory()
    first, *_, last = world.by_bot
    assert "thread_ts" not in first and "fresh again" in last["text"]
    assert last["thread_ts"] == json.loads(as_slack(world.posted_to("/api/")[0]).body)["ts"]
