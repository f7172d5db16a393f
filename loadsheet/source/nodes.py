"""Expressions as PostgreSQL stores them in its catalogs: trees of nodes, such as
`{VAR :varno 1 :varattno 2}`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from loadsheet.errors import Refused
from loadsheet.wording import shortened

# A backslash takes the meaning from the next character. All braces and blanks in names have one.
_TOKEN = re.compile(r"[(){}]|(?:\\.|[^\s(){}\\])+", re.DOTALL)
_NUMBER = re.compile("-?[0-9]{1,10}")
"""A number of 32 bits: an oid, a place in a list, a level."""
_FIRST_BYTES_OF_TEXT = 4
"""The length of a value of variable length, in front of its bytes."""


@dataclass(frozen=True)
class Node:
    """A node: its kind, and what its fields hold (nodes, words, or lists of both)."""

    kind: str
    fields: dict[str, list[Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """What a field holds that holds one thing; None where it holds something else."""
        values = self.fields.get(name, [])
        if len(values) != 1 or values[0] == "<>":
            return None
        return values[0]

    def node(self, name: str) -> Node | None:
        """The node in a field; None where there is none."""
        value = self[name]
        return value if isinstance(value, Node) else None

    def number(self, name: str) -> int:
        """The number in a field; -1 where there is none."""
        value = self[name]
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            return -1
        return int(value)

    def nodes(self, name: str) -> list[Node]:
        """The nodes of the list in a field; empty where there are none."""
        values = self[name]
        if not isinstance(values, list):
            return []
        return [value for value in values if isinstance(value, Node)]

    @property
    def text(self) -> str:
        """The text that a constant of the type text holds; empty for others."""
        values = self.fields.get("constvalue", [])
        try:
            numbers = [int(value) % 256 for value in values[2:-1]]
            return bytes(numbers[_FIRST_BYTES_OF_TEXT:]).decode()
        except (ValueError, TypeError):
            return ""


def expression_of(text: str) -> Node:
    """The expression that a server's catalog holds as `text`. Raises Refused for a text that
    PostgreSQL does not write.

    What its fields hold is not checked: whoever walks a tree takes what it does not know as such.
    """
    return _only_node(_parse(text), text)


def query_of(text: str) -> Node:
    """The query of a view, from its rule. Raises Refused as `expression_of` does."""
    found = _parse(text)
    # The rule of a view is a list of one query.
    queries = found[0] if len(found) == 1 else None
    return _only_node(queries, text)


def _only_node(found: Any, text: str) -> Node:
    if not (isinstance(found, list) and len(found) == 1 and isinstance(found[0], Node)):
        raise _unknown(text)
    return found[0]


def _unknown(text: str) -> Refused:
    return Refused(
        "a catalog of the server holds an expression that is not as PostgreSQL stores it:"
        f" {shortened(text)}: connect to the server itself, or report this"
    )


def _parse(text: str) -> list[Any]:
    """What is in `text`: nodes, lists and words. Without recursion, because trees are deep."""
    into: list[Any] = []
    outer: list[list[Any]] = []
    for token in _TOKEN.findall(text):
        if token in ("(", "{"):
            outer.append(into)
            into = []
        elif token in (")", "}"):
            if not outer or (token == "}" and not into):
                raise _unknown(text)
            found: Any = into
            if token == "}":
                found = _node(into)
            into = outer.pop()
            into.append(found)
        else:
            into.append(token)
    if outer:
        raise _unknown(text)
    return into


def _node(parts: list[Any]) -> Node:
    fields: dict[str, list[Any]] = {}
    values: list[Any] = []
    for part in parts[1:]:
        if isinstance(part, str) and part.startswith(":"):
            values = []
            fields[part[1:]] = values
        else:
            values.append(part)
    return Node(str(parts[0]), fields)
