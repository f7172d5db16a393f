"""Messages count with `counted`: "1 rows" was in many of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "loadsheet"
# What follows a number: perhaps an adjective, and a noun in the plural.
_PLURAL = re.compile(
    r" (?:[a-z]+ )?(?:attempts|bytes|characters|columns|digits|errors|files|loads|objects"
    r"|patterns|rows|schemas|seconds|statements|steps|tables|tests|transforms"
    r"|values|warnings)\b(?!/s)"
)
ALWAYS_MANY = {
    "_LONGEST_NAME",
    "_LONGEST",
    "_MOST_ROWS_CHECKED",
    "size",
    "len(statements)",
    "MAX_DEPTH",
    "MOST_COLUMNS",
    "_DIGITS",
    "seconds(lookback)",
    "_variable_key(path)",
}
"""Limits, and numbers that are greater than one where the message is reached."""


def plurals(source: str) -> Iterator[str]:
    """Fields of f-strings in front of a noun in the plural, but for those that are `counted`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for field, text in zip(node.values, node.values[1:], strict=False):
            if not isinstance(field, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            value = ast.unparse(field.value)
            if _PLURAL.match(str(text.value)) and value not in ALWAYS_MANY:
                yield f"{value}{text.value}"


@pytest.mark.parametrize("text", ['f"{n} rows"', 'f"{n:,} old loads left"', 'f"a {len(x)} tables"'])
def test_a_plural_after_any_number_is_found(text: str) -> None:
    assert list(plurals(text))


def test_no_message_says_1_rows() -> None:
    found: list[str] = []
    for module in sorted(PACKAGE.rglob("*.py")):
        for text in plurals(module.read_text(encoding="utf-8")):
            found.append(f"{module.relative_to(PACKAGE)}: {text}")
    assert found == []
