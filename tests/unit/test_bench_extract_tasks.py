"""The simulation of several tasks that read one table keeps to its limits."""

from __future__ import annotations

import pytest

from bench.extract_tasks import SHAPES, STARTING_SECONDS, Limits, seconds

MEGABYTES = 105_000.0


@pytest.mark.parametrize("limits", SHAPES.values(), ids=SHAPES)
def test_one_task_is_as_fast_as_its_narrowest_limit(limits: Limits) -> None:
    speed = min(2 * limits.session, limits.worker, limits.source)
    assert seconds(MEGABYTES, 1, limits) == pytest.approx(MEGABYTES / speed)


@pytest.mark.parametrize("limits", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("tasks", [2, 4, 16])
def test_more_tasks_are_never_slower_and_never_faster_than_all_limits(
    limits: Limits, tasks: int
) -> None:
    took = seconds(MEGABYTES, tasks, limits)
    speed = min(tasks * min(2 * limits.session, limits.worker), limits.source)
    assert MEGABYTES / speed <= took * (1 + 1e-9)
    assert took <= seconds(MEGABYTES, 1, limits) * (1 + 1e-9)


def test_a_table_that_one_task_reads_before_the_others_start_gains_nothing() -> None:
    limits = SHAPES["a worker is the limit"]
    small = limits.worker * STARTING_SECONDS
    assert seconds(small, 8, limits) == pytest.approx(seconds(small, 1, limits))
