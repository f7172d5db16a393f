"""Sends a message to PagerDuty's Events API v2. A failure triggers an incident, its recovery
resolves it, and a note becomes a change event, which pages no one."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Connection

from loadsheet.airflow.alerts.http import is_address, post_json
from loadsheet.airflow.alerts.message import Delivery, Message, Post, cut
from loadsheet.errors import InputError

_SERVER = "https://events.pagerduty.com"
_EVENTS = "/v2/enqueue"
_CHANGES = "/v2/change/enqueue"
_LONGEST_SUMMARY = 1024  # PagerDuty's own limit


def pagerduty_message(message: Message, routing_key: str) -> dict[str, Any]:
    """The message as an event, or a change event."""
    sections = {section.heading: section.text for section in message.sections}
    payload: dict[str, Any] = {
        "summary": cut(message.brief, _LONGEST_SUMMARY),
        "source": message.source,
        "timestamp": message.at.isoformat(timespec="seconds"),
        "custom_details": {**message.facts, **sections},
    }
    event: dict[str, Any] = {"routing_key": routing_key, "payload": payload}
    if message.link:
        event["links"] = [{"href": message.link, "text": message.link_text}]
    if message.state == "note":
        return event
    payload["severity"] = "error" if message.state == "open" else "info"
    payload["class"] = message.event
    event["client"] = "Loadsheet"
    event["event_action"] = "trigger" if message.state == "open" else "resolve"
    event["dedup_key"] = message.incident
    return event


def prepared(delivery: Delivery, connection: Connection, until: float) -> Post:
    """The post of a message to PagerDuty. Raises InputError for a connection without an integration
    key, or with a host that is no address."""
    routing_key = connection.password
    if not routing_key:
        raise InputError(
            f"connection {connection.conn_id!r} has no integration key: put it into its password"
        )
    server = connection.host or _SERVER
    if not is_address(server):
        raise InputError(
            f"connection {connection.conn_id!r}: its host must be empty, or an address such as"
            " https://events.eu.pagerduty.com"
        )
    path = _CHANGES if delivery.message.state == "note" else _EVENTS
    event = pagerduty_message(delivery.message, routing_key)
    return lambda: post_json(server.rstrip("/") + path, event, until)
