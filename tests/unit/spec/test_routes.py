"""Which route hears of what, and that a route reads again as it was written."""

from __future__ import annotations

from typing import Any

import pytest

from loadsheet.spec.routes import EVENTS, Route, route_of


def route(*events: str) -> Route:
    return Route(slack_conn_id="slack", events=events)


@pytest.mark.parametrize(
    ("events", "heard"),
    [
        (["failure"], {"failure", "check", "differs", "broken_spec"}),
        (["differs"], {"differs"}),
        (["broken_spec"], {"broken_spec"}),
        (["drift"], {"drift"}),
        (["check"], {"check"}),
        (["digest"], {"digest"}),
        (["recovery"], set()),
        (["failure", "recovery"], {"failure", "check", "differs", "broken_spec"}),
        (["differs", "drift"], {"differs", "drift"}),
    ],
)
def test_failure_includes_its_parts_and_nothing_else(events: list[str], heard: set[str]) -> None:
    news = [event for event in EVENTS if event != "recovery"]
    assert {event for event in news if route(*events).hears(event)} == heard


@pytest.mark.parametrize(
    ("events", "told", "hears"),
    [
        (["failure", "recovery"], True, True),
        (["failure", "recovery"], False, False),
        (["failure"], True, False),
        (["differs", "recovery"], True, True),
        (["differs", "recovery"], False, False),
        (["recovery"], False, True),
        (["recovery", "drift"], False, True),
        (["recovery", "digest"], False, True),
        (["recovery", "broken_spec", "drift"], False, False),
    ],
)
def test_a_recovery_is_for_those_who_were_told_of_the_trouble_or_hear_of_recoveries_alone(
    events: list[str], told: bool, hears: bool
) -> None:
    one = route(*events)
    assert one.hears_recovery([one.place] if told else ["another"]) is hears


ROUTES = [
    Route(slack_conn_id="slack"),
    Route(slack_conn_id="bot", channel="#data", events=("failure",)),
    Route(email_conn_id="mail", to=("a@example.com", "b@example.com")),
    Route(teams_conn_id="teams", events=("drift",)),
    Route(pagerduty_conn_id="pager", events=("digest",), digest_at="07:30 Europe/Berlin"),
    Route(webhook_conn_id="hook"),
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.kind)
def test_a_route_reads_again_as_it_was_written(route: Route) -> None:
    assert route_of(route.as_keys()) == route
    assert route.conn_id in route.as_keys().values()


def test_each_place_has_a_name_of_its_own() -> None:
    other_channel = Route(slack_conn_id="bot", channel="#other")
    other_people = Route(email_conn_id="mail", to=("c@example.com",))
    places = [route.place for route in [*ROUTES, other_channel, other_people]]
    assert len(set(places)) == len(places)
    assert Route(slack_conn_id="slack", events=("drift",)).place == places[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"channel": "#data"}, {"channel": "data"}),
        ({"to": ["a@example.com", "b@example.com"]}, {"to": ["b@example.com", "a@example.com"]}),
    ],
)
def test_a_place_has_one_name_however_it_is_written(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Else a file may name it twice, and two files get two digests there."""
    key = "slack_conn_id" if "channel" in one else "email_conn_id"
    assert route_of({key: "c", **one}).place == route_of({key: "c", **other}).place


def test_a_route_without_a_connection_is_none() -> None:
    with pytest.raises(ValueError, match="a route needs one of slack_conn_id, "):
        route_of({"events": ["failure"]})
