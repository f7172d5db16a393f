"""Alerts about pipeline files with problems."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadsheet.airflow import spec_alerts
from loadsheet.airflow.dag_ids import routes_in
from loadsheet.airflow.spec_alerts import Messages
from loadsheet.airflow.stubs import message_file_of, thread_file_of
from loadsheet.spec.routes import Route, route_of
from tests.airflow.alert_world import KINDS, World, as_slack, world
from tests.airflow.receivers import Answer

__all__ = ["world"]


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A DAG file of a bundle, with the folders around it."""
    for folder in ("dags", "alerts", "messages", "threads"):
        (tmp_path / folder).mkdir()
    return tmp_path / "dags" / "shop.py"


def dag_of(*kinds: str, events: tuple[str, ...] = ("failure", "recovery")) -> Any:
    routes = tuple(route_of({**KINDS[kind], "events": events}) for kind in kinds)
    return SimpleNamespace(loadsheet_notify=routes)


def refresh(stub: Path) -> None:
    """As the DAG processor does; the pause after a refusal is over."""
    Messages(SimpleNamespace(messages=stub.parents[1] / "messages")).send()  # type: ignore[arg-type]


def test_each_route_of_a_file_is_told_once_of_its_problems_and_its_repair(
    world: World, stub: Path
) -> None:
    """One that refuses is asked again, and no other is told twice."""
    spec = stub.parent / "none.yml"
    world.http.answer = lambda request: Answer(500 if request.path == "/v2/enqueue" else 200)
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    for _ in range(2):
        spec_alerts.report_problems(stub, spec, "shop.yml", "1:1 it is broken")
        refresh(stub)
    assert len(world.posted_to("/hook")) == 1 and len(world.posted_to("/v2/enqueue")) == 2
    world.http.answer = as_slack
    refresh(stub)
    refresh(stub)
    assert len(world.posted_to("/hook")) == 1 and len(world.posted_to("/v2/enqueue")) == 3
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    refresh(stub)
    refresh(stub)
    states = [request.document["state"] for request in world.posted_to("/hook")]
    actions = [request.document["event_action"] for request in world.posted_to("/v2/enqueue")]
    assert states == ["open", "resolved"]
    assert actions == ["trigger"] * 3 + ["resolve"]


def test_a_route_that_was_not_told_of_the_problems_is_not_told_of_the_repair(
    world: World, stub: Path
) -> None:
    world.http.answer = lambda request: Answer(500 if request.path == "/v2/enqueue" else 200)
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    world.http.answer = as_slack
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    refresh(stub)
    assert [request.document["state"] for request in world.posted_to("/hook")] == [
        "open",
        "resolved",
    ]
    assert len(world.posted_to("/v2/enqueue")) == 1
    assert not message_file_of(stub).exists()


def test_a_route_that_refuses_further_problems_is_told_of_the_repair(
    world: World, stub: Path
) -> None:
    """It knows of the first ones: without their end, PagerDuty's incident would stay open."""
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty"))
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    world.http.answer = lambda request: Answer(500)
    for problem in ("1:2 it is broken", "1:3 it is broken"):
        spec_alerts.report_problems(stub, stub, "shop.yml", problem)
        refresh(stub)
    world.http.answer = as_slack
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty"))
    refresh(stub)
    actions = [request.document["event_action"] for request in world.posted_to("/v2/enqueue")]
    assert actions == ["trigger"] * 3 + ["resolve"]
    # The next trouble is a new one.
    world.http.answer = lambda request: Answer(500)
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    world.http.answer = as_slack
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty"))
    refresh(stub)
    assert len(world.posted_to("/v2/enqueue")) == len(actions) + 1


def test_a_route_that_was_added_with_the_repair_is_not_told_of_it(world: World, stub: Path) -> None:
    spec_alerts.report_repair(stub, "shop.yml", dag_of("webhook"))
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    spec_alerts.report_repair(stub, "shop.yml", dag_of("webhook", "teams"))
    refresh(stub)
    assert len(world.posted_to("/hook")) == 2 and world.posted_to("/workflows") == []


def test_a_message_that_cannot_be_read_keeps_no_other_from_being_sent(
    world: World, stub: Path
) -> None:
    """One of an earlier version, or one that a full disk has cut."""
    for name, text in (("a.py", '{"slack_conn_id": "slack"}'), ("b.py", "{"), ("c.py", "[]")):
        message_file_of(stub.parent / name).write_text(text)
    spec_alerts.report_repair(stub, "shop.yml", dag_of("webhook"))
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    assert len(world.posted_to("/hook")) == 1
    assert list(message_file_of(stub).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (("failure", "recovery"), ["open", "resolved"]),
        (("broken_spec", "recovery"), ["open", "resolved"]),
        (("broken_spec",), ["open"]),
        (("differs", "recovery", "drift"), []),
    ],
)
def test_a_route_hears_of_files_as_it_names_them(
    world: World, stub: Path, events: tuple[str, ...], told: list[str]
) -> None:
    dag = dag_of("webhook", events=events)
    spec_alerts.report_repair(stub, "shop.yml", dag)
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    spec_alerts.report_repair(stub, "shop.yml", dag)
    refresh(stub)
    assert [request.document["state"] for request in world.posted_to("/hook")] == told


def test_a_bot_answers_in_the_thread_of_the_first_problems(world: World, stub: Path) -> None:
    """To each change of them and to the repair; what is broken later begins another thread."""
    dag = dag_of("bot", "webhook")
    spec_alerts.report_repair(stub, "shop.yml", dag)
    for problems in ("1:1 it is broken", "2:1 it is broken"):
        spec_alerts.report_problems(stub, stub, "shop.yml", problems)
        refresh(stub)
    spec_alerts.report_repair(stub, "shop.yml", dag)
    refresh(stub)
    spec_alerts.report_problems(stub, stub, "shop.yml", "3:1 it is broken")
    refresh(stub)
    first, second, third, fourth = world.by_bot
    thread = json.loads(as_slack(world.posted_to("/api/")[0]).body)["ts"]
    assert "thread_ts" not in first and "thread_ts" not in fourth
    assert second["thread_ts"] == third["thread_ts"] == thread
    assert "is read again" in third["text"]


def test_a_repair_that_was_refused_is_told_in_the_thread_later(world: World, stub: Path) -> None:
    dag = dag_of("bot", "webhook")
    spec_alerts.report_repair(stub, "shop.yml", dag)
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    spec_alerts.report_repair(stub, "shop.yml", dag)
    world.http.answer = lambda request: Answer(500 if request.path.startswith("/api") else 200)
    refresh(stub)
    world.http.answer = as_slack
    refresh(stub)
    assert "thread_ts" in world.by_bot[-1]
    assert not thread_file_of(message_file_of(stub)).exists()


def test_without_the_event_recovery_the_next_problems_begin_a_thread(
    world: World, stub: Path
) -> None:
    dag = dag_of("bot", events=("failure",))
    for problems in ("1:1 it is broken", "2:1 it is broken"):
        spec_alerts.report_repair(stub, "shop.yml", dag)
        spec_alerts.report_problems(stub, stub, "shop.yml", problems)
        refresh(stub)
    assert ["thread_ts" in message for message in world.by_bot] == [False, False]


SLACK = Route(slack_conn_id="slack")
BROKEN_FILES = {
    "notify: {slack_conn_id: slack}\nversion: 7\n": [SLACK],
    "version: 7\nnotify:\n  slack_conn_id: slack\n  events: [drift]\n": [
        Route(slack_conn_id="slack", events=("drift",))
    ],
    "notify:\n- slack_conn_id: slack\n- {email_conn_id: m, to: [a@b.c, d@e.f]}\n": [
        SLACK,
        Route(email_conn_id="m", to=("a@b.c", "d@e.f")),
    ],
    # Up to where it cannot be read.
    "notify:\n- {slack_conn_id: slack}\n- {teams_conn_id: ": [SLACK],
    "notify:\n- {slack_conn_id: slack, to: {a: b}}\n- {x: y}\n- 7\n- - {slack_conn_id: no}\n": [
        SLACK
    ],
    "notify: &a {slack_conn_id: slack}\ntables: {notify: {slack_conn_id: no}}\n": [SLACK],
    "notify: {slack_conn_id: slack, events: [failre], chanel: x}\n": [SLACK],
    "notify: {slack_conn_id: slack, events: failure}\n": [SLACK],
    "notify: slack\n": [],
    "notify: {slack_conn_id: !!str slack}\n": [],
    "notify: {? {a: b} : c, slack_conn_id: slack}\n": [SLACK],
    "- notify: {slack_conn_id: no}\n": [],
    "[" * 200: [],
    "": [],
}


@pytest.mark.parametrize("text", BROKEN_FILES)
def test_the_routes_of_a_broken_file_are_those_that_its_text_names(
    text: str, tmp_path: Path
) -> None:
    spec = tmp_path / "pipelines" / "p" / "pipeline.yml"
    spec.parent.mkdir(parents=True)
    spec.write_text(text)
    assert routes_in(spec) == BROKEN_FILES[text]
