"""Adds tables to the text of a pipeline file and leaves every other byte unchanged.

A YAML library that keeps comments still rewrites the file: ruamel.yaml turned `{x:   1}` into
`{x: 1}` and moved whole blocks to its own indentation. So the parser only finds the place, and only
the new lines are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from loadsheet.spec.files import UNPRINTABLE
from loadsheet.spec.view import inherit
from loadsheet.spec.yaml_text import compose

_PLAIN = re.compile(r"[^\W\d][\w-]*")
# Unquoted text that some YAML parser reads as a truth value or as null.
_RESERVED_WORDS = frozenset("y n yes no on off true false null".split())


def with_tables(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """`text`, the valid text of a pipeline file, with `entries` as its last tables."""
    root, _ = compose(text)
    assert isinstance(root, yaml.MappingNode)
    tables = next(value for key, value in root.value if key.value == "tables")
    assert isinstance(tables, yaml.MappingNode)
    last = _end(tables.value[-1][1])
    if tables.flow_style:  # `tables: {a: , b: }`
        added = ""
        for name, keys in entries.items():
            added += f", {_scalar(name)}: {flow_yaml(keys or None)}"
        return text[:last] + added + text[last:]
    indent = int(tables.value[-1][0].start_mark.column)
    place = _line_after(text, last, indent)
    newline = "\r\n" if "\r\n" in text else "\n"
    added = ""
    if not text[:place].endswith(("\n", "\r")):
        added = newline
    for name, keys in entries.items():
        added += f"{' ' * indent}{table_yaml(name, keys)}{newline}"
    return text[:place] + added + text[place:]


def table_yaml(name: str, keys: Mapping[str, Any]) -> str:
    """A table's line, without indentation."""
    if not keys:
        return f"{_scalar(name)}:"
    return f"{_scalar(name)}: {flow_yaml(keys)}"


def flow_yaml(value: Any) -> str:
    """A value on one line of YAML that all parsers read alike."""
    if isinstance(value, Mapping):
        pairs = [f"{_scalar(key)}: {flow_yaml(inner)}" for key, inner in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow_yaml, value))}]"
    if isinstance(value, str):
        return _scalar(value)
    return json.dumps(value)


def fit_to_defaults(
    entry: Mapping[str, Any],
    key: Collection[str],
    columns: Collection[str],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """The keys to write for a table so that, with `defaults` filled in, it is loaded as `entry`
    alone describes.

    `key` is the table's primary key, `columns` are all its columns. Where the defaults name a
    cursor, or columns to include, that the table has too, the file's convention wins over the
    entry.
    """
    inherited = inherit({}, defaults)
    own = dict(entry)
    if "primary_key" in inherited:
        if inherited["primary_key"] == list(key):
            own.pop("primary_key", None)
        else:
            # An own null cancels what the table would inherit.
            own.setdefault("primary_key", None)
    if "incremental" in inherited:
        # Without a primary key, an inherited cursor would make the table append.
        if inherited["incremental"]["cursor"] in columns and key:
            own.pop("incremental", None)
            own.pop("mode", None)
        else:
            own.setdefault("incremental", None)
    _fit_columns(own, inherited.get("columns", {}), columns)
    mode = inherited.get("mode")
    if mode and "mode" not in own:
        # This table may be one that cannot have the inherited mode: then it is cancelled.
        incremental = {**inherited, **own}.get("incremental")
        impossible = {"append": not incremental, "replace": bool(incremental), "merge": not key}
        if impossible[mode]:
            own["mode"] = None
    if "deletes" in inherited and not _fits_deletes(inherit(own, defaults), own):
        own["deletes"] = None
    if own.get("mode") == "append" and defaults.get("lookback") is not None:
        own["lookback"] = None  # rows inside a lookback would be appended twice
    return own


def _fits_deletes(table: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a table with these keys can have the `deletes` that it inherits."""
    mode = table.get("mode") or ("merge" if "incremental" in table else "replace")
    if mode == "replace":
        return bool(table["deletes"]["action"] != "soft")
    # A key that has to be named is one that the source does not declare.
    return mode == "merge" and own.get("primary_key") is None


def _fit_columns(
    own: dict[str, Any], inherited: Mapping[str, list[str]], columns: Collection[str]
) -> None:
    named = inherited.get("include") or inherited.get("exclude") or []
    if "include" in inherited and set(named) <= set(columns):
        own.pop("columns", None)
        return
    excluded = own.get("columns", {}).get("exclude", [])
    if "exclude" in inherited:
        inherited_here = [name for name in named if name in columns]
        excluded = inherited_here + [name for name in excluded if name not in named]
        if excluded == named:
            own.pop("columns", None)
            return
    if excluded:
        own["columns"] = {"exclude": excluded}
    elif inherited:
        own["columns"] = None


def _scalar(text: str) -> str:
    is_plain = _PLAIN.fullmatch(text) and not UNPRINTABLE.search(text)
    if is_plain and text.lower() not in _RESERVED_WORDS:
        return text
    # A JSON string is also a YAML one, except for characters that YAML forbids.
    quoted = json.dumps(text, ensure_ascii=False)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


def _end(node: yaml.Node) -> int:
    """Where the text of `node` ends.

    The end mark of a block is where the next thing begins, even behind comments, so a block ends
    where its last entry does.
    """
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    if isinstance(node, yaml.MappingNode):
        last = last[1]
    return _end(last)


def _line_after(text: str, place: int, indent: int) -> int:
    """The start of the line after `place`, and after comments below it that are indented like
    tables."""
    end = place
    if place == 0 or text[place - 1] not in "\r\n":
        rest_of_line = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
        end = rest_of_line.match(text, place).end()  # type: ignore[union-attr]
    comment = re.compile(rf"(?: *(?:\r\n|\r|\n))* {{{indent},}}#[^\r\n]*(?:\r\n|\r|\n|\Z)")
    while match := comment.match(text, end):
        end = match.end()
    return end
