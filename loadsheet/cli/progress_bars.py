"""A run on a terminal while it goes on."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from loadsheet.cli.progress import Pace, Silence
from loadsheet.plan.steps import Step
from loadsheet.redact import visible


class Bars(Silence):
    """One moving line per running step, gone when it has ended, and one for the whole run; the
    summary follows."""

    def __init__(self, out: Console, steps: int = 0):
        # Of a step no total: how many rows are new is only known when they have been read.
        columns = [
            TextColumn(f"{{task.fields[{name}]}}", justify="right")
            for name in ("amount", "speed", "size")
        ]
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            *columns,
            TimeElapsedColumn(),
            console=out,
            transient=True,
            expand=True,
            refresh_per_second=5,
        )
        self._steps, self._ended = steps, 0
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
        if step.id in self._tasks:  # again, after a wait
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
            self._progress.console.print(Text(visible(f"{step.id} {message}")), soft_wrap=True)

    def ended(self, step: Step, status: str, message: str) -> None:
        self._ended += 1
        if step.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(step.id))
        self._show_whole()

    def _add(self, what: str) -> TaskID:
        return self._progress.add_task(escape(what), total=None, amount="", speed="", size="")

    def _show_whole(self) -> None:
        """Rows as they arrive in the warehouse, bytes as they leave the source."""
        paces = list(self._pace.items())
        rows = sum(pace.rows or 0 for name, pace in paces if name.startswith("load."))
        size = sum(pace.bytes for name, pace in paces if name.startswith("extract."))
        whole = Pace(self._since, rows or None, size)
        self._progress.update(
            self._whole,
            description=f"{self._ended} of {self._steps} steps",
            amount=whole.amount,
            speed=whole.speed,
            size=whole.size,
        )
