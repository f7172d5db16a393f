"""When a digest is due: once in each day of its time zone, whatever the clocks do there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from loadsheet.freshness.day import last_due


@pytest.mark.parametrize(
    ("at", "now", "due"),
    [
        ("08:00", "2026-01-02T08:00", "2026-01-02T08:00"),
        ("08:00", "2026-01-02T07:59", "2026-01-01T08:00"),
        ("07:30 Europe/Berlin", "2026-01-02T06:29", "2026-01-01T06:30"),
        ("07:30 Europe/Berlin", "2026-07-02T05:30", "2026-07-02T05:30"),
        # It is the day before there, or the day after.
        ("20:00 America/New_York", "2026-01-02T00:59", "2026-01-01T01:00"),
        ("08:00 Pacific/Auckland", "2026-01-01T19:00", "2026-01-01T19:00"),
        # The hour that clocks leave out, and the one that they have twice.
        ("02:30 Europe/Berlin", "2026-03-29T12:00", "2026-03-29T01:30"),
        ("02:30 Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:30"),
    ],
)
def test_the_last_time_until_now(at: str, now: str, due: str) -> None:
    found = last_due(at, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(due).replace(tzinfo=UTC)


ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia")


def dues(at: str, start: datetime, days: int) -> list[datetime]:
    """Each time that a look every 20 minutes finds."""
    looks = [start + timedelta(minutes=20 * number) for number in range(days * 72)]
    return list(dict.fromkeys(last_due(at, look) for look in looks))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("clock", ["00:00", "02:15", "23:45"])
def test_a_year_has_one_for_each_day(zone: str, clock: str) -> None:
    """Also with a look every 20 minutes, and in the weeks in which clocks change."""
    for month in (3, 4, 9, 10, 11):
        start = datetime(2026, month, 1, 12, tzinfo=UTC)
        found = dues(f"{clock} {zone}", start, days=28)
        assert found == sorted(found) and len(found) in (28, 29)
        apart = {later - earlier for earlier, later in pairwise(found)}
        assert apart <= {timedelta(hours=hours / 2) for hours in range(44, 53)}


def test_every_24_hours_would_drift() -> None:
    """The negative control: after the clocks change it would be another time of day."""
    before = last_due("08:00 Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC))
    after = last_due("08:00 Europe/Berlin", datetime(2026, 3, 29, 12, tzinfo=UTC))
    assert before + timedelta(hours=24) != after
