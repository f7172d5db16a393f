"""Strict YAML: plain data in which every key and value remembers its line and column.

`no`, `1:30`, `010` or `2026-01-01` without quotes are text to an editor and a truth value, a number or a date to
many a parser. Whatever both versions agree on is taken, everything else must be quoted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any, Literal

import yaml

from loadsheet.errors import SpecError
from loadsheet.problem import Finding, KeyPath, Mark, Problem, dotted, one_line
from loadsheet.spec.files import UNPRINTABLE, read_text
from loadsheet.spec.suggest import found

_TAG = "tag:yaml.org,2002:"
_YAML_1_2 = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")),
)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_LONGEST = 100
"""Digits of a number; Python refuses to read or print one with more than 4300."""
_TRUE = frozenset({"true", "yes", "on"})


class Ambiguous(ValueError):
    """A plain scalar that must be quoted; the message says what readers make of it, `hint` what to
    write."""

    def __init__(self, message: str, hint: str):
        super().__init__(message)
        self.hint = hint


def scalar_value(node: yaml.ScalarNode) -> Any:
    """The value of a scalar node as composed by PyYAML: None, a bool, a number or text.

    Raises Ambiguous for plain text that not every YAML reader understands alike.
    """
    if node.style:  # quoted or block text
        return node.value
    old, new = node.tag.removeprefix(_TAG), _kind_1_2(node.value)
    if old != new or _LEADING_ZERO.fullmatch(node.value):
        message = (
            f"without quotes {_old_reading(old, node.value)} to some YAML readers, but not to all"
        )
        number = (
            "write a number with plain digits, 10 or 0.1; if it is text, "
            if {old, new} & {"int", "float"}
            else ""
        )
        raise Ambiguous(message, f'{number}quote it: "{_short(node.value)}"')
    return _convert(old, node.value)


def _kind_1_2(text: str) -> str:
    return next((kind for kind, pattern in _YAML_1_2 if pattern.fullmatch(text)), "str")


def _convert(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind not in ("int", "float"):
        return text
    value: int | float = (
        0 if len(text) > _LONGEST else int(text, 0) if kind == "int" else float(text)
    )
    if len(text) > _LONGEST or math.isinf(value):
        raise Ambiguous("this number is too large", "quote it if it is text")
    if kind == "float" and Decimal(text) != Decimal(repr(value)):
        raise Ambiguous(f"readers keep only {value!r} of this number", f'quote it: "{text}"')
    return value


def _old_reading(kind: str, text: str) -> str:
    shown = _short(text)
    if kind == "bool":
        return f"{shown} is {'true' if text.lower() in _TRUE else 'false'}"
    if kind == "timestamp":
        return f"{shown} is a date"
    if kind == "int" and ":" not in text and _LEADING_ZERO.fullmatch(text):
        return f"{shown} is the number {int(text.replace('_', ''), 8)}"
    return f"{shown} is a number"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where PyYAML has it (every wheel does): 0.64 ms a file against 4.7."""

MAX_DEPTH = 50
_TAB = re.compile(r"^[^#\n]*?(\t)", re.MULTILINE)
_QUOTE = 'quote the text, e.g. "@daily" or "0 6 * * *"'
_WRITE_OUT = "write it out, put what tables share under `defaults`, or quote it if it is text"
_CLOSE = "close it, or put a ',' between the entries"
_INDENT = "check the spaces at the start of this line and of the lines above"
_INNER_QUOTE = (
    "a quote inside quoted text is doubled, 'it''s', or the text goes in the other kind, \"it's\""
)
_COLON = (
    "a key needs ': ' after it (also on the line above), and text that contains ': ' needs quotes"
)
_WORDS = (
    # (in libyaml's problem, in its context, point at the context, message, hint)
    (
        "alphabetic or numeric",
        "alias",
        True,
        "text cannot start with '*' unless it is quoted",
        _QUOTE,
    ),
    (
        "alphabetic or numeric",
        "anchor",
        True,
        "text cannot start with '&' unless it is quoted",
        _QUOTE,
    ),
    (
        "cannot start any token",
        "",
        False,
        "text cannot start with this character unless it is quoted",
        _QUOTE,
    ),
    (
        "unexpected end of stream",
        "quoted",
        True,
        "this quote is never closed",
        "add the closing quote",
    ),
    ("',' or ']'", "", True, "this list is not closed properly", _CLOSE + " (']' ends the list)"),
    (
        "',' or '}'",
        "",
        True,
        "this mapping is not closed properly",
        _CLOSE + " ('}' ends the mapping)",
    ),
    ("mapping values are not allowed", "", False, "a ':' is not possible here", _COLON),
    ("could not find expected ':'", "", True, "this key has no ':' after it", _COLON),
    (
        "block sequence entries",
        "",
        False,
        "a '-' entry is not possible here",
        "start the list on a line of its own",
    ),
    (
        "escape character",
        "",
        False,
        "this backslash escape does not exist",
        "use 'single quotes' for plain text",
    ),
    ("expected key", "", False, "a key was expected here", _INDENT),
    ("'-' indicator", "", False, "a '-' entry was expected here", _INDENT),
    (
        "expected node content",
        "",
        False,
        "a value was expected here",
        "write one, or quote it if it is text",
    ),
    (
        "comment or line break",
        "block scalar",
        False,
        "text after '|' or '>' starts on a line of its own",
        _INDENT,
    ),
    ("mapping keys are not allowed", "", False, "a '?' is not possible here", "quote the text"),
    ("unexpected ':'", "", False, "a ':' is not possible here", _COLON),
    ("<document start>", "", False, "this line does not belong to what is above it", _INDENT),
)


def compose(text: str) -> tuple[yaml.Node | None, list[Finding]]:
    """The root node (None for an empty document), or what makes the text unacceptable. Never raises
    on text."""
    if tab := _TAB.search(text):
        line = text.count("\n", 0, tab.start()) + 1
        message = "a tab; YAML wants spaces"
        mark = (line, tab.start(1) - tab.start() + 1)
        return None, [
            Finding(
                "yaml-syntax",
                path=(),
                message=message,
                hint='use spaces, or "\\t" in a quoted text',
                at=mark,
            )
        ]
    try:
        findings = list(_forbidden(text))
        return (None, findings) if findings else (yaml.compose(text, LOADER), [])
    except yaml.MarkedYAMLError as error:
        return None, [_in_words(error, text)]
    except yaml.YAMLError as error:
        return None, [
            Finding("yaml-syntax", path=(), message=f"this is not YAML: {error}", at=(1, 1))
        ]


def mark_of(mark: Any) -> Mark:
    """A PyYAML mark as line and column from 1; the start of the file when there is none."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _forbidden(text: str) -> Iterator[Finding]:
    depth = documents = 0
    for event in yaml.parse(text, LOADER):
        at = mark_of(event.start_mark)
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if documents > 1:
            yield Finding(
                "yaml-feature",
                path=(),
                message="a second document starts here",
                hint="one file is one pipeline",
                at=at,
            )
            return
        if depth > MAX_DEPTH:
            yield Finding(
                "yaml-feature", path=(), message=f"nested more than {MAX_DEPTH} levels deep", at=at
            )
            return
        yield from _indirections(event, at)


def _indirections(event: yaml.Event, at: Mark) -> Iterator[Finding]:
    anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
    if isinstance(event, yaml.AliasEvent):
        yield Finding(
            "yaml-feature",
            path=(),
            message=f"aliases are not allowed (*{anchor})",
            hint=_WRITE_OUT,
            at=at,
        )
    elif anchor:
        yield Finding(
            "yaml-feature",
            path=(),
            message=f"anchors are not allowed (&{anchor})",
            hint=_WRITE_OUT,
            at=at,
        )
    if tag:
        shown = tag.replace("tag:yaml.org,2002:", "!!")
        yield Finding(
            "yaml-feature",
            path=(),
            message=f"tags are not allowed ({shown})",
            hint="drop it; if it is text, quote it",
            at=at,
        )


def _in_words(error: yaml.MarkedYAMLError, text: str) -> Finding:
    problem, context = error.problem or "", error.context or ""
    if "expected key" in problem and not _starts_a_line(error.problem_mark, text):
        return Finding(
            "yaml-syntax",
            path=(),
            message="the value ended before this",
            hint=_INNER_QUOTE,
            at=mark_of(error.problem_mark),
        )
    for part, inside, at_context, message, hint in _WORDS:
        if part in problem and inside in context:
            mark = error.context_mark if at_context and error.context_mark else error.problem_mark
            return Finding("yaml-syntax", path=(), message=message, hint=hint, at=mark_of(mark))
    message = f"this is not YAML: {', '.join(filter(None, (context, problem)))}"
    return Finding(
        "yaml-syntax",
        path=(),
        message=message,
        hint=_INDENT,
        at=mark_of(error.problem_mark or error.context_mark),
    )


def _starts_a_line(mark: Any, text: str) -> bool:
    lines = text.splitlines()
    return mark is None or mark.line >= len(lines) or not lines[mark.line][: mark.column].strip()


_SHARE = "write the keys out, or put what tables share under `defaults`"


@dataclass(kw_only=True)
class Document:
    """The data of a file, the positions of its keys and values, and what is odd about them as YAML."""

    file: str
    data: Any = None
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def problem(self, finding: Finding) -> Problem:
        """`finding` with its position: that of the nearest existing parent when the path itself is
        not in the file."""
        line, column = self._where(finding)
        return Problem(
            file=self.file,
            line=line,
            column=column,
            path=dotted(finding.path),
            message=one_line(finding.message),
            hint=one_line(finding.hint),
            code=finding.code,
            severity=finding.severity,
        )

    def _where(self, finding: Finding) -> Mark:
        if isinstance(finding.at, tuple):
            return finding.at
        if finding.at == "value" and finding.path in self.values:
            return self.values[finding.path]
        # A path that the file does not have is reported at its nearest parent.
        for length in range(len(finding.path), -1, -1):
            path = finding.path[:length]
            mark = self.keys.get(path) or self.values.get(path)
            if mark:
                return mark
        return (1, 1)


def read_document(path: FilePath, text: str | None = None) -> Document:
    """The file as located data, with `findings` for YAML that not every reader would understand
    alike.

    `text` is what to read in its place. Raises SpecError when nothing can be read: no readable file, no
    YAML, or nothing in it.
    """
    node, refused = compose(read_text(path) if text is None else text)
    document = Document(file=str(path), findings=refused)
    if not refused and (node is None or _is_nothing(node)):
        hint = "a pipeline has the keys version, source, lake, warehouse and tables"
        refused = [
            Finding("missing-key", path=(), message="the file is empty", hint=hint, at=(1, 1))
        ]
    if node is None or refused:
        raise SpecError([document.problem(finding) for finding in refused])
    document.data = _value(document, node, ())
    return document


def _is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value == ""


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
            document.findings.append(
                Finding("wrong-value", path=path, message="a key must be one piece of text", at=at)
            )
            continue
        key = key_node.value
        if key == "<<" and not key_node.style:
            document.findings.append(
                Finding(
                    "yaml-feature",
                    path=path,
                    message="merge keys (<<) are not allowed",
                    hint=_SHARE,
                    at=at,
                )
            )
            continue
        here = (*path, key)
        if key in data:
            message = f"duplicate key, first used on line {document.keys[here][0]}"
            document.findings.append(
                Finding(
                    "duplicate-key", path=here, message=message, hint="keep one of the two", at=at
                )
            )
            continue
        document.keys[here] = at
        _check_key(document, key_node, here)
        data[key] = _value(document, value_node, here)
    return data


def _check_key(document: Document, node: yaml.ScalarNode, path: KeyPath) -> None:
    before = len(document.findings)
    value = _scalar(document, node, path, "key")
    if len(document.findings) == before and not isinstance(value, str):
        message, hint = f"a key must be text, found {found(value)}", f'quote it: "{node.value}"'
        document.findings.append(
            Finding("wrong-value", path=path, message=message, hint=hint, at="key")
        )


def _scalar(
    document: Document, node: yaml.ScalarNode, path: KeyPath, at: Literal["key", "value"]
) -> Any:
    try:
        value = scalar_value(node)
    except Ambiguous as error:
        document.findings.append(
            Finding("ambiguous-value", path=path, message=str(error), hint=error.hint, at=at)
        )
        return node.value
    if isinstance(value, str) and (odd := UNPRINTABLE.search(value)):
        message = f"the character U+{ord(odd.group()):04X} is not allowed here"
        document.findings.append(
            Finding("unreadable-file", path=path, message=message, hint="delete it", at=at)
        )
    return value
