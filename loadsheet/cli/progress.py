"""The progress of a run: lines in a log, nothing for a script. The bars of a terminal are in
`progress_bars`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from loadsheet.plan.steps import Step
from loadsheet.redact import on_one_line

if TYPE_CHECKING:
    from rich.console import Console


class Live(Protocol):
    """What is told of a run while it goes on; calls come from any thread."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
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
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def started(self, step: Step) -> None: ...
    def moved(self, step: Step, rows: int | None, size: int) -> None: ...
    def waiting(self, step: Step, message: str) -> None: ...
    def ended(self, step: Step, status: str, message: str) -> None: ...


class Lines(Silence):
    """A line when a step starts and when it has ended; of a long one also how far it is, every half
    minute."""

    def __init__(self, out: Console, every: float = 30.0):
        self._out, self._every = out, every
        self._pace: dict[str, Pace] = {}
        self._told: dict[str, float] = {}

    def started(self, step: Step) -> None:
        self._pace[step.id] = Pace()
        self._told[step.id] = time.monotonic()
        self._say(f"{step.id} started")

    def moved(self, step: Step, rows: int | None, size: int) -> None:
        if step.id in self._told and time.monotonic() - self._told[step.id] >= self._every:
            self._told[step.id] = time.monotonic()
            pace = self._pace[step.id]
            pace.moved(rows, size)
            self._say(
                f"{step.id} at {', '.join(filter(None, (pace.amount, pace.size, pace.speed)))}"
            )

    def waiting(self, step: Step, message: str) -> None:
        self._say(f"{step.id} {message}")

    def ended(self, step: Step, status: str, message: str) -> None:
        self._told.pop(step.id, None)
        first_line = message.partition("\n")[0]  # the summary has them all
        self._say(
            f"{step.id} {status.replace('_', ' ')}" + (f": {first_line}" if first_line else "")
        )

    def _say(self, text: str) -> None:
        from rich.text import Text

        self._out.print(Text(on_one_line(text)), soft_wrap=True)


@dataclass
class Pace:
    """How far something is, and how fast."""

    since: float = field(default_factory=time.monotonic)
    rows: int | None = None
    bytes: int = 0

    def moved(self, rows: int | None, size: int) -> None:
        """So far `rows` (None: not counted) and `size` bytes have moved."""
        self.rows, self.bytes = rows, size

    @property
    def amount(self) -> str:
        """The rows."""
        return "" if self.rows is None else f"{self.rows:,} rows"

    @property
    def size(self) -> str:
        """The bytes."""
        return f"{self.bytes / 1e6:,.1f} MB" if self.bytes else ""

    @property
    def speed(self) -> str:
        """Rows a second; where rows are not counted yet, bytes."""
        seconds = max(time.monotonic() - self.since, 0.001)
        if self.rows is not None:
            return f"{self.rows / seconds:,.0f} rows/s"
        return f"{self.bytes / 1e6 / seconds:,.1f} MB/s" if self.bytes else ""
