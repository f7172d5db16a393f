"""The limit of time of a step, and of what it limits further."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from loadsheet.deadline import limited, remaining, watch
from loadsheet.errors import TimedOut

MOMENT, HOUR = timedelta(seconds=0.1), timedelta(hours=1)


def test_a_limit_within_a_step_s_ends_with_the_step_s() -> None:
    """It had its whole length, however little the step had left."""
    shut = threading.Event()
    with pytest.raises(TimedOut, match="a question"), limited("a step", MOMENT):
        with limited("a question", HOUR):
            watch(shut.set)
            assert shut.wait(10)
            remaining()
        pytest.fail("the question has no error")


def test_a_limit_that_ends_before_the_step_s_leaves_the_rest() -> None:
    with limited("a step", HOUR):
        with pytest.raises(TimedOut, match="a question"), limited("a question", MOMENT):
            shut = threading.Event()
            watch(shut.set)
            assert shut.wait(10)
            remaining()
        assert remaining() > 3000


def test_where_a_step_has_no_time_left_nothing_begins() -> None:
    with pytest.raises(TimedOut, match="a step"), limited("a step", MOMENT):
        shut = threading.Event()
        watch(shut.set)
        assert shut.wait(10)
        with limited("a question", HOUR):
            pytest.fail("it began")
