"""The messages that pages quote are messages of the product."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.unit.test_readme import BLOCK, ROOT, TEXTS

FIELD = "\0"
"""Stands for a field of an f-string. It is part of one word and matches anything in that word."""
PAGES = ("docs/troubleshooting.md", "docs/how-to.md", "docs/deploy.md")
OF_POSTGRESQL = {
    "Connection refused",
    "does not support SSL",
    "failed to resolve host",
    "no pg_hba.conf entry",
    "password authentication failed",
    "canceling statement due to lock timeout",
    "canceling statement due to statement timeout",
}
COMMANDS = ("loadsheet ", "make ")


def text_of(node: ast.AST) -> str:
    """The text of a string, an f-string or a sum of them, and what `counted` makes of more than
    one; a FIELD for any other expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        nouns = [word.value for word in node.args[1:] if isinstance(word, ast.Constant)]
        if node.func.id == "counted" and nouns:
            return f"{FIELD} {nouns[-1] if len(nouns) == 2 else f'{nouns[0]}s'}"
    return FIELD


def words_of(text: str) -> list[str]:
    """The words of `text`. Punctuation at their ends does not count."""
    return [word.rstrip(".,:;") for word in text.split()]


def messages(source: str) -> Iterator[list[str]]:
    """The words of each string in `source`. Docstrings are not messages."""
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in statements:
            text = text_of(node)
            if text != FIELD:
                yield words_of(text)


def all_messages() -> list[list[str]]:
    """The messages of the package, and the lines of the Makefile."""
    found: list[list[str]] = []
    for module in (ROOT / "loadsheet").rglob("*.py"):
        found.extend(messages(module.read_text(encoding="utf-8")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found.extend(words_of(line.replace('"', " ")) for line in makefile.splitlines())
    return found


MESSAGES = all_messages()


def quotes(page: str) -> set[str]:
    """The messages that `page` quotes: code in the first column of a table of messages, and
    double-quoted text outside code."""
    found: set[str] = set()
    in_messages = False
    for line in BLOCK.sub("", page).splitlines():
        if not line.startswith("|"):
            in_messages = False
        elif line.startswith("| what you see |"):
            in_messages = True
        if in_messages:
            first, _, _ = line.partition(" | ")
            code = re.findall(r"`([^`]+)`", first)
            found.update(text for text in code if not text.startswith(COMMANDS))
        found.update(re.findall(r'"([^"]+ [^"]+)"', re.sub(r"`[^`]*`", "", line)))
    return found


def fits(word: str, template: str) -> bool:
    """Whether `template`, a word of a message, may appear as `word`."""
    if FIELD not in template:
        return word == template
    pattern = ".*".join(map(re.escape, template.split(FIELD)))
    return re.fullmatch(pattern, word) is not None


def fits_at(words: list[str], message: list[str], start: int) -> bool:
    """Whether `words` appear in `message` from `start` on, most of them without a field."""
    part = message[start : start + len(words)]
    if len(part) < len(words) or not all(map(fits, words, part)):
        return False
    same = sum(word == template for word, template in zip(words, part, strict=True))
    return 2 * same > len(words)


def appears(words: list[str]) -> bool:
    """Whether `words` appear in some message."""
    return any(
        fits_at(words, message, start)
        for message in MESSAGES
        for start in range(len(message) - len(words) + 1)
    )


def is_a_message(quote: str) -> bool:
    """Whether each part of `quote` around `...` appears in some message."""
    parts = [words_of(part) for part in quote.split("...")]
    return all(appears(words) for words in parts if words)


QUOTES = [(page, quote) for page in PAGES for quote in sorted(quotes(TEXTS[page]) - OF_POSTGRESQL)]


@pytest.mark.parametrize(("page", "quote"), QUOTES)
def test_a_quoted_message_is_one_of_the_product(page: str, quote: str) -> None:
    assert is_a_message(quote), f"{page} quotes {quote!r}"


def test_there_are_quotes_to_check() -> None:
    assert len(QUOTES) >= 25


@pytest.mark.parametrize(
    "quote",
    [
        "the lake has run dry",
        "the source is asleep",
        "would shrink from ... sheep to ...",
        "cannot see the other sessions' transactions",
    ],
)
def test_an_invented_quote_is_found(quote: str) -> None:
    assert not is_a_message(quote)


def test_a_field_is_part_of_a_word() -> None:
    message = next(messages('raise Error(f"{name!r}: row {number} of "\n    f"{total} is broken")'))
    assert fits_at("row 3 of 7 is broken".split(), message, 1)
    assert not fits_at("row 3 or 7 is broken".split(), message, 1)
