"""An alert as facts, before it is written for one of the ways on which it goes, and its
delivery."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from loadsheet.errors import WorkError
from loadsheet.redact import clean_whole, on_one_line
from loadsheet.spec.routes import Route

_LONGEST_NAME = 1_000
_LONGEST_TEXT = 20_000
_LONGEST_LINK = 2_000
_LONGEST_INCIDENT = 250  # PagerDuty takes 255

Thread = dict[str, str]
"""Where a later message about the same trouble goes: a channel and a message in it."""
Post = Callable[[], Thread | None]
"""Posts one message, and returns where a later one can follow it."""


class PartlyDelivered(WorkError):
    """Some of those to whom the route leads have the message, and would get a second one twice."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A text of several lines under a heading."""

    heading: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """An alert. Its texts have no secrets, row data or control characters, but whatever else means
    something to Slack, HTML or Markdown: what sends it escapes and cuts them."""

    event: str
    """One of those that a pipeline file can name under `events`."""
    state: Literal["open", "resolved", "note"]
    """Whether something is wrong until a message with the same `incident` resolves it."""
    title: str
    source: str
    """The pipeline or the file that it is about."""
    facts: Mapping[str, str]
    sections: tuple[Section, ...] = ()
    link: str = ""
    """The address of the log or of the page; empty for none, and where it is too long."""
    link_text: str = "Open the log"
    incident: str = ""
    """The same for all messages about one trouble, and for no other; empty for a note."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def first_line(self) -> str:
        """The beginning of the text, for a notification on a screen."""
        if self.state == "resolved" or not self.sections:
            return ""
        return self.sections[0].text.partition("\n")[0]

    @property
    def brief(self) -> str:
        """The title with the first line."""
        return f"{self.title}: {self.first_line}" if self.first_line else self.title


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A message and the route that it takes; perhaps the thread that it follows."""

    route: Route
    message: Message
    thread: Thread | None = None


def message_of(
    *,
    event: str,
    state: Literal["open", "resolved", "note"],
    title: str,
    source: str,
    facts: Mapping[str, str],
    sections: Mapping[str, str | Sequence[str]] | None = None,
    link: str = "",
    link_text: str = "Open the log",
    incident: str = "",
) -> Message:
    """A message in whose texts nothing controls a terminal, a line or an encoder, and none of which
    is very long. `sections` are texts, or lines about different things, by their headings; row data
    and secrets are removed from them. Title and facts hold names alone. The time is added to the
    facts."""
    at = datetime.now(UTC)
    named = {name: _line(value) for name, value in facts.items()}
    texts = []
    for heading, text in (sections or {}).items():
        if isinstance(text, str):
            cleaned = _without_secrets(text)
        else:
            # Each alone: what hides row data in one must not hide the lines after it, and a name
            # with a line break must not look like one more.
            cleaned = "\n".join(on_one_line(_without_secrets(line)) for line in text)
        shown = cut(_encodable(cleaned), _LONGEST_TEXT)
        texts.append(Section(heading=heading, text=shown))
    return Message(
        event=event,
        state=state,
        title=_line(title),
        source=_line(source),
        facts={**named, "When": at.strftime("%Y-%m-%d %H:%M:%S UTC")},
        sections=tuple(texts),
        link=_address(link),
        link_text=link_text,
        incident=_incident(incident),
        at=at,
    )


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What is wrong until it is told to be over, with what all messages about it have in common."""

    source: str
    """The pipeline or the file that it is about."""
    incident: str
    """Its name; no other trouble has it."""
    facts: Mapping[str, str]
    """Those that say what it is about."""
    link: str = ""

    def begun(
        self, event: str, title: str, facts: Mapping[str, str], sections: Mapping[str, str]
    ) -> Message:
        """The message that it is there."""
        return self._message(event, "open", title, facts, sections)

    def over(
        self,
        event: str,
        title: str,
        facts: Mapping[str, str] | None = None,
        sections: Mapping[str, str] | None = None,
    ) -> Message:
        """The message that it is over."""
        return self._message(event, "resolved", title, facts or {}, sections or {})

    def _message(
        self,
        event: str,
        state: Literal["open", "resolved"],
        title: str,
        facts: Mapping[str, str],
        sections: Mapping[str, str],
    ) -> Message:
        return message_of(
            event=event,
            state=state,
            title=title,
            source=self.source,
            facts={**self.facts, **facts},
            sections=sections,
            link=self.link,
            incident=self.incident,
        )


def _without_secrets(text: str) -> str:
    from airflow.providers.common.compat.sdk import redact

    # `clean_whole` knows what secrets and row data look like, `redact` the passwords of the
    # connections that this task has opened.
    return str(redact(clean_whole(text)))


def _line(text: str) -> str:
    return cut(_encodable(on_one_line(text)), _LONGEST_NAME)


def _incident(name: str) -> str:
    known = _encodable(on_one_line(name))
    if len(known) <= _LONGEST_INCIDENT:
        return known
    return hashlib.sha256(known.encode()).hexdigest()


def _encodable(text: str) -> str:
    # Half of a surrogate pair, as a name of a file may have it, is no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


def _address(link: str) -> str:
    # A run's id is part of it. Within the brackets of Slack, a `|` or `>` would end the address.
    quoted = "".join(quote(sign) if sign in "<>|`\"' " else sign for sign in link)
    address = _encodable(on_one_line(quoted))
    return address if len(address) <= _LONGEST_LINK else ""  # a part of it leads elsewhere


def cut(text: str, longest: int) -> str:
    """`text`, or its beginning with a mark."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 4]} ..."
