"""Adds tables to the text of a pipeline file and leaves every other byte as it was.

A YAML library that keeps comments still rewrites the file: ruamel.yaml turned `{x:   1}` into
`{x: 1}` and moved whole blocks to its own indentation. So the place is found by the parser, and
only the new lines are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from loadsheet.spec.files import UNPRINTABLE
from loadsheet.spec.strict_yaml import compose
from loadsheet.spec.view import inherit


def fitted(
    entry: Mapping[str, Any],
    key: Collection[str],
    columns: Collection[str],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """`entry` such that, with `defaults` filled in, the table is carried as `entry` alone says.

    `key` is what identifies the table's rows, `columns` are all it has. A cursor, or columns to carry, that the
    defaults name and the table has too are the file's own convention and win over the entry's.
    """
    inherited, own = inherit({}, defaults), dict(entry)
    if "primary_key" in inherited:
        if inherited["primary_key"] == list(key):
            own.pop("primary_key", None)
        else:
            own.setdefault("primary_key", None)
    if "incremental" in inherited:
        if inherited["incremental"]["cursor"] in columns and key:
            own.pop("incremental", None)
            own.pop("mode", None)
        else:
            own.setdefault("incremental", None)
    _fit_columns(own, inherited.get("columns", {}), columns)
    _fit_mode(own, inherited, key)
    if own.get("mode") == "append" and defaults.get("lookback") is not None:
        own["lookback"] = None  # what is appended may not be read twice
    return own


def _fit_columns(
    own: dict[str, Any], inherited: Mapping[str, list[str]], columns: Collection[str]
) -> None:
    named = inherited.get("include") or inherited.get("exclude") or []
    if "include" in inherited and set(named) <= set(columns):
        own.pop("columns", None)
        return
    left_out = own.get("columns", {}).get("exclude", [])
    if "exclude" in inherited:
        left_out = [
            *(name for name in named if name in columns),
            *(name for name in left_out if name not in named),
        ]
    if "exclude" in inherited and left_out == named:
        own.pop("columns", None)
    elif left_out or inherited:
        own["columns"] = {"exclude": left_out} if left_out else None


def _fit_mode(own: dict[str, Any], inherited: Mapping[str, Any], key: Collection[str]) -> None:
    full = {**inherited, **own}
    mode, incremental = inherited.get("mode"), full.get("incremental")
    impossible = {"append": not incremental, "replace": bool(incremental), "merge": not key}
    if "mode" not in own and mode and impossible[mode]:
        own["mode"] = None


_PLAIN = re.compile(r"[^\W\d][\w-]*")
_WORDS = frozenset("y n yes no on off true false null".split())
"""Plain text that some YAML reader takes for a truth value or nothing."""


def with_tables(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """`text`, the valid text of a pipeline file, with `entries` as its last tables."""
    tables = _tables(text)
    last = _end(tables.value[-1][1])
    if tables.flow_style:
        pairs = (f", {_scalar(name)}: {flow(keys or None)}" for name, keys in entries.items())
        return text[:last] + "".join(pairs) + text[last:]
    indent = int(tables.value[-1][0].start_mark.column)
    place = _after(text, last, indent)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = "".join(f"{' ' * indent}{pair(name, keys)}{newline}" for name, keys in entries.items())
    return (
        text[:place]
        + ("" if text[:place].endswith(("\n", "\r")) else newline)
        + lines
        + text[place:]
    )


def pair(name: str, keys: Mapping[str, Any]) -> str:
    """A table's line, without indentation."""
    return f"{_scalar(name)}: {flow(keys)}" if keys else f"{_scalar(name)}:"


def flow(value: Any) -> str:
    """A value on one line of YAML that every reader understands alike."""
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{_scalar(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not UNPRINTABLE.search(text):
        return text
    return UNPRINTABLE.sub(
        lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False)
    )


def _tables(text: str) -> yaml.MappingNode:
    root, _ = compose(text)
    assert isinstance(root, yaml.MappingNode)
    tables = next(value for key, value in root.value if key.value == "tables")
    assert isinstance(tables, yaml.MappingNode)
    return tables


def _end(node: yaml.Node) -> int:
    """Where the text of `node` ends. The mark of a block is where the next thing begins, comments
    between or not."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    return int(node.end_mark.index)


def _after(text: str, place: int, indent: int) -> int:
    """The start of the line after `place`, and after comments below it that are indented like
    tables."""
    line = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
    at_line_start = place > 0 and text[place - 1] in "\r\n"
    end = place if at_line_start else line.match(text, place).end()  # type: ignore[union-attr]
    comment = re.compile(rf"(?: *(?:\r\n|\r|\n))* {{{indent},}}#[^\r\n]*(?:\r\n|\r|\n|\Z)")
    while match := comment.match(text, end):
        end = match.end()
    return end
