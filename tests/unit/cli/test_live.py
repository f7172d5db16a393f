"""What a run shows on a terminal while it goes on."""

from __future__ import annotations

import io
import re

from rich.console import Console

from loadsheet.cli.progress import MOST_TROUBLES, Lines
from loadsheet.cli.progress_bars import Bars
from loadsheet.plan.steps import Step

STEP = Step(kind="load", name="odd [red]name")


def test_a_running_step_has_a_bar_with_its_rows() -> None:
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=200, color_system=None), 3) as bars:
        bars.started(STEP)
        bars.moved(STEP, 1_234_567, 89_000_000)
    assert "load odd [red]name" in screen.getvalue() and "0 of 3 steps" in screen.getvalue()
    assert re.search(r"1,234,567 rows +[\d,]+ rows/s +89\.0 MB +0:00:00", screen.getvalue())


def test_a_line_fits_a_terminal_of_80_columns() -> None:
    screen = io.StringIO()
    long = Step(kind="extract", name="a_table_with_quite_a_long_name_for_a_table")
    with Bars(Console(file=screen, force_terminal=True, width=80, color_system=None), 3) as bars:
        bars.started(long)
        bars.moved(long, 123_456_789, 98_700_000_000)
    lines = [
        re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line)
        for line in re.split(r"[\r\n]", screen.getvalue())
    ]
    assert max(map(len, lines)) == 80
    assert any("extract a_table" in line and "123,456,789 rows" in line for line in lines)


def test_bytes_a_second_are_told_while_nobody_has_counted_rows() -> None:
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=200, color_system=None), 3) as bars:
        bars.started(STEP)
        bars.moved(STEP, None, 5_000_000)
    assert re.search(r" MB/s +5\.0 MB", screen.getvalue())


def test_a_log_is_told_how_far_a_long_step_is() -> None:
    log = io.StringIO()
    lines = Lines(Console(file=log, width=200), verbose=True, every=0.0)
    lines.started(STEP)
    lines.moved(STEP, 1_000, 2_000_000)
    lines.ended(STEP, "done", "")
    lines.moved(STEP, 2_000, 2_000_000)  # a late word
    told = log.getvalue().splitlines()
    assert len(told) == 3 and re.fullmatch(
        rf"{re.escape(STEP.id)} at 1,000 rows, 2\.0 MB, [\d,]+ rows/s", told[1]
    )


def test_a_log_is_told_nothing_of_a_short_step_in_between() -> None:
    log = io.StringIO()
    lines = Lines(Console(file=log, width=200), 3)
    lines.started(STEP)
    lines.moved(STEP, 1_000, 2_000_000)
    lines.ended(STEP, "done", "1,000 rows")
    assert log.getvalue() == ""  # the summary has it


def test_a_log_is_told_how_far_a_long_run_of_short_steps_is() -> None:
    log = io.StringIO()
    lines = Lines(Console(file=log, width=200), 3, every=0.0)
    lines.started(STEP)
    lines.ended(STEP, "skipped", "nothing new")
    assert log.getvalue() == "1 of 3 steps\n"


def test_of_a_thousand_failures_a_log_is_told_some() -> None:
    log = io.StringIO()
    lines = Lines(Console(file=log, width=200), 1_000)
    for _ in range(1_000):
        lines.ended(STEP, "failed", "x" * 1_000_000)
    assert len(log.getvalue().splitlines()) == MOST_TROUBLES + 1
    assert len(log.getvalue()) < 300 * MOST_TROUBLES


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
        assert len(bars._progress.tasks) == 1  # the run's own


def test_a_late_word_on_an_ended_step_is_ignored() -> None:
    with Bars(Console(file=io.StringIO(), force_terminal=True)) as bars:
        bars.started(STEP)
        bars.ended(STEP, "done", "")
        bars.moved(STEP, 1, 1)
        bars.ended(STEP, "done", "")


def test_a_log_gets_the_first_line_of_a_message() -> None:
    log = io.StringIO()
    with Lines(Console(file=log, width=20), verbose=True) as lines:
        lines.started(STEP)
        lines.ended(STEP, "failed", "relation [bold]x[/bold] does not exist\nLINE 1: ...")
        lines.ended(STEP, "upstream_failed", "")
    assert log.getvalue().splitlines() == [
        f"{STEP.id} started",
        f"{STEP.id} failed: relation [bold]x[/bold] does not exist",
        f"{STEP.id} upstream failed",
    ]
