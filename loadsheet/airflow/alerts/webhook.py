"""Posts a message as a JSON document of our own to any address: see docs/alerts.md#any-webhook."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Connection

from loadsheet.airflow.alerts.http import address_of, login_of, post_json
from loadsheet.airflow.alerts.message import Delivery, Message, Post
from loadsheet.errors import InputError

VERSION = 1
"""Of the document: a key that is renamed or removed makes a new one."""


def webhook_message(message: Message) -> dict[str, Any]:
    """The message as a JSON document."""
    return {
        "version": VERSION,
        "event": message.event,
        "state": message.state,
        "title": message.title,
        "source": message.source,
        "at": message.at.isoformat(timespec="seconds"),
        "incident": message.incident or None,
        "facts": dict(message.facts),
        "sections": {section.heading: section.text for section in message.sections},
        "link": message.link or None,
    }


def prepared(delivery: Delivery, connection: Connection, until: float) -> Post:
    """The post of a message to the connection's address. Raises InputError for a connection without
    one, and for extras other than `headers`."""
    address, login = address_of(connection), login_of(connection)
    extra = connection.extra_dejson
    headers = extra.get("headers", {})
    texts = [*headers, *headers.values()] if isinstance(headers, dict) else [None]
    if extra.keys() - {"headers"} or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"connection {connection.conn_id!r}: its extra may hold only `headers`, names with"
            ' texts, such as {"headers": {"X-Team": "data"}}'
        )
    document = webhook_message(delivery.message)
    return lambda: post_json(address, document, until, headers, login)
