"""YAML text -> node tree, by libyaml; syntax errors in plain words, and no construct that hides what a file says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from loadsheet.spec.finding import Finding, Mark

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where PyYAML has it (every wheel does): 0.64 ms a file against 4.7."""

MAX_DEPTH = 50
_TAB = re.compile(r"^[^#\n]*?(\t)", re.MULTILINE)
_QUOTE = 'quote the text, e.g. "@daily" or "0 6 * * *"'
_WRITE_OUT = "write it out, put what tables share under `defaults`, or quote it if it is text"
_CLOSE = "close it, or put a ',' between the entries"
_INDENT = "check the spaces at the start of this line and of the lines above"
_INNER_QUOTE = "a quote inside quoted text is doubled, 'it''s', or the text goes in the other kind, \"it's\""
_COLON = "a key needs ': ' after it (also on the line above), and text that contains ': ' needs quotes"
_WORDS = (
    # (in libyaml's problem, in its context, point at the context, message, hint)
    ("alphabetic or numeric", "alias", True, "text cannot start with '*' unless it is quoted", _QUOTE),
    ("alphabetic or numeric", "anchor", True, "text cannot start with '&' unless it is quoted", _QUOTE),
    ("cannot start any token", "", False, "text cannot start with this character unless it is quoted", _QUOTE),
    ("unexpected end of stream", "quoted", True, "this quote is never closed", "add the closing quote"),
    ("',' or ']'", "", True, "this list is not closed properly", _CLOSE + " (']' ends the list)"),
    ("',' or '}'", "", True, "this mapping is not closed properly", _CLOSE + " ('}' ends the mapping)"),
    ("mapping values are not allowed", "", False, "a ':' is not possible here", _COLON),
    ("could not find expected ':'", "", True, "this key has no ':' after it", _COLON),
    ("block sequence entries", "", False, "a '-' entry is not possible here", "start the list on a line of its own"),
    ("escape character", "", False, "this backslash escape does not exist", "use 'single quotes' for plain text"),
    ("expected key", "", False, "a key was expected here", _INDENT),
    ("'-' indicator", "", False, "a '-' entry was expected here", _INDENT),
    ("expected node content", "", False, "a value was expected here", "write one, or quote it if it is text"),
    ("comment or line break", "block scalar", False, "text after '|' or '>' starts on a line of its own", _INDENT),
    ("mapping keys are not allowed", "", False, "a '?' is not possible here", "quote the text"),
    ("unexpected ':'", "", False, "a ':' is not possible here", _COLON),
    ("<document start>", "", False, "this line does not belong to what is above it", _INDENT),
)


def compose(text: str) -> tuple[yaml.Node | None, list[Finding]]:
    """The root node (None for an empty document), or what makes the text unacceptable. Never raises on text."""
    if tab := _TAB.search(text):
        line = text.count("\n", 0, tab.start()) + 1
        message = "a tab; YAML wants spaces"
        mark = (line, tab.start(1) - tab.start() + 1)
        return None, [
            Finding("yaml-syntax", path=(), message=message, hint='use spaces, or "\\t" in a quoted text', at=mark)
        ]
    try:
        findings = list(_forbidden(text))
        return (None, findings) if findings else (yaml.compose(text, LOADER), [])
    except yaml.MarkedYAMLError as error:
        return None, [_in_words(error, text)]
    except yaml.YAMLError as error:
        return None, [Finding("yaml-syntax", path=(), message=f"this is not YAML: {error}", at=(1, 1))]


def mark_of(mark: Any) -> Mark:
    """A PyYAML mark as line and column from 1; the start of the file when there is none."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _forbidden(text: str) -> Iterator[Finding]:
    depth = documents = 0
    for event in yaml.parse(text, LOADER):
        at = mark_of(event.start_mark)
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if documents > 1:
            yield Finding(
                "yaml-feature", path=(), message="a second document starts here", hint="one file is one pipeline", at=at
            )
            return
        if depth > MAX_DEPTH:
            yield Finding("yaml-feature", path=(), message=f"nested more than {MAX_DEPTH} levels deep", at=at)
            return
        yield from _indirections(event, at)


def _indirections(event: yaml.Event, at: Mark) -> Iterator[Finding]:
    anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
    if isinstance(event, yaml.AliasEvent):
        yield Finding("yaml-feature", path=(), message=f"aliases are not allowed (*{anchor})", hint=_WRITE_OUT, at=at)
    elif anchor:
        yield Finding("yaml-feature", path=(), message=f"anchors are not allowed (&{anchor})", hint=_WRITE_OUT, at=at)
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
        "yaml-syntax", path=(), message=message, hint=_INDENT, at=mark_of(error.problem_mark or error.context_mark)
    )


def _starts_a_line(mark: Any, text: str) -> bool:
    lines = text.splitlines()
    return mark is None or mark.line >= len(lines) or not lines[mark.line][: mark.column].strip()
