"""Schedules: what Airflow accepts and fires, and words for what it does not."""

from __future__ import annotations

import pytest

from loadsheet.spec.schedule import PRESETS, BadSchedule, check_schedule


@pytest.mark.parametrize(
    "text",
    [
        *PRESETS,
        "* * * * *",
        "*/15 0-6,12,22-3 1-31/2 * 0-7",
        "5/15 * * * *",
        "30 5 * jan-MAR MON-FRI",
        "0 0 L * *",
        "0 0 * * 5#2",
        "0 0 * * FRI#1,MON#2",
        "0 0 * * L5",
        "0 0 29 2 *",
        "0 0 30 2 MON",
        "0 0 31 1,3 *",
        "0 0 1 * MON#1",
        "0 0 ? * *",
        "*/90 * * * *",
    ],
)
def test_a_schedule_that_fires_is_accepted(text: str) -> None:
    check_schedule(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "unknown schedule ''"),
        ("daily", "unknown schedule"),
        ("@reboot", "unknown schedule"),
        ("0 6 * *", "5 cron fields, found 4"),
        ("0 0 6 * * *", "5 cron fields, found 6"),
        ("60 * * * *", "the minute '60'"),
        ("* 24 * * *", "the hour '24'"),
        ("* * 0 * *", "the day of month '0'"),
        ("* * * 13 *", "the month '13'"),
        ("* * * FEBR *", "the month 'FEBR'"),
        ("* * * * 8", "the day of week '8'"),
        ("* * * * XYZ#1", "the day of week 'XYZ#1'"),
        ("*/0 * * * *", "the minute '\\*/0'"),
        ("1,,2 * * * *", "the minute '1,,2'"),
        ("1-2-3 * * * *", "the minute '1-2-3'"),
        ("٣ * * * *", "the minute '٣'"),
        ("0 0 31 2,4,6 *", "never fires"),
        ("R 5 * * *", "the minute 'R'"),
        ("H 5 * * *", "the minute 'H'"),
        ("0-59 " + "1," * 200 + "1 * * *", "more than 200 characters"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, part: str) -> None:
    with pytest.raises(BadSchedule, match=part) as error:
        check_schedule(text)
    assert error.value.hint
