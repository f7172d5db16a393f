"""YAML text to nodes, or what is wrong with the text, in terms of what its author wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from loadsheet.problem import Finding, Mark
from loadsheet.redact import mask_line
from loadsheet.spec.suggest import with_space

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where PyYAML has it (every wheel does): 0.64 ms a file against 4.7."""

TAG = "tag:yaml.org,2002:"
"""What the tags of YAML's own types begin with."""
MAX_DEPTH = 50
"""Levels of nesting. Deeper text could exhaust the stack of a recursive reader."""
MAX_NODES = 100_000
"""Keys and values: 20 for each of 5,000 tables. A table with a key and a cursor has 8."""
_TAB = re.compile(r"^[^#\n]*?(\t)", re.MULTILINE)

_ODD_SPACE = re.compile("^ *([\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000])", re.MULTILINE)
CURLY = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
CURLY_MESSAGE = "curly quotes are not quotes in YAML"
_A_KEY = re.compile(r"""\s*[\w"'.-]+:(?:\s|$)""")

_QUOTE = 'quote the text, e.g. "@daily" or "0 6 * * *"'
_CLOSE_LIST = "close it with ']', or put a ',' between the entries"
_CLOSE_MAPPING = "close it with '}', or put a ',' between the entries"
_INDENT = "check the spaces at the start of this line and of the lines above"
_INNER_QUOTE = "double a quote inside quoted text, 'it''s', or use the other quotes, \"it's\""
_CLOSE_QUOTE = "add the closing quote on the same line"
_CURLY_HINT = "write straight quotes, \"...\" or '...'"
_COLON_MESSAGE = "a ':' is not allowed here"
_COLON = "put ': ' after each key (see the line above too), and quote text that contains ': '"
_QUOTE_VALUE = "write one, or quote it if it is text"
_NEW_LINE = "start the list on a separate line"
_WRITE_OUT = "quote it if it is text; else write it out, or put what tables share under `defaults`"
_SPLIT = "split the pipeline into several"

# libyaml's problem, its context ("" for any), our message, our hint
_TRANSLATIONS = (
    ("alphabetic or numeric", "alias", "text that starts with '*' must be quoted", _QUOTE),
    ("alphabetic or numeric", "anchor", "text that starts with '&' must be quoted", _QUOTE),
    ("cannot start any token", "", "text that starts with this character must be quoted", _QUOTE),
    ("unexpected end of stream", "quoted", "this quote is never closed", "add the closing quote"),
    ("',' or ']'", "", "this list is not closed properly", _CLOSE_LIST),
    ("',' or '}'", "", "this mapping is not closed properly", _CLOSE_MAPPING),
    ("mapping values are not allowed", "", _COLON_MESSAGE, _COLON),
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
    ("unexpected ':'", "", _COLON_MESSAGE, _COLON),
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
            shown = tag.replace(TAG, "!!")
            hint = "delete it, or quote it if it is text"
            yield _feature(f"tags are not allowed ({shown})", at, hint)


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
        return _syntax(message, at, f'quote it: "{short(word)}"') if '"' not in word else None
    curly = next((place for place, char in enumerate(line) if char in CURLY), None)
    if curly is not None:
        return _syntax(CURLY_MESSAGE, (at[0], curly + 1), _CURLY_HINT)
    missing = _missing_space(lines, mark.line)
    if missing:
        return missing
    above = next((one for one in reversed(lines[: mark.line]) if one.strip()), "")
    if message != _COLON_MESSAGE:
        if above.lstrip().startswith("- ") and _indent_of(line) == _indent_of(above):
            return _syntax(message, at, "put '- ' before it if it is an entry of the list above")
        return None
    return _misplaced_colon(line, above, at)


def _missing_space(lines: list[str], number: int) -> Finding | None:
    """`key:value` in the line of this number or in the one above: libyaml notices a missing space
    in the next line that has a ':'."""
    for place in range(number, max(number - 2, -1), -1):
        line = lines[place]
        spaced = with_space(line.strip().removeprefix("- "))
        if spaced:
            at = (place + 1, _indent_of(line) + 1)
            return _syntax("there is no space after the ':'", at, f"write `{short(spaced)}`")
    return None


def _misplaced_colon(line: str, above: str, at: Mark) -> Finding | None:
    """A key that is indented below a value, or text with a colon and a space."""
    row, column = at
    if _indent_of(line) > _indent_of(above) and ": " in above and _A_KEY.match(line):
        hint = "this line begins further right than the one above, which has its value already"
        message = "this line does not fit the line above it"
        return _syntax(message, (row, _indent_of(line) + 1), hint)
    key, colon, value = line.partition(": ")
    if colon and column - 1 > len(key) and '"' not in value:
        hint = f'quote text that contains a colon and a space, `{key.strip()}: "{short(value)}"`'
        return _syntax(_COLON_MESSAGE, at, f"{hint}; each key starts a new line")
    return None


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _starts_a_line(mark: Any, text: str) -> bool:
    """Whether only spaces stand before `mark` on its line; also where there is no such line."""
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return True
    return not lines[mark.line][: mark.column].strip()


def short(text: str) -> str:
    """`text` as part of a message: of long text, its beginning."""
    return text if len(text) <= 40 else f"{text[:40]}…"
