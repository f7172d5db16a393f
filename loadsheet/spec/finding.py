"""A problem before its position is known: a path in the document and what is wrong there."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, both from 1."""

_PLAIN = re.compile(r"[\w-]+")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong at `path`; `at` says whether to point at the key, at its value, or at a known position."""

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
            name = step if _PLAIN.fullmatch(step) else json.dumps(step, ensure_ascii=False)
            text += f".{name}" if text else name
    return text
