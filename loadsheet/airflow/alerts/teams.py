"""Posts a message to Microsoft Teams, as an Adaptive Card to the webhook of a workflow."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Connection

from loadsheet.airflow.alerts.http import address_of, post_json
from loadsheet.airflow.alerts.message import Delivery, Message, Post, Section, cut

# Teams refuses a message above 28 kB, in which a character may take 4 bytes.
_LONGEST_NAME = 150
_LONGEST_TEXT = 2_000
_MOST_LINES = 15
_COLOURS = {"open": "Attention", "resolved": "Good", "note": "Accent"}


def teams_message(message: Message) -> dict[str, Any]:
    """The message as Teams' webhooks take it.

    Texts are runs, which Teams shows as they are. In any other element it reads Markdown.
    """
    colour = _COLOURS[message.state]
    title = _run(cut(message.title, _LONGEST_NAME), weight="Bolder", size="Medium", color=colour)
    body = [_line(title)]
    for name, value in message.facts.items():
        body.append(_line(_run(f"{name}: ", weight="Bolder"), _run(cut(value, _LONGEST_NAME))))
    for section in message.sections:
        body += _section(section)
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": body,
    }
    if message.link:
        action = {"type": "Action.OpenUrl", "title": message.link_text, "url": message.link}
        card["actions"] = [action]
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


def prepared(delivery: Delivery, connection: Connection, until: float) -> Post:
    """The post of a message to the connection's address. Raises InputError for a connection without
    one."""
    address = address_of(connection)
    card = teams_message(delivery.message)
    return lambda: post_json(address, card, until)


def _section(section: Section) -> list[dict[str, Any]]:
    # Each line is an element: a run has no line breaks.
    lines = [_line(_run(section.heading, weight="Bolder"))]
    shown = cut(section.text, _LONGEST_TEXT)
    texts = [line for line in shown.split("\n") if line.strip()]
    if len(texts) > _MOST_LINES:
        texts = [*texts[:_MOST_LINES], "..."]
    for text in texts:
        line = _line(_run(text, fontType="Monospace"))
        lines.append({**line, "spacing": "None"})
    return lines


def _line(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": list(runs)}


def _run(text: str, **look: str) -> dict[str, Any]:
    return {"type": "TextRun", "text": text, **look}
