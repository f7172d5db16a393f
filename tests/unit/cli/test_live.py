"""What a run shows on a terminal while it goes on."""

from __future__ import annotations

import io

from rich.console import Console

from loadsheet.cli.live import Bars, Lines
from loadsheet.plan.steps import Step

STEP = Step(kind="load", name="odd [red]name")


def test_a_running_step_has_a_bar_with_its_rows() -> None:
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=200, color_system=None)) as bars:
        bars.started(STEP)
        bars.moved(STEP, 1_234_567, 89_000_000)
    assert STEP.id in screen.getvalue()
    assert "1,234,567 rows, 89.0 MB" in screen.getvalue()


def test_a_wait_for_a_retry_is_told_above_the_bars() -> None:
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=200, color_system=None)) as bars:
        bars.started(STEP)
        bars.waiting(STEP, "retry 1 of 2 in 30 s: it [is] full")
    assert f"{STEP.id} retry 1 of 2 in 30 s: it [is] full" in screen.getvalue()
    assert "waiting for its retry" in screen.getvalue()


def test_a_step_that_starts_again_keeps_its_bar() -> None:
    with Bars(Console(file=io.StringIO(), force_terminal=True)) as bars:
        bars.started(STEP)
        bars.waiting(STEP, "retry 1 of 2 in 30 s: full")
        bars.started(STEP)
        bars.moved(STEP, 5, 1)
        bars.ended(STEP, "done", "")
        assert bars._progress.tasks == []


def test_a_late_word_on_an_ended_step_is_ignored() -> None:
    with Bars(Console(file=io.StringIO(), force_terminal=True)) as bars:
        bars.started(STEP)
        bars.ended(STEP, "done", "")
        bars.moved(STEP, 1, 1)
        bars.ended(STEP, "done", "")


def test_a_log_gets_the_first_line_of_a_message() -> None:
    log = io.StringIO()
    with Lines(Console(file=log, width=20)) as lines:
        lines.started(STEP)
        lines.ended(STEP, "failed", "relation [bold]x[/bold] does not exist\nLINE 1: ...")
        lines.ended(STEP, "upstream_failed", "")
    assert log.getvalue().splitlines() == [
        f"{STEP.id} started",
        f"{STEP.id} failed: relation [bold]x[/bold] does not exist",
        f"{STEP.id} upstream failed",
    ]
