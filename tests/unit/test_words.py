"""Documents and messages avoid the words that CONTRIBUTING.md bans."""

from __future__ import annotations

import re

import pytest

from tests.unit.test_quoted_messages import FIELD, MESSAGES
from tests.unit.test_readme import BLOCK, TEXTS

BANNED = re.compile(
    r"\b(nobody|somebody|whoever|anew|(?:be|get|gets) rid of|mended|by hand|beside|stands twice"
    r"|is none to|called like|is to be had|in words|of its own|stays as it is)\b",
    re.IGNORECASE,
)


def banned(text: str) -> list[str]:
    """The banned words in `text`."""
    return BANNED.findall(" ".join(text.split()))


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_has_no_banned_word(page: str) -> None:
    text = re.sub(r"^## Words we use$.*?^## ", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    assert banned(BLOCK.sub("", text)) == []


def test_no_message_has_a_banned_word() -> None:
    texts = [" ".join(words).replace(FIELD, "x") for words in MESSAGES]
    assert [text for text in texts if banned(text)] == []


def test_a_banned_word_is_found() -> None:
    assert banned("Put it beside\nthe file, by\nhand.") == ["beside", "by hand"]
    assert banned("The resides of besides") == []
