"""Where alerts go: the routes under `notify`, and which of them hears of an event.

A DAG's callbacks take a route as the pipeline file has it, so that the keys here are those of the
file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Kind = Literal["slack", "email", "teams", "pagerduty", "webhook"]
CONNECTION_KEYS: dict[str, Kind] = {
    "slack_conn_id": "slack",
    "email_conn_id": "email",
    "teams_conn_id": "teams",
    "pagerduty_conn_id": "pagerduty",
    "webhook_conn_id": "webhook",
}
"""A route has one of these keys, which says how its messages are sent."""
EVENTS = ("failure", "recovery", "late", "check", "differs", "drift", "broken_spec", "digest")
PARTS_OF_FAILURE = ("check", "differs", "broken_spec")
"""Failures that a route can hear of alone. A route with `failure` hears of all."""

WITHOUT_RECOVERY = ("late", "drift", "digest")
"""Events that no recovery belongs to: `late` tells by itself when it is over, the others never
are."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One place that alerts go to: an Airflow connection, and what it hears of."""

    slack_conn_id: str | None = None
    """A connection of type slackwebhook or, with a `channel`, of type slack."""
    channel: str | None = None
    email_conn_id: str | None = None
    """A connection of type smtp."""
    to: tuple[str, ...] = ()
    """The addresses that get an email."""
    teams_conn_id: str | None = None
    pagerduty_conn_id: str | None = None
    webhook_conn_id: str | None = None
    events: tuple[str, ...] = ("failure", "recovery", "late")
    digest_at: str = "08:00"
    """When the digest is sent, each day: `07:30` in UTC, or `07:30 Europe/Berlin`."""

    @property
    def kind(self) -> Kind:
        """How messages are sent."""
        return CONNECTION_KEYS[self._key]

    @property
    def conn_id(self) -> str:
        """The connection that they are sent by."""
        return str(getattr(self, self._key))

    @property
    def place(self) -> str:
        """A name for the place that messages go to, however it is written; no other route of a
        pipeline has it."""
        ends = [self.channel.removeprefix("#")] if self.channel else sorted(self.to)
        return " ".join([self._key, self.conn_id, *ends])

    @property
    def _key(self) -> str:
        return next(key for key in CONNECTION_KEYS if getattr(self, key))

    def hears(self, event: str) -> bool:
        """Whether it is told of `event`. Of a recovery, `hears_recovery` tells more."""
        if event in PARTS_OF_FAILURE and "failure" in self.events:
            return True
        return event in self.events

    def hears_recovery(self, told: Collection[str]) -> bool:
        """Whether it is told that a trouble is over of which the places `told` have heard: it is
        one of them, or recoveries are all that it hears of."""
        if "recovery" not in self.events:
            return False
        heard = set(self.events) - {"recovery", *WITHOUT_RECOVERY}
        return not heard or self.place in told

    def as_keys(self) -> dict[str, Any]:
        """The route as a pipeline file has it: `route_of` reads it again."""
        keys: dict[str, Any] = {}
        for key, value in asdict(self).items():
            if value and (key != "digest_at" or "digest" in self.events):
                keys[key] = list(value) if isinstance(value, tuple) else value
        return keys


def route_of(keys: Mapping[str, Any]) -> Route:
    """The route with these keys of a pipeline file. Raises TypeError or ValueError for keys that
    are none of a route."""
    values = dict(keys)
    unknown = values.keys() - {one.name for one in fields(Route)}
    if unknown:
        raise ValueError(f"a route has no key {min(unknown)!r}")
    for key in ("to", "events"):
        if key in values:
            values[key] = tuple(values[key])
    route = Route(**values)
    if not any(getattr(route, key) for key in CONNECTION_KEYS):
        raise ValueError(f"a route needs one of {', '.join(CONNECTION_KEYS)}")
    return route
