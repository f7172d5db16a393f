"""A problem in a pipeline file: where it is, what was expected, and what to do."""

from __future__ import annotations

import json
import re
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal

from loadsheet.redact import on_one_line

KeyPath = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, both from 1."""

_PLAIN = re.compile(r"[\w-]+")
_LONGEST = 80


@dataclass(frozen=True)
class Finding:
    """What is wrong at `path`; `at` says whether to point at the key, at its value, or at a known
    position."""

    code: str
    """The rule that is broken, as `spec.codes` calls it."""
    _: KW_ONLY
    path: KeyPath
    message: str
    hint: str = ""
    at: Literal["key", "value"] | Mark = "value"
    severity: Literal["error", "warning"] = "error"


def dotted(path: KeyPath) -> str:
    """`tables.flights.primary_key[1]`; a key that is not a plain word is quoted, so the path stays
    one line."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            step = step if len(step) <= _LONGEST else f"{step[:_LONGEST]}…"
            name = step if _PLAIN.fullmatch(step) else json.dumps(step, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


def one_line(text: str) -> str:
    """Text that may quote a multi-line value, as one line: problems are read line by line, by
    people and by scripts."""
    return text.replace("\n", "\\n").replace("\r", "\\r")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Where a file is wrong, what was expected, and what to do. `line` and `column` count from
    1."""

    file: str
    line: int
    column: int
    path: str
    """Dotted path in the document, e.g. `tables.flights.mode`; empty for the file as a whole."""
    message: str
    hint: str = ""
    code: str = ""
    """The rule that is broken, as `spec.codes` calls it."""
    severity: str = "error"
    """`error` (exit code 2) or `warning` (shown, exit code 0)."""

    def __str__(self) -> str:
        where = f"{on_one_line(self.file)}:{self.line}:{self.column}"
        label = "warning: " if self.severity == "warning" else ""
        message = on_one_line(self.message)
        head = (
            f"{where} {on_one_line(self.path)}: {label}{message}"
            if self.path
            else f"{where} {label}{message}"
        )
        return f"{head}\n  hint: {on_one_line(self.hint)}" if self.hint else head

    def as_dict(self) -> dict[str, Any]:
        """The problem as plain values for `--format json`."""
        return asdict(self)
