"""A problem before its position is known: a path in the document and what is wrong there."""

from __future__ import annotations

import json
import re
from dataclasses import KW_ONLY, dataclass
from typing import Literal

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, both from 1."""

_PLAIN = re.compile(r"[\w-]+")
_LONGEST = 80


@dataclass(frozen=True)
class Finding:
    """What is wrong at `path`; `at` says whether to point at the key, at its value, or at a known position."""

    code: str
    """The rule that is broken, as `spec.codes` calls it."""
    _: KW_ONLY
    path: Path
    message: str
    hint: str = ""
    at: Literal["key", "value"] | Mark = "value"
    severity: Literal["error", "warning"] = "error"


def dotted(path: Path) -> str:
    """`tables.flights.primary_key[1]`; a key that is not a plain word is quoted, so the path stays one line."""
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
    """Text that may quote a multi-line value, as one line: problems are read line by line, by people and by scripts."""
    return text.replace("\n", "\\n").replace("\r", "\\r")
