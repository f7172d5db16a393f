"""How messages count, list names, and stay short."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_TEXT = 4_000
"""Characters of a text that comes from outside, such as a server's message."""
LONGEST_MESSAGE = 2 * LONGEST_TEXT
"""Characters of a message of ours, which may quote such a text and adds advice."""
MOST_NAMES = 10
"""Names of a list that messages show."""

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_SMALLER_UNITS = {"d": ("h", 3_600), "h": ("m", 60)}


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 table`, `2 tables`, `12,000 tables`; `plural` where it is not the noun and an `s`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or noun + 's'}"


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """The names, comma-separated; of many the first ones and how many more there are."""
    if len(names) <= most + 1:  # `and 1 more` would be as long as the name
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


def shortened(text: str, longest: int = LONGEST_TEXT) -> str:
    """`text`, or its beginning with the number of characters that are left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({counted(len(text) - longest, 'more character')})"


def age(seconds: float) -> str:
    """One or two units: `42s`, `12m`, `3h 5m`, `2d 4h`, `30d`; never below zero."""
    whole = max(int(seconds), 0)
    unit, size = next((pair for pair in _UNITS if whole >= pair[1]), _UNITS[-1])
    count, rest = divmod(whole, size)
    if count >= 10 or unit not in _SMALLER_UNITS:
        return f"{count}{unit}"
    smaller, smaller_size = _SMALLER_UNITS[unit]
    more = rest // smaller_size
    return f"{count}{unit} {more}{smaller}" if more else f"{count}{unit}"
