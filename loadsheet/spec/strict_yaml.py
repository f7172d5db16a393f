"""Strict YAML: plain data in which every key and value remembers its line and column.

Unquoted, `no`, `1:30`, `010` or `2026-01-01` look like text in an editor, and many parsers read a
truth value, a number or a date. Values that YAML 1.1 and 1.2 read alike are accepted; all others
must be quoted.
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
from loadsheet.problem import Finding, KeyPath, Mark, Problem, dotted, escape_newlines
from loadsheet.redact import mask_line
from loadsheet.spec.files import UNPRINTABLE, read_text
from loadsheet.spec.suggest import describe_value, with_space

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where PyYAML has it (every wheel does): 0.64 ms a file against 4.7."""

MAX_DEPTH = 50
"""Levels of nesting. Deeper text could exhaust the stack of a recursive reader."""
MAX_NODES = 100_000
"""Keys and values: 20 for each of 5,000 tables. A table with a key and a cursor has 8."""
_TAB = re.compile(r"^[^#\n]*?(\t)", re.MULTILINE)

_ODD_SPACE = re.compile("^ *([\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000])", re.MULTILINE)
_CURLY = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
_A_KEY = re.compile(r"""\s*[\w"'.-]+:(?:\s|$)""")
_BAD_DASH = re.compile(r"-[^\W\d].*", re.DOTALL)

_TAG = "tag:yaml.org,2002:"
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
_TRUE = frozenset({"true", "yes", "on"})

_QUOTE = 'quote the text, e.g. "@daily" or "0 6 * * *"'
_CLOSE_LIST = "close it with ']', or put a ',' between the entries"
_CLOSE_MAPPING = "close it with '}', or put a ',' between the entries"
_INDENT = "check the spaces at the start of this line and of the lines above"
_INNER_QUOTE = "double a quote inside quoted text, 'it''s', or use the other quotes, \"it's\""
_CLOSE_QUOTE = "add the closing quote on the same line"
_CURLY_MESSAGE = "curly quotes are not quotes in YAML"
_CURLY_HINT = "write straight quotes, \"...\" or '...'"
_COLON = "put ': ' after each key (see the line above too), and quote text that contains ': '"
_QUOTE_VALUE = "write one, or quote it if it is text"
_NEW_LINE = "start the list on a separate line"
_WRITE_OUT = "quote it if it is text; else write it out, or put what tables share under `defaults`"
_SPLIT = "split the pipeline into several"
_SHARE = "write the keys out, or put what tables share under `defaults`"

# libyaml's problem, its context ("" for any), our message, our hint
_TRANSLATIONS = (
    ("alphabetic or numeric", "alias", "text that starts with '*' must be quoted", _QUOTE),
    ("alphabetic or numeric", "anchor", "text that starts with '&' must be quoted", _QUOTE),
    ("cannot start any token", "", "text that starts with this character must be quoted", _QUOTE),
    ("unexpected end of stream", "quoted", "this quote is never closed", "add the closing quote"),
    ("',' or ']'", "", "this list is not closed properly", _CLOSE_LIST),
    ("',' or '}'", "", "this mapping is not closed properly", _CLOSE_MAPPING),
    ("mapping values are not allowed", "", "a ':' is not allowed here", _COLON),
    ("could not find expected ':'", "", "this key has no ':' after it", _COLON),
    ("block sequence entries", "", "a '-' entry is not allowed here", _NEW_LINE),
    ("escape character", "", "unknown backslash escape", "use 'single quotes' for plain text"),
    ("expected key", "", "expected a key here", _INDENT),
    ("'-' indicator", "", "expected a '-' entry here", _INDENT),
    ("expected node content", "", "expected a value here", _QUOTE_VALUE),
    (
        "comment or line break",
        "block scalar",
        "text after '|' or '>' must start on a new line",
        _INDENT,
    ),
    ("mapping keys are not allowed", "", "a '?' is not allowed here", "quote the text"),
    ("unexpected ':'", "", "a ':' is not allowed here", _COLON),
    ("<document start>", "", "this line does not fit the lines above it", _INDENT),
)
# Problems that libyaml reports where it gave up; its context is where the mistake begins.
_AT_CONTEXT = frozenset(
    {
        "alphabetic or numeric",
        "unexpected end of stream",
        "',' or ']'",
        "',' or '}'",
        "could not find expected ':'",
    }
)


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


def compose(text: str) -> tuple[yaml.Node | None, list[Finding]]:
    """The root node (None for an empty document), or what is wrong with the text. Never raises on
    text."""
    # libyaml calls a tab "a character that cannot start any token".
    tab = _TAB.search(text)
    if tab:
        line = text.count("\n", 0, tab.start()) + 1
        mark = (line, tab.start(1) - tab.start() + 1)
        hint = 'use spaces, or "\\t" inside quoted text'
        return None, [_syntax("tabs are not allowed in YAML", mark, hint)]
    odd = _ODD_SPACE.search(text)
    if odd:
        mark = (text.count("\n", 0, odd.start()) + 1, odd.start(1) - odd.start() + 1)
        message = f"the space U+{ord(odd[1]):04X} is not allowed at the start of a line"
        return None, [_syntax(message, mark, "replace it with usual spaces")]
    try:
        findings = list(_forbidden_features(text))
        if findings:
            return None, findings
        return yaml.compose(text, LOADER), []
    except yaml.MarkedYAMLError as error:
        return None, [_translate(error, text)]
    except yaml.YAMLError as error:
        return None, [_syntax(f"invalid YAML: {error}", (1, 1))]


def mark_of(mark: Any) -> Mark:
    """A PyYAML mark as line and column from 1; the start of the file when there is none."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _syntax(message: str, at: Mark, hint: str = "") -> Finding:
    return Finding("yaml-syntax", path=(), message=message, hint=hint, at=at)


def _feature(message: str, at: Mark, hint: str = "") -> Finding:
    return Finding("yaml-feature", path=(), message=message, hint=hint, at=at)


def _forbidden_features(text: str) -> Iterator[Finding]:
    """Read from the parser's events, before nodes are built: building them recurses into nested
    text, and aliases can expand a few lines into gigabytes."""
    depth = 0
    documents = 0
    nodes = 0
    for event in yaml.parse(text, LOADER):
        at = mark_of(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if documents > 1:
            yield _feature("a second document starts here", at, "write one pipeline per file")
            return
        nodes += isinstance(event, yaml.NodeEvent)
        if nodes > MAX_NODES:
            message = f"the file has more than {MAX_NODES:,} keys and values"
            yield Finding("too-much", path=(), message=message, hint=_SPLIT, at=at)
            return
        if depth > MAX_DEPTH:
            yield _feature(f"nested more than {MAX_DEPTH} levels deep", at)
            return
        anchor = getattr(event, "anchor", None)
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent):
            yield _feature(f"aliases are not allowed (*{anchor})", at, _WRITE_OUT)
        elif anchor:
            yield _feature(f"anchors are not allowed (&{anchor})", at, _WRITE_OUT)
        if tag:
            short = tag.replace(_TAG, "!!")
            hint = "delete it, or quote it if it is text"
            yield _feature(f"tags are not allowed ({short})", at, hint)


def _translate(error: yaml.MarkedYAMLError, text: str) -> Finding:
    """libyaml's error in terms of what the file's author wrote."""
    problem = error.problem or ""
    context = error.context or ""
    if "expected key" in problem and not _starts_a_line(error.problem_mark, text):
        opened = _quote_over_lines(text)
        if opened:
            return _syntax("this quote is never closed", opened, _CLOSE_QUOTE)
        at = mark_of(error.problem_mark)
        return _syntax("unexpected text after the end of the value", at, _INNER_QUOTE)
    for their_problem, their_context, message, hint in _TRANSLATIONS:
        if their_problem in problem and their_context in context:
            mark = error.problem_mark
            if their_problem in _AT_CONTEXT and error.context_mark:
                mark = error.context_mark
            if hint in (_COLON, _QUOTE):
                slip = _slip_at(message, hint, mark, text)
                if slip:
                    return slip
            return _syntax(message, mark_of(mark), hint)
    original = ", ".join(filter(None, (context, problem)))
    at = mark_of(error.problem_mark or error.context_mark)
    return _syntax(f"invalid YAML: {original}", at, _INDENT)


def _quote_over_lines(text: str) -> Mark | None:
    """Where the last quoted text begins that goes on to another line: the quote that closes it was
    meant to open another."""
    opened = None
    try:
        for token in yaml.scan(text, LOADER):
            is_quoted = isinstance(token, yaml.ScalarToken) and token.style in ("'", '"')
            if is_quoted and token.start_mark.line < token.end_mark.line:
                opened = mark_of(token.start_mark)
    except yaml.YAMLError:
        pass
    return opened


def _slip_at(message: str, hint: str, mark: Any, text: str) -> Finding | None:
    """The finding about the likely slip in the line at `mark` or in the one above; None where there
    is none that is known."""
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return None
    line = lines[mark.line]
    at = mark_of(mark)
    if mask_line(line) != line:  # a hint that quotes it would show a secret
        return None
    if hint == _QUOTE:
        word = line[mark.column :].rstrip().removesuffix(":")
        return _syntax(message, at, f'quote it: "{_short(word)}"') if '"' not in word else None
    curly = next((place for place, char in enumerate(line) if char in _CURLY), None)
    if curly is not None:
        return _syntax(_CURLY_MESSAGE, (at[0], curly + 1), _CURLY_HINT)
    # libyaml notices a missing space in the next line that has a ':'.
    for number in range(mark.line, max(mark.line - 2, -1), -1):
        spaced = with_space(lines[number].strip().removeprefix("- "))
        if spaced:
            place = (number + 1, len(lines[number]) - len(lines[number].lstrip()) + 1)
            return _syntax("there is no space after the ':'", place, f"write `{_short(spaced)}`")
    above = next((one for one in reversed(lines[: mark.line]) if one.strip()), "")
    if not message.startswith("a ':'"):
        if above.lstrip().startswith("- ") and _indent_of(line) == _indent_of(above):
            return _syntax(message, at, "put '- ' before it if it is an entry of the list above")
        return None
    if _indent_of(line) > _indent_of(above) and ": " in above and _A_KEY.match(line):
        hint = "this line begins further right than the one above, which has its value already"
        return _syntax(
            "this line does not fit the line above it", (at[0], _indent_of(line) + 1), hint
        )
    key, colon, value = line.partition(": ")
    if colon and mark.column > len(key) and '"' not in value:
        hint = f'quote text that contains a colon and a space, `{key.strip()}: "{_short(value)}"`'
        return _syntax(message, at, f"{hint}; each key starts a new line")
    return None


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _starts_a_line(mark: Any, text: str) -> bool:
    """Whether only spaces stand before `mark` on its line; also where there is no such line."""
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return True
    return not lines[mark.line][: mark.column].strip()


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
            hint = f'quote it: "{_short(node.value)}"'
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
    if text[0] in _CURLY or text[-1] in _CURLY:
        bare = text.strip(_CURLY)
        return _CURLY_MESSAGE, f'write "{_short(bare)}", with straight quotes, or without any'
    if _BAD_DASH.fullmatch(text):
        return (
            f"{_short(text.split()[0])} is text, not an entry of a list",
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
    type_1_1 = node.tag.removeprefix(_TAG)
    type_1_2 = _type_1_2(node.value)
    # Both versions take 010 for a number, but 1.1 reads 8 and 1.2 reads 10.
    if type_1_1 == type_1_2 and not _LEADING_ZERO.fullmatch(node.value):
        return _convert(type_1_1, node.value)
    hint = f'quote it: "{_short(node.value)}"'
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
