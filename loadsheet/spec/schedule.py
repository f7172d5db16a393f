"""Times as people write them in a pipeline file: cron schedules, frequencies such as `10 runs`, and
durations such as `30s`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise

from loadsheet.names import closest

PRESETS = ("@once", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
# Those that croniter does not know.
_PRESETS_OF_AIRFLOW = {"@quarterly": "0 0 1 */3 *"}
_ALIASES = {"@midnight": "@daily", "@annually": "@yearly"}
_FIRES = 60
# Characters of a schedule. Airflow's cron library takes seconds for a list of a megabyte.
_LONGEST = 200


# Each field's name, and its values besides `*`, lists, ranges and steps.
_FIELDS = (
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31 or L"),
    ("month", "1-12 or JAN-DEC"),
    ("day of week", "0-7 or SUN-SAT"),
)

_EXAMPLE = (
    'minute, hour, day of month, month, day of week: "30 5 * * MON-FRI" is 5:30 on working days'
)

_DURATION = re.compile(r"^[0-9]+(\.[0-9]+)?(s|m|h|d)$")
_RUNS = re.compile(r"([1-9][0-9]{0,5}) runs?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadSchedule(ValueError):
    """Not a schedule; the message names the wrong part, `hint` shows how to write it."""

    def __init__(self, message: str, hint: str = _EXAMPLE):
        super().__init__(message)
        self.hint = hint


def check_schedule(text: str) -> None:
    """Accept a preset, or five cron fields that Airflow's own cron library reads and that fire at
    some time. Raises BadSchedule for anything else."""
    if text in PRESETS:
        return
    fields = text.split()
    if text.startswith("@") or len(fields) <= 1:
        word = "@" + text.strip().lstrip("@").lower()
        meant = _ALIASES.get(word) or closest(word, PRESETS)
        hint = f"presets: {', '.join(PRESETS)}"
        if meant:
            hint = f'did you mean "{meant}"?'
        raise BadSchedule(f"unknown schedule {text!r}", hint)
    if len(text) > _LONGEST:
        raise BadSchedule(f"a schedule must not have more than {_LONGEST} characters")
    if len(fields) != len(_FIELDS):
        raise BadSchedule(f"expected 5 cron fields, found {len(fields)}")
    # Each field by itself first: croniter's message about all five does not name the wrong one.
    for place, part in enumerate(fields):
        _check_field(place, part)
    # Imported here: it takes 28 ms, and presets do not need it.
    from croniter import CroniterBadCronError, CroniterBadDateError, croniter

    try:
        croniter(text).get_next()  # looks 50 years ahead, as it does in Airflow
    except CroniterBadDateError:
        raise BadSchedule(
            "this schedule never fires: these months do not have this day",
            "check the day of month and the month",
        ) from None
    except CroniterBadCronError as error:
        raise BadSchedule(f"Airflow cannot read this schedule: {error}") from None


def check_frequency(text: str) -> None:
    """Accept a number of runs (`10 runs`), or a schedule that fires again and again. Raises
    BadSchedule for anything else."""
    if number_of_runs(text) is not None:
        return
    if text == "@once":
        raise BadSchedule("@once does not repeat", 'write a schedule such as "@weekly"')
    if text.isdigit() or re.search(r"\bruns?\b", text):
        raise BadSchedule(f"unknown number of runs {text!r}", "write 10 runs, or 1 run for each")
    check_schedule(text)


def number_of_runs(text: str) -> int | None:
    """10 for `10 runs`; None for a schedule."""
    found = _RUNS.fullmatch(text)
    return int(found[1]) if found else None


@cache
def longest_gap(schedule: str) -> timedelta | None:
    """The longest time between two of the times at which the cron schedule or preset fires, of some
    60 of them; None for @once. Raises croniter's errors for what is no schedule."""
    if schedule == "@once":
        return None
    from croniter import croniter

    # From a fixed day, so that a check finds the same at any time: a Thursday, before a weekend.
    times = croniter(_PRESETS_OF_AIRFLOW.get(schedule, schedule), datetime(2026, 1, 1))
    fires: list[datetime] = [times.get_next(datetime) for _ in range(_FIRES)]
    return max(later - earlier for earlier, later in pairwise(fires))


def last_fire(schedule: str, moment: datetime) -> datetime:
    """The last time at or before `moment` at which the cron schedule or preset (not `@once`) fires;
    times are in UTC."""
    from croniter import croniter

    expression = _PRESETS_OF_AIRFLOW.get(schedule, schedule)
    # croniter looks strictly before a time, and by whole seconds.
    after = moment.replace(microsecond=0) + timedelta(seconds=1)
    found: datetime = croniter(expression, after).get_prev(datetime)
    return found


def _check_field(place: int, part: str) -> None:
    """Check one field alone, so that the message can name it."""
    from croniter import CroniterBadCronError, croniter

    parts = ["*"] * len(_FIELDS)
    parts[place] = part
    try:
        croniter(" ".join(parts))
    except CroniterBadCronError:
        is_valid = False
    else:
        # croniter's `R` is another random value in each process that parses the file.
        is_valid = "R" not in re.sub("MAR|APR|FRI|THUR", "", part.upper())
    if not is_valid:
        name, values = _FIELDS[place]
        raise BadSchedule(f"the {name} {part!r} is not valid: expected {values}")


def seconds(text: str) -> float:
    """`15m` -> 900.0. Raises ValueError when `text` is not a duration."""
    if not _DURATION.match(text):
        raise ValueError(f"not a duration: {text!r} (write 30s, 15m, 1h or 2d)")
    return float(text[:-1]) * _SECONDS[text[-1]]


def duration(text: str) -> timedelta:
    """`15m` -> 15 minutes. Raises ValueError when `text` is not a duration."""
    return timedelta(seconds=seconds(text))


def in_hours(length: timedelta) -> str:
    """26 hours as `26h`; below an hour in minutes."""
    minutes = length // timedelta(minutes=1)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h"


def is_number(text: str) -> bool:
    """Whether `text` is a plain number, as the lookback of a numeric cursor is."""
    return re.match(r"^[0-9]+(\.[0-9]+)?$", text) is not None
