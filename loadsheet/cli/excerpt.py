"""The line that a problem is in, with a caret under the place: as `check` shows it to people."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from loadsheet.redact import hidden
from loadsheet.spec.problem import Problem
from loadsheet.spec.text import MAX_BYTES

WIDTH = 80
_TAB = "    "
_BEFORE = 30
"""Cells kept before the place in a line that has to be cut."""
_TOKEN = re.compile(r"""(['"]).*?\1|[\w@.:/-]*\w|.""")
_LINE_END = re.compile(r"\r\n|\n|\r")


def excerpt(problem: Problem, secret_lines: Collection[tuple[str, int]] = ()) -> list[str]:
    """Two lines, the source's and the caret's; none where the file has no such line or cannot be read.

    Values that look like secrets are hidden; on `secret_lines` (file, line) everything is, but the key itself.
    """
    lines = source_lines(problem.file)
    if problem.line > len(lines):
        return []
    line = hidden(lines[problem.line - 1])
    start = min(problem.column - 1, len(line))
    match = _TOKEN.match(line, start)
    end = match.end() if match else start
    if (problem.file, problem.line) in secret_lines:
        if not line[end:].lstrip().startswith(":"):
            return []  # not a key, so it may be the secret
        line, start, end = line[start:end], 0, end - start
    before, token, after = (_printable(part) for part in (line[:start], line[start:end], line[end:]))
    number = f"{problem.line:>4} | "
    before, token, after = _cut(before, token, after, WIDTH - len(number))
    caret = "^" * max(1, _cells(token))
    return [f"{number}{before}{token}{after}".rstrip(), f"     | {' ' * _cells(before)}{caret}"]


def end_column(problem: Problem) -> int:
    """The column behind the word that the problem is about; behind its first character where there is none to see."""
    lines = source_lines(problem.file)
    line = lines[problem.line - 1] if problem.line <= len(lines) else ""
    match = _TOKEN.match(line, problem.column - 1)
    return match.end() + 1 if match else problem.column + 1


@cache
def source_lines(file: str) -> list[str]:
    """The lines of `file` as problems count them; kept until `source_lines.cache_clear()`."""
    path = Path(file)
    try:
        # A link may lead out of the project: what it leads to is not to be shown.
        if path.is_symlink() or not path.is_file():
            return []
        with path.open("rb") as source:
            text = source.read(MAX_BYTES).decode("utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return []
    return text.split("\n") if path.suffix == ".sql" else _LINE_END.split(text)


def _printable(text: str) -> str:
    """`text` without what would move the cursor, colour the terminal or turn the reading direction."""
    return "".join(
        _TAB if char == "\t" else char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _cut(before: str, token: str, after: str, room: int) -> tuple[str, str, str]:
    if _cells(before + token + after) <= room:
        return before, token, after
    if _cells(before) > _BEFORE:
        while _cells(before) > _BEFORE - 1:
            before = before[max(1, len(before) - _BEFORE) :]
        before = "…" + before
    token = _fitting(token, room - _cells(before))
    return before, token, _fitting(after, room - _cells(before + token))


def _fitting(text: str, room: int) -> str:
    if _cells(text) <= room:
        return text
    text = text[:room]
    while text and _cells(text) > room - 1:
        text = text[:-1]
    return text + "…" if room > 0 else ""


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
