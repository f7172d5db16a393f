"""Strict YAML: plain data in which every key and value remembers its line and column.

Unquoted, `no`, `1:30`, `010` or `2026-01-01` look like text in an editor, and many parsers read a
truth value, a number or a date. Values that YAML 1.1 and 1.2 read alike are accepted; all others
must be quoted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any, Literal

import yaml

from loadsheet.errors import SpecError
from loadsheet.problem import Finding, KeyPath, Mark, Problem, dotted, escape_newlines
from loadsheet.spec.files import UNPRINTABLE, read_text
from loadsheet.spec.suggest import describe_value
from loadsheet.spec.yaml_text import CURLY, CURLY_MESSAGE, TAG, compose, mark_of, short

_BAD_DASH = re.compile(r"-[^\W\d].*", re.DOTALL)

# The types of YAML 1.2's core schema and what they look like. PyYAML applies those of 1.1.
_YAML_1_2 = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")),
)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
# Characters of a number; Python refuses to read or print one with more than 4300 digits.
_LONGEST_NUMBER = 100
_SHARE = "write the keys out, or put what tables share under `defaults`"
_TRUE = frozenset({"true", "yes", "on"})


@dataclass(kw_only=True)
class Document:
    """The data of a file, the positions of its keys and values, and findings about its YAML."""

    file: str
    data: Any = None
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def problem(self, finding: Finding) -> Problem:
        """`finding` with its position: that of the nearest existing parent when the path itself is
        not in the file."""
        line, column = self._position(finding)
        return Problem(
            file=self.file,
            line=line,
            column=column,
            path=dotted(finding.path),
            message=escape_newlines(finding.message),
            hint=escape_newlines(finding.hint),
            code=finding.code,
            severity=finding.severity,
        )

    def _position(self, finding: Finding) -> Mark:
        if isinstance(finding.at, tuple):
            return finding.at
        if finding.at == "value" and finding.path in self.values:
            return self.values[finding.path]
        # A missing key or an inherited value has no place of its own: point at what it is part of.
        for length in range(len(finding.path), -1, -1):
            path = finding.path[:length]
            mark = self.keys.get(path) or self.values.get(path)
            if mark:
                return mark
        return (1, 1)

    def add(
        self,
        code: str,
        path: KeyPath,
        message: str,
        hint: str = "",
        at: Literal["key", "value"] | Mark = "value",
    ) -> None:
        """Add a finding about the YAML at `path`."""
        self.findings.append(Finding(code, path=path, message=message, hint=hint, at=at))


def read_document(path: FilePath, text: str | None = None) -> Document:
    """The file as located data, with `findings` about YAML that parsers read differently.

    `text` is read instead of the file where it is given. Raises SpecError when there is nothing to
    read: no readable file, invalid YAML, or an empty file.
    """
    node, findings = compose(read_text(path) if text is None else text)
    document = Document(file=str(path), findings=findings)
    # A file of comments has no node, and one with only `---` an empty one.
    is_empty = node is None
    if isinstance(node, yaml.ScalarNode):
        is_empty = node.value == "" and not node.style
    if is_empty and not findings:
        hint = "a pipeline file needs the keys version, source, lake, warehouse and tables"
        document.add("missing-key", (), "the file is empty", hint, (1, 1))
    if node is None or document.findings:
        raise SpecError([document.problem(finding) for finding in document.findings])
    document.data = _value(document, node, ())
    return document


def _value(document: Document, node: yaml.Node, path: KeyPath) -> Any:
    document.values[path] = mark_of(node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_value(document, item, (*path, index)) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(document, node, path, "value")


def _mapping(document: Document, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = mark_of(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            message = "a key must be text, not a list or a mapping"
            document.add("wrong-value", path, message, at=at)
            continue
        key = key_node.value
        # PyYAML's constructor would merge; this code only composes, and would take it as a key.
        if key == "<<" and not key_node.style:
            document.add("yaml-feature", path, "merge keys (<<) are not allowed", _SHARE, at)
            continue
        key_path = (*path, key)
        # The second value is not read: the positions of the first one must stay.
        if key in data:
            message = f"duplicate key, first used on line {document.keys[key_path][0]}"
            document.add("duplicate-key", key_path, message, "remove one of the two", at)
            continue
        document.keys[key_path] = at
        findings_before = len(document.findings)
        key_value = _scalar(document, key_node, key_path, "key")
        # An ambiguous key such as `on` has its finding already.
        if len(document.findings) == findings_before and not isinstance(key_value, str):
            message = f"a key must be text, found {describe_value(key_value)}"
            document.add("wrong-value", key_path, message, f'quote it: "{key}"', "key")
        data[key] = _value(document, value_node, key_path)
    return data


def _scalar(
    document: Document, node: yaml.ScalarNode, path: KeyPath, at: Literal["key", "value"]
) -> Any:
    slip = _unquoted_slip(node, path)
    if slip:
        document.add("ambiguous-value", path, *slip, at)
        return node.value
    try:
        value = scalar_value(node)
    except Ambiguous as error:
        hint = error.hint
        if at == "key":  # a key is always text
            hint = f'quote it: "{short(node.value)}"'
        document.add("ambiguous-value", path, str(error), hint, at)
        return node.value
    unprintable = UNPRINTABLE.search(value) if isinstance(value, str) else None
    if unprintable:
        message = f"the character U+{ord(unprintable.group()):04X} is not allowed here"
        document.add("unreadable-file", path, message, "delete it", at)
    return value


def _unquoted_slip(node: yaml.ScalarNode, path: KeyPath) -> tuple[str, str] | None:
    """Message and hint where unquoted text is most likely a slip; None where it is not."""
    text = node.value
    if node.style or not text:
        return None
    if text[0] in CURLY or text[-1] in CURLY:
        bare = text.strip(CURLY)
        return CURLY_MESSAGE, f'write "{short(bare)}", with straight quotes, or without any'
    if _BAD_DASH.fullmatch(text):
        return (
            f"{short(text.split()[0])} is text, not an entry of a list",
            "put a space after the '-'; quote it if it is text",
        )
    # Prose may go on; a list whose dashes are missing would be one long name.
    is_prose = path and path[-1] == "description"
    if node.start_mark.line < node.end_mark.line and not is_prose:
        hint = "put '- ' before each entry of a list; quote it if it is one text"
        return "unquoted text goes on in the next line", hint
    return None


class Ambiguous(ValueError):
    """An unquoted value that must be quoted. The message says how parsers read it, `hint` what to
    write."""

    def __init__(self, message: str, hint: str):
        super().__init__(message)
        self.hint = hint


def scalar_value(node: yaml.ScalarNode) -> Any:
    """The value of a scalar node as composed by PyYAML: None, a bool, a number or text.

    Raises Ambiguous for unquoted text that YAML parsers read differently.
    """
    if node.style:  # quoted or block text
        return node.value
    # PyYAML resolves tags by YAML 1.1, editors and most other parsers by 1.2.
    type_1_1 = node.tag.removeprefix(TAG)
    type_1_2 = _type_1_2(node.value)
    # Both versions take 010 for a number, but 1.1 reads 8 and 1.2 reads 10.
    if type_1_1 == type_1_2 and not _LEADING_ZERO.fullmatch(node.value):
        return _convert(type_1_1, node.value)
    hint = f'quote it: "{short(node.value)}"'
    if type_1_1 == "bool":
        truth = "true" if node.value.lower() in _TRUE else "false"
        hint = f"write {truth}; if it is text, {hint}"
    if {type_1_1, type_1_2} & {"int", "float"}:
        hint = f"write a number with plain digits, 10 or 0.1; if it is text, {hint}"
    raise Ambiguous(
        f"unquoted {_reading_1_1(type_1_1, node.value)} to some YAML parsers, but not to all", hint
    )


def _type_1_2(text: str) -> str:
    for name, pattern in _YAML_1_2:
        if pattern.fullmatch(text):
            return name
    return "str"


def _convert(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind not in ("int", "float"):
        return text
    too_large = Ambiguous("this number is too large", "quote it if it is text")
    if len(text) > _LONGEST_NUMBER:
        raise too_large
    if kind == "int":
        return int(text, 0)  # also 0x1f
    value = float(text)
    if math.isinf(value):
        raise too_large
    # A float keeps about 16 digits; the rest of a number in the file would be lost silently.
    if Decimal(text) != Decimal(repr(value)):
        raise Ambiguous(f"parsers keep only {value!r} of this number", f'quote it: "{text}"')
    return value


def _reading_1_1(kind: str, text: str) -> str:
    """What a YAML 1.1 parser makes of unquoted `text`, as part of a sentence."""
    shown = short(text)
    if kind == "bool":
        return f"{shown} is {'true' if text.lower() in _TRUE else 'false'}"
    if kind == "timestamp":
        return f"{shown} is a date"
    if kind == "int" and ":" not in text and _LEADING_ZERO.fullmatch(text):
        return f"{shown} is the number {int(text.replace('_', ''), 8)}"
    return f"{shown} is a number"
