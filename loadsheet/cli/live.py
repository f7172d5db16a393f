"""A run on the screen while it goes on: bars on a terminal, lines in a log, nothing for a script."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
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
    """A line when a step starts and when it has ended."""

    def __init__(self, out: Console):
        self._out = out

    def started(self, step: Step) -> None:
        self._say(f"{step.id} started")

    def waiting(self, step: Step, message: str) -> None:
        self._say(f"{step.id} {message}")

    def ended(self, step: Step, status: str, message: str) -> None:
        first_line = message.partition("\n")[0]  # the summary has them all
        self._say(f"{step.id} {status.replace('_', ' ')}" + (f": {first_line}" if first_line else ""))

    def _say(self, text: str) -> None:
        self._out.print(Text(on_one_line(text)), soft_wrap=True)


class Bars(Silence):
    """One moving line per running step, gone when it has ended; the summary follows."""

    def __init__(self, out: Console):
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(),
            TextColumn("{task.fields[moved]}"), console=out, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, step: Step) -> None:
        # No total: how many rows are new is only known when they have been read.
        if step.id in self._tasks:  # again, after a wait
            self._progress.update(self._tasks[step.id], moved="")
        else:
            self._tasks[step.id] = self._progress.add_task(step.id, total=None, moved="")

    def moved(self, step: Step, rows: int | None, size: int) -> None:
        if step.id in self._tasks:
            self._progress.update(self._tasks[step.id], moved=_moved(rows, size))

    def waiting(self, step: Step, message: str) -> None:
        if step.id in self._tasks:
            self._progress.update(self._tasks[step.id], moved="waiting for its retry")
            self._progress.console.print(Text(visible(f"{step.id} {message}")), soft_wrap=True)

    def ended(self, step: Step, status: str, message: str) -> None:
        if step.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(step.id))


def _moved(rows: int | None, size: int) -> str:
    return ("" if rows is None else f"{rows:,} rows, ") + f"{size / 1e6:,.1f} MB"
