"""The progress of a run on a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from loadsheet.cli.progress import MOST_TROUBLES, Pace, Silence, on_a_short_line
from loadsheet.plan.steps import Step
from loadsheet.redact import on_one_line
from loadsheet.wording import counted


class Bars(Silence):
    """One moving line for each running step, and one for the whole run. All of them disappear when
    the run ends: the summary replaces them."""

    def __init__(self, out: Console, steps: int = 0):
        # No percentage: how many rows are new is known only when they have been read.
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            TextColumn("{task.fields[amount]}", justify="right"),
            TextColumn("{task.fields[speed]}", justify="right"),
            TextColumn("{task.fields[size]}", justify="right"),
            TimeElapsedColumn(),
            console=out,
            transient=True,
            expand=True,
            refresh_per_second=5,
        )
        self._steps = steps
        self._ended = 0
        self._waits = 0
        self._tasks: dict[str, TaskID] = {}
        self._pace: dict[str, Pace] = {}
        self._whole = self._add("")
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def started(self, step: Step) -> None:
        self._pace[step.id] = Pace()
        if step.id in self._tasks:  # a retry
            self._progress.update(self._tasks[step.id], amount="", speed="", size="")
        else:
            self._tasks[step.id] = self._add(f"{step.kind.replace('_', ' ')} {step.name}")
        self._show_whole()

    def moved(self, step: Step, rows: int | None, size: int) -> None:
        if step.id in self._tasks:
            pace = self._pace[step.id]
            pace.moved(rows, size)
            task = self._tasks[step.id]
            self._progress.update(task, amount=pace.amount, speed=pace.speed, size=pace.size)
            self._show_whole()

    def waiting(self, step: Step, message: str) -> None:
        if step.id in self._tasks:
            self._progress.update(
                self._tasks[step.id], amount="waiting for its retry", speed="", size=""
            )
            self._waits += 1
            if self._waits <= MOST_TROUBLES:  # the summary has the failures
                text = on_one_line(on_a_short_line(f"{step.id} {message}"))
                self._progress.console.print(Text(text))

    def ended(self, step: Step, status: str, message: str) -> None:
        self._ended += 1
        if step.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(step.id))
        self._show_whole()

    def _add(self, what: str) -> TaskID:
        return self._progress.add_task(escape(what), total=None, amount="", speed="", size="")

    def _show_whole(self) -> None:
        """Count rows when they arrive in the warehouse, bytes when they leave the source."""
        rows = 0
        size = 0
        for step_id, pace in list(self._pace.items()):  # a copy: other threads add to it
            if step_id.startswith("load."):
                rows += pace.rows or 0
            elif step_id.startswith("extract."):
                size += pace.bytes
        whole = Pace(self._since, rows or None, size)
        self._progress.update(
            self._whole,
            description=f"{self._ended} of {counted(self._steps, 'step')}",
            amount=whole.amount,
            speed=whole.speed,
            size=whole.size,
        )
