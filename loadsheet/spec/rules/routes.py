"""Rules about `notify`: each route has one connection, and only the keys that go with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from zoneinfo import available_timezones

from loadsheet.names import closest
from loadsheet.problem import Finding, KeyPath
from loadsheet.spec.routes import CONNECTION_KEYS, route_of
from loadsheet.spec.view import View
from loadsheet.wording import listed


def routes_have_one_connection(view: View) -> Iterator[Finding]:
    """The connection's key says how messages are sent."""
    for path, keys in _routes(view):
        found = [key for key in CONNECTION_KEYS if key in keys]
        if not found:
            message = f"missing key: one of {', '.join(CONNECTION_KEYS)}"
            hint = "add `slack_conn_id: slack`"
            yield Finding("missing-key", path=path, message=message, hint=hint)
        for key in found[1:]:
            message = f"a route has one connection, and this one has {listed(found)}"
            hint = "write a list with one route for each: `- {...}`"
            yield Finding("wrong-value", path=(*path, key), message=message, hint=hint, at="key")


def routes_have_the_keys_of_their_kind(view: View) -> Iterator[Finding]:
    """An email goes to addresses, and a channel is one of Slack's."""
    for path, keys in _routes(view):
        if "channel" in keys and "slack_conn_id" not in keys:
            message = "channel has no effect without slack_conn_id"
            yield _no_effect((*path, "channel"), message)
        if "to" in keys and "email_conn_id" not in keys:
            yield _no_effect((*path, "to"), "to has no effect without email_conn_id")
        if "email_conn_id" in keys and "to" not in keys:
            message = "missing key 'to'"
            hint = 'add `to: ["data-team@example.com"]`'
            yield Finding("missing-key", path=path, message=message, hint=hint)


def digests_have_a_time(view: View) -> Iterator[Finding]:
    """The schema knows what a time looks like, and not which time zones there are."""
    for path, keys in _routes(view):
        if "digest_at" not in keys:
            continue
        at = (*path, "digest_at")
        if "digest" not in keys.get("events", ()):
            yield _no_effect(at, "digest_at has no effect without the event digest")
        zones = available_timezones()
        zone = keys["digest_at"].partition(" ")[2]
        # A system without the data of time zones knows none.
        if zone and zones and zone not in zones:
            meant = closest(zone, zones)
            hint = f"did you mean {meant!r}?" if meant else "write it as in Europe/Berlin"
            yield Finding("wrong-value", path=at, message=f"unknown time zone {zone!r}", hint=hint)


def routes_go_to_different_places(view: View) -> Iterator[Finding]:
    """The same place would get each message twice."""
    places = set()
    for path, keys in _routes(view):
        if not any(key in keys for key in CONNECTION_KEYS):
            continue
        place = route_of(keys).place
        if place in places:
            message = "an earlier route goes to the same place"
            hint = "remove one of the two, or write all events under one"
            yield Finding("duplicate-item", path=path, message=message, hint=hint)
        places.add(place)


ROUTE_RULES = (
    routes_have_one_connection,
    routes_have_the_keys_of_their_kind,
    digests_have_a_time,
    routes_go_to_different_places,
)


def _routes(view: View) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """The sound routes, each with its path."""
    notify = view.data.get("notify")
    if isinstance(notify, dict) and view.is_sound("notify"):
        yield ("notify",), notify
    if not isinstance(notify, list):
        return
    for place, keys in enumerate(notify):
        if view.is_sound("notify", place):
            yield ("notify", place), keys


def _no_effect(path: KeyPath, message: str) -> Finding:
    return Finding("no-effect", path=path, message=message, hint="remove it", at="key")
