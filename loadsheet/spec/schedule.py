"""Times as people write them in a spec: cron schedules, and durations such as `30s` or `2d`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from loadsheet.names import closest

PRESETS = ("@once", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
_ALIASES = {"@midnight": "@daily", "@annually": "@yearly"}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    special: str = r"(?!)"
    """What else the field may hold: `L` (last), `5#2` (the second Friday)."""


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31, special=r"L"),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS, rf"L[0-7]|([0-7]|{'|'.join(_DAYS)})#[1-5]"),
)
_ITEM = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[0-9]{1,3}))?")


_EXAMPLE = (
    'minute, hour, day of month, month, day of week: "30 5 * * MON-FRI" is 5:30 on working days'
)


class BadSchedule(ValueError):
    """Not a schedule; the message says which part and why, `hint` what was meant."""

    def __init__(self, message: str, hint: str = _EXAMPLE):
        super().__init__(message)
        self.hint = hint


def check_schedule(text: str) -> None:
    """Accept a preset or five cron fields. Raises BadSchedule for anything else and for dates that
    never come."""
    if text in PRESETS:
        return
    fields = text.upper().split()
    if text.startswith("@") or len(fields) <= 1:
        word = "@" + text.strip().lstrip("@").lower()
        meant = _ALIASES.get(word) or closest(word, PRESETS)
        hint = f'did you mean "{meant}"?' if meant else f"presets: {', '.join(PRESETS)}"
        raise BadSchedule(f"there is no schedule {text!r}", hint)
    if len(fields) != len(_FIELDS):
        raise BadSchedule(f"expected 5 cron fields, found {len(fields)}")
    values = [_values(field, part) for field, part in zip(_FIELDS, fields, strict=True)]
    if fields[2] != "*" and re.search(r"L[0-7]|#", fields[4]):
        raise BadSchedule(
            "a day of the month excludes a counted weekday such as MON#1",
            "use * for one of the two",
        )
    if (
        fields[4] == "*"
        and "L" not in fields[2]
        and min(values[2]) > max(_LONGEST[m - 1] for m in values[3])
    ):
        raise BadSchedule(
            "this day never comes in these months", "check the day of month and the month"
        )


def _values(field: _Field, part: str) -> set[int]:
    values: set[int] = set()
    for item in part.split(","):
        if not re.fullmatch(field.special, item):
            values |= _range(field, item)
    return values


def _range(field: _Field, item: str) -> set[int]:
    match = _ITEM.fullmatch(item)
    if not match:
        raise BadSchedule(f"{item!r} is not a cron {field.name}")
    if match["step"] and not 1 <= int(match["step"]) <= field.high:
        raise BadSchedule(
            f"the step {match['step']} of the {field.name} is not between 1 and {field.high}"
        )
    if match["all"]:
        return set(range(field.low, field.high + 1, int(match["step"] or 1)))
    first = _number(field, match["first"])
    last = (
        _number(field, match["last"]) if match["last"] else field.high if match["step"] else first
    )
    every = (
        range(first, last + 1)
        if first <= last
        else (*range(first, field.high + 1), *range(field.low, last + 1))
    )
    return set(every[:: int(match["step"] or 1)])


def _number(field: _Field, text: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.low
    if not re.fullmatch(r"[0-9]{1,2}", text) or not field.low <= int(text) <= field.high:
        names = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
        raise BadSchedule(
            f"the {field.name} {text!r} is not between {field.low} and {field.high}{names}"
        )
    return int(text)


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
