"""A place in SQL as people find it: line, column, and the line with a caret."""

from __future__ import annotations

import re
from dataclasses import dataclass

from loadsheet.redact import mask_line, on_one_line

_WIDTH = 70  # characters of the line: it is shown indented
_BEFORE = 30  # of them before the place, where the line has to be cut
_WORD = re.compile(r'"[^"\n]{1,60}"|\w{1,60}|.')


@dataclass(frozen=True)
class Excerpt:
    """Line and column, both from 1, and the two lines to show."""

    line: int
    column: int
    text: str


def excerpt(sql: str, offset: int) -> Excerpt:
    """The place of the character `offset` (from 0) in `sql`. Secrets in the line are masked."""
    before = sql[:offset]
    number = before.count("\n") + 1
    start = before.rfind("\n") + 1
    column = offset - start
    line = mask_line(sql[start:].partition("\n")[0].rstrip("\r")).replace("\t", " ")
    word = _WORD.match(line, column)
    end = word.end() if word else column + 1
    cut = max(0, column - _BEFORE) if len(line) > _WIDTH else 0
    shown = line[cut : cut + _WIDTH]
    head = f"{number:>4} | "
    if cut:
        head += "…"
    if cut + _WIDTH < len(line):
        shown += "…"
    # Escapes make what is before the place longer.
    blanks = " " * (len(head) - 7 + len(on_one_line(line[cut:column])))
    carets = "^" * max(1, min(end, cut + _WIDTH) - column)
    return Excerpt(number, column + 1, f"{head}{on_one_line(shown)}\n     | {blanks}{carets}")
