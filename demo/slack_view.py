"""A Slack message as a terminal can show it."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

_LINK = re.compile(r"<(https?://[^|>]+)\|([^>]+)>")
_EMOJI = {":red_circle:": "🔴", ":large_green_circle:": "🟢"}


def panel(payload: dict[str, Any]) -> Panel:
    """The message's blocks in a frame; without blocks its text."""
    blocks = payload.get("blocks") or [
        {"type": "section", "text": {"text": payload.get("text", "")}}
    ]
    return Panel(
        Group(*(part for block in blocks for part in _block(block))),
        title="Slack",
        border_style="magenta",
    )


def links(payload: dict[str, Any]) -> list[str]:
    """The addresses the message links to."""
    return [_unescape(address) for address, _ in _LINK.findall(str(payload))]


def _block(block: dict[str, Any]) -> list[Text | Table | Rule]:
    if block.get("type") == "divider":
        return [Rule(style="dim")]
    texts = (
        [block["text"]]
        if "text" in block
        else [e for e in block.get("elements", []) if "text" in e]
    )
    parts: list[Text | Table | Rule] = [_text(entry["text"]) for entry in texts]
    if "fields" in block:
        parts.append(_fields([entry["text"] for entry in block["fields"]]))
    return parts


def _fields(fields: list[str]) -> Table:
    """Two columns, as in the channel."""
    grid = Table.grid(padding=(0, 4))
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for pair in range(0, len(fields), 2):
        grid.add_row(*(_text(field) for field in fields[pair : pair + 2]))
    return grid


def _text(mrkdwn: str) -> Text:
    for name, emoji in _EMOJI.items():
        mrkdwn = mrkdwn.replace(name, emoji)
    parts = re.split(r"```(.*?)```", mrkdwn, flags=re.DOTALL)
    marked = [
        _inline(part) if place % 2 == 0 else f"[dim]{_escaped(part)}[/]"
        for place, part in enumerate(parts)
    ]
    return Text.from_markup("".join(marked), emoji=False)


def _inline(text: str) -> str:
    """Bold and links; the address is spelled out because few terminals can click."""
    marked, last = "", 0
    for link in _LINK.finditer(text):
        marked += _bold(text[last : link.start()])
        marked += f"[blue underline]{_escaped(link[2])}[/] [dim]{_escaped(link[1])}[/]"
        last = link.end()
    return marked + _bold(text[last:])


def _bold(text: str) -> str:
    return re.sub(r"\*([^*\n]+)\*", r"[bold]\1[/]", _escaped(text))


def _escaped(text: str) -> str:
    return escape(_unescape(text))


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
