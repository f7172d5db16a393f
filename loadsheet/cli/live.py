"""A run on the screen while it goes on: bars on a terminal, lines in a log, nothing for a script."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from loadsheet.plan.steps import Step
from loadsheet.visible import on_one_line, visible


class Live(Protocol):
    """What is told of a run while it goes on; calls come from any thread."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def started(self, step: Step) -> None: ...
    def moved(self, step: Step, rows: int | None, size: int) -> None: ...
    def waiting(self, step: Step, message: str) -> None: ...
    def ended(self, step: Step, status: str, message: str) -> None: ...


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def started(self, step: Step) -> None: ...
    def moved(self, step: Step, rows: int | None, size: int) -> None: ...
    def waiting(self, step: Step, message: str) -> None: ...
    def ended(self, step: Step, status: str, message: str) -> None: ...


class Lines(Silence):
    """A line when a step starts and when it has ended; of a long one also how far it is, every half minute."""

    def __init__(self, out: Console, every: float = 30.0):
        self._out, self._every = out, every
        self._pace: dict[str, _Pace] = {}
        self._told: dict[str, float] = {}

    def started(self, step: Step) -> None:
        self._pace[step.id] = _Pace()
        self._told[step.id] = time.monotonic()
        self._say(f"{step.id} started")

    def moved(self, step: Step, rows: int | None, size: int) -> None:
        if step.id in self._told and time.monotonic() - self._told[step.id] >= self._every:
            self._told[step.id] = time.monotonic()
            pace = self._pace[step.id]
            pace.moved(rows, size)
            self._say(f"{step.id} at {', '.join(filter(None, (pace.amount, pace.size, pace.speed)))}")

    def waiting(self, step: Step, message: str) -> None:
        self._say(f"{step.id} {message}")

    def ended(self, step: Step, status: str, message: str) -> None:
        self._told.pop(step.id, None)
        first_line = message.partition("\n")[0]  # the summary has them all
        self._say(f"{step.id} {status.replace('_', ' ')}" + (f": {first_line}" if first_line else ""))

    def _say(self, text: str) -> None:
        self._out.print(Text(on_one_line(text)), soft_wrap=True)


class Bars(Silence):
    """One moving line per running step, gone when it has ended, and one for the whole run; the summary follows."""

    def __init__(self, out: Console, steps: int = 0):
        # Of a step no total: how many rows are new is only known when they have been read.
        columns = [TextColumn(f"{{task.fields[{name}]}}", justify="right") for name in ("amount", "speed", "size")]
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)), *columns,
            TimeElapsedColumn(), console=out, transient=True, expand=True, refresh_per_second=5,
        )  # fmt: skip
        self._steps, self._ended = steps, 0
        self._tasks: dict[str, TaskID] = {}
        self._pace: dict[str, _Pace] = {}
        self._whole = self._add("")
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, step: Step) -> None:
        self._pace[step.id] = _Pace()
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
            self._progress.update(self._tasks[step.id], amount="waiting for its retry", speed="", size="")
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
        whole = _Pace(self._since, rows or None, size)
        self._progress.update(
            self._whole, description=f"{self._ended} of {self._steps} steps", amount=whole.amount, speed=whole.speed,
            size=whole.size,
        )  # fmt: skip


@dataclass
class _Pace:
    """How far something is, and how fast."""

    since: float = field(default_factory=time.monotonic)
    rows: int | None = None
    bytes: int = 0

    def moved(self, rows: int | None, size: int) -> None:
        self.rows, self.bytes = rows, size

    @property
    def amount(self) -> str:
        return "" if self.rows is None else f"{self.rows:,} rows"

    @property
    def size(self) -> str:
        return f"{self.bytes / 1e6:,.1f} MB" if self.bytes else ""

    @property
    def speed(self) -> str:
        """Rows a second; where nobody has counted rows yet, bytes."""
        seconds = max(time.monotonic() - self.since, 0.001)
        if self.rows is not None:
            return f"{self.rows / seconds:,.0f} rows/s"
        return f"{self.bytes / 1e6 / seconds:,.1f} MB/s" if self.bytes else ""
