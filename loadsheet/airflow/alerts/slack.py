"""How a message looks in Slack."""

from __future__ import annotations

import re
from typing import Any

from loadsheet.airflow.alerts.message import Message, Section
from loadsheet.redact import on_one_line, visible

LONGEST_TEXT = 2500  # Slack refuses a text block above 3000 characters
LONGEST_NAME = 500  # and a field above 2000
_SIGNS = {"open": ":red_circle:", "resolved": ":large_green_circle:", "note": ":large_blue_circle:"}
# As they stand in the name of a table, `*` and `~` would make the rest bold or struck out. A `_`
# within a word does nothing.
_UNFORMATTED = {ord("*"): "∗", ord("~"): "∼", ord("`"): "ˋ"}
_CUT_ENTITY = re.compile(r"&\w*$")


def slack_message(message: Message) -> dict[str, Any]:
    """The message as `text` and `blocks`; a notification on a screen shows the text."""
    sign = _SIGNS[message.state]
    fields = [_markdown(f"*{name}*\n{_short(value)}") for name, value in message.facts.items()]
    blocks = [
        _block(f"*{sign} {_short(message.title)}*"),
        {"type": "section", "fields": fields},
    ]
    for section in message.sections:
        blocks.append(_block(_preformatted(section)))
    link = f"<{_escape(message.link)}|{message.link_text}>"
    if message.link and len(link) <= LONGEST_TEXT:
        blocks.append(_block(link))
    return {"text": f"{sign} {_short(message.brief)}", "blocks": blocks}


def _block(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _markdown(text)}


def _markdown(text: str) -> dict[str, Any]:
    # Verbatim: Slack makes no link of what looks like an address, a channel or a person.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _preformatted(section: Section) -> str:
    # Three backticks would end the block.
    without_end = section.text.replace("```", "'''")
    return f"*{section.heading}*\n```{_cut(_escape(without_end), LONGEST_TEXT)}```"


def _short(text: str) -> str:
    """A title or a name, on one line. Signs that format text become ones that look like them."""
    plain = on_one_line(text).translate(_UNFORMATTED)
    return _cut(_escape(plain), LONGEST_NAME)


def _cut(escaped: str, longest: int) -> str:
    if len(escaped) <= longest:
        return escaped
    # The cut may leave half of an entity such as `&amp;`.
    return _CUT_ENTITY.sub("", escaped[:longest]) + " ..."


def _escape(text: str) -> str:
    # Slack reads links and mentions from these three characters.
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
