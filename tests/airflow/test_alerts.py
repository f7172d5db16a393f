"""Alerts on several routes: each kind gets each message in the shape that it accepts, and each
route hears what it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime

import jsonschema
import pytest

from loadsheet.airflow.alerts.callbacks import notify_failure, notify_retry, notify_success
from loadsheet.airflow.alerts.incidents import Failure
from loadsheet.airflow.alerts.message import Message
from loadsheet.airflow.alerts.sending import deliveries, send
from loadsheet.airflow.alerts.task_messages import (
    drift_message,
    failure_message,
    recovery_message,
)
from loadsheet.airflow.digest_message import digest_message
from loadsheet.airflow.spec_alerts import file_message
from loadsheet.freshness.day import Day
from tests.airflow import published_shapes as shapes
from tests.airflow.alert_world import (
    ALL,
    FAILURE,
    KINDS,
    LOG_URL,
    SECRET,
    World,
    context,
    fail,
    variables,
    work,
    world,
)

__all__ = ["variables", "world"]

MESSAGES: dict[str, Message] = {
    "failure": FAILURE,
    "recovery": recovery_message(context(), Failure(since="now", run_id="manual__1")),
    "drift": drift_message(context(), {"orders": ["added note text", "widened n to bigint"]}),
    "digest": digest_message(
        [Day(pipeline="shop", late=["staging.orders"], drift=["orders: added note text"])],
        ["pipelines/cafe/pipeline.yml"],
        datetime(2026, 1, 1, 8, tzinfo=UTC),
        datetime(2026, 1, 2, 8, tzinfo=UTC),
        LOG_URL,
    ),
    "broken file": file_message("pipelines/shop/pipeline.yml", "1:1 version: missing\n2:1 x"),
    "repaired file": file_message("pipelines/shop/pipeline.yml"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_each_kind_gets_each_message_in_the_shape_that_it_accepts(world: World, name: str) -> None:
    message = MESSAGES[name]
    assert [result.error for result in send(deliveries(ALL, message))] == [None] * len(ALL)
    (webhook,) = world.posted_to(f"/T0/B0/{SECRET}")
    jsonschema.validate(webhook.document, shapes.SLACK)
    (by_bot,) = world.by_bot
    jsonschema.validate(by_bot, shapes.SLACK)
    assert by_bot["channel"] == "#data" and by_bot["blocks"] == webhook.document["blocks"]
    (teams,) = world.posted_to("/workflows/1?sig=")
    jsonschema.validate(teams.document, shapes.TEAMS)
    is_note = message.state == "note"
    (pager,) = world.posted_to("/v2/change/enqueue" if is_note else "/v2/enqueue")
    jsonschema.validate(
        pager.document, shapes.PAGERDUTY_CHANGE if is_note else shapes.PAGERDUTY_EVENT
    )
    (document,) = world.posted_to("/hook")
    jsonschema.validate(document.document, shapes.WEBHOOK)
    (mail,) = world.mailbox.mails
    assert world.mailbox.recipients == [["team@example.com", "ops@example.com"]]
    assert (mail["From"], mail["Subject"]) == ("loadsheet@example.com", message.title)
    text, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert text and html
    shown = [
        json.dumps(request.document, ensure_ascii=False)
        for request in (webhook, teams, pager, document)
    ]
    for told in [*shown, text.get_content(), html.get_content()]:
        for fact in [message.title, message.source, *message.facts.values()]:
            assert fact in told
        for section in message.sections:
            for line in section.text.split("\n"):
                assert json.dumps(line)[1:-1] in told or line in told or _escaped(line) in told
        assert (LOG_URL in told) == (message.link == LOG_URL)


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_a_recovery_resolves_the_incident_that_its_failure_has_opened(world: World) -> None:
    for name in ("failure", "recovery", "broken file", "repaired file"):
        send(deliveries(ALL, MESSAGES[name]))
    events = [request.document for request in world.posted_to("/v2/enqueue")]
    told = [(event["event_action"], event["dedup_key"]) for event in events]
    assert [action for action, _ in told] == ["trigger", "resolve"] * 2
    assert told[0][1] == told[1][1] != told[2][1] == told[3][1]
    conversations = [mail["References"] for mail in world.mailbox.mails]
    assert conversations[0] == conversations[1] != conversations[2] == conversations[3]


def differing() -> BaseException:
    """As a step `verify` fails in Airflow."""
    from loadsheet.airflow.operators import as_airflow_errors
    from loadsheet.errors import Differs

    try:
        with as_airflow_errors():
            raise Differs("1 of 1 table compared differs")
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("events", "errors", "told"),
    [
        (["failure", "recovery"], ["x", "differs"], ["failure", "differs", "recovery"]),
        (["differs", "recovery"], ["x", "differs"], ["differs", "recovery"]),
        (["differs", "recovery"], ["differs", "x"], ["differs", "recovery"]),
        (["differs", "recovery"], ["x"], []),
        (["recovery"], ["x"], ["recovery"]),
        (["failure"], ["x", "differs"], ["failure", "differs"]),
        (["drift", "broken_spec"], ["x", "differs"], []),
    ],
)
def test_a_route_hears_what_it_names_and_the_recovery_of_that(
    world: World,
    variables: dict[str, str],
    events: list[str],
    errors: list[str],
    told: list[str],
) -> None:
    routes = [{**KINDS["webhook"], "events": events}]
    for error in errors:
        fail(routes, differing() if error == "differs" else error, step="verify")
    work(routes, step="verify")
    assert [request.document["event"] for request in world.posted_to("/hook")] == told
    assert variables == {}


def test_changed_columns_are_told_to_those_who_want_to_know(
    world: World, variables: dict[str, str]
) -> None:
    routes = [KINDS["slack"], {**KINDS["webhook"], "events": ["drift"]}]
    found = context(step="load.load_orders")
    found["task"].drift = {"orders": ("added note text", "widened n to bigint")}
    notify_success(found, routes=routes)
    (told,) = (request.document for request in world.http.requests)
    assert (told["event"], told["state"], told["incident"]) == ("drift", "note", None)
    assert told["sections"]["Changes"] == "orders: added note text\norders: widened n to bigint"


@pytest.mark.parametrize("callback", [notify_retry, notify_failure, notify_success])
def test_changed_columns_are_told_whatever_becomes_of_the_task(
    world: World, variables: dict[str, str], callback: Callable[..., None]
) -> None:
    """A batch may fail with one table, and have loaded another one."""
    found = context("a fault", step="batch.batch_001")
    found["task"].drift = {"orders": ("added note text",)}
    callback(found, routes=[{**KINDS["webhook"], "events": ["drift"]}])
    (told,) = (request.document for request in world.http.requests)
    assert (told["event"], told["sections"]["Changes"]) == ("drift", "orders: added note text")


def test_a_failure_without_changed_columns_tells_of_none(
    world: World, variables: dict[str, str]
) -> None:
    for callback in (notify_retry, notify_failure):
        callback(context("a fault"), routes=[{**KINDS["webhook"], "events": ["drift"]}])
    assert world.http.requests == []


def test_changed_columns_are_told_where_variables_are_out_of_reach(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk import Variable

    def away(prefix: str) -> list[str]:
        raise ConnectionError("the API server is away")

    monkeypatch.setattr(Variable, "keys", away)
    found = context()
    found["task"].drift = {"orders": ("added note text",)}
    notify_success(found, routes=[{**KINDS["webhook"], "events": ["drift", "recovery"]}])
    assert len(world.posted_to("/hook")) == 1


def test_every_link_is_one_address() -> None:
    odd = context("x")
    odd["ti"].log_url = "http://127.0.0.1/a b|c>'\"<d\n"
    assert re.fullmatch(r"http://[^\s<>|\"'`]+", failure_message(odd).link)
