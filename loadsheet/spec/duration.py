"""Durations as people write them in a spec: `30s`, `15m`, `1h`, `2d`."""

from __future__ import annotations

import re
from datetime import timedelta

PATTERN = r"^[0-9]+(\.[0-9]+)?(s|m|h|d)$"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """`15m` -> 900.0. Raises ValueError when `text` is not a duration."""
    if not re.match(PATTERN, text):
        raise ValueError(f"not a duration: {text!r} (write 30s, 15m, 1h or 2d)")
    return float(text[:-1]) * _SECONDS[text[-1]]


def duration(text: str) -> timedelta:
    """`15m` -> 15 minutes. Raises ValueError when `text` is not a duration."""
    return timedelta(seconds=seconds(text))


def is_number(text: str) -> bool:
    """Whether `text` is a plain number, as the lookback of a numeric cursor is."""
    return re.match(r"^[0-9]+(\.[0-9]+)?$", text) is not None
