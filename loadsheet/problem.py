"""A problem in a pipeline file: where it is, what was expected, and what to do."""

from __future__ import annotations

import json
import re
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal

from loadsheet.redact import mask_line, on_one_line

KeyPath = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, both from 1."""

_PLAIN = re.compile(r"[\w-]+")
# Characters of a key that a path shows: a key may be as long as a file.
_LONGEST_KEY = 80


@dataclass(frozen=True)
class Finding:
    """A problem before its position is known: what is wrong at a path of the document.

    `spec.strict_yaml.Document.problem` turns it into a Problem.
    """

    code: str
    """The rule that is broken: a key of `spec.rule_catalog.RULES`."""
    _: KW_ONLY
    path: KeyPath
    message: str
    hint: str = ""
    at: Literal["key", "value"] | Mark = "value"
    """Where to point: at the path's key, at its value, or at a position that is already known."""
    severity: Literal["error", "warning"] = "error"


def dotted(path: KeyPath) -> str:
    """`tables.flights.primary_key[1]`; a key that is not a plain word is quoted, so the path stays
    one line."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
            continue
        if text:
            text += "."
        if ":" in step:  # with the space forgotten, a key holds its value, perhaps a password
            step = mask_line(step)
        if len(step) > _LONGEST_KEY:
            step = f"{step[:_LONGEST_KEY]}…"
        if not _PLAIN.fullmatch(step):
            step = json.dumps(step, ensure_ascii=False)
        text += step
    return text


def escape_newlines(text: str) -> str:
    """`text`, which may quote a multi-line value, as one line: people and scripts read problems
    line by line."""
    return text.replace("\n", "\\n").replace("\r", "\\r")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Where a file is wrong, what was expected, and what to do about it."""

    file: str
    line: int
    """From 1, as `column`."""
    column: int
    path: str
    """Dotted path in the document, e.g. `tables.flights.mode`; empty for the file as a whole."""
    message: str
    hint: str = ""
    code: str = ""
    """The rule that is broken: a key of `spec.rule_catalog.RULES`."""
    severity: str = "error"
    """`error` (exit code 2) or `warning` (shown, exit code 0)."""

    def __str__(self) -> str:
        # Names are shown on one line, so that none looks like a line of our output.
        text = f"{on_one_line(self.file)}:{self.line}:{self.column} "
        if self.path:
            text += f"{on_one_line(self.path)}: "
        if self.severity == "warning":
            text += "warning: "
        text += on_one_line(self.message)
        if self.hint:
            text += f"\n  hint: {on_one_line(self.hint)}"
        return text

    def as_dict(self) -> dict[str, Any]:
        """The problem as plain values for `--format json`."""
        return asdict(self)
