"""Times as whole minutes since the epoch, UTC: cheap to compute with, formatted for PostgreSQL when
written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

HOUR, DAY = 60, 24 * 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def minutes(moment: datetime) -> int:
    """Whole minutes since the epoch."""
    return int((moment - _EPOCH) // timedelta(minutes=1))


def moment(minute: int) -> datetime:
    """The inverse of `minutes`."""
    return _EPOCH + timedelta(minutes=minute)


@lru_cache(maxsize=2048)
def _day(number: int) -> str:
    return str((_EPOCH + timedelta(days=number)).date())


def text(minute: int) -> str:
    """`2017-08-15 15:00:00+00`, as PostgreSQL reads it."""
    day, rest = divmod(minute, DAY)
    return f"{_day(day)} {rest // HOUR:02d}:{rest % HOUR:02d}:00+00"


START = minutes(datetime(2017, 8, 15, 15, 0, tzinfo=UTC))
"""Where the clock of a newly generated source stands (`bookings.now()`)."""
