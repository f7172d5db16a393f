"""The progress of a run: lines for a log, nothing for a script. The bars of a terminal are in
`progress_bars`, because they import Rich."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from loadsheet.plan.steps import Step
from loadsheet.redact import on_one_line
from loadsheet.wording import counted

if TYPE_CHECKING:
    from rich.console import Console


class Live(Protocol):
    """Shows a run while its steps run. The methods are called from any thread."""

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
    """A line when a step starts and when it ends, and for a long one every `every` seconds how far
    it is."""

    def __init__(self, out: Console, every: float = 30.0):
        self._out = out
        self._every = every
        self._pace: dict[str, Pace] = {}
        self._last_line_at: dict[str, float] = {}
        """Of the steps that run."""

    def started(self, step: Step) -> None:
        self._pace[step.id] = Pace()
        self._last_line_at[step.id] = time.monotonic()
        self._print(f"{step.id} started")

    def moved(self, step: Step, rows: int | None, size: int) -> None:
        last = self._last_line_at.get(step.id)
        if last is None or time.monotonic() - last < self._every:
            return
        self._last_line_at[step.id] = time.monotonic()
        pace = self._pace[step.id]
        pace.moved(rows, size)
        parts = filter(None, (pace.amount, pace.size, pace.speed))
        self._print(f"{step.id} at {', '.join(parts)}")

    def waiting(self, step: Step, message: str) -> None:
        self._print(f"{step.id} {message}")

    def ended(self, step: Step, status: str, message: str) -> None:
        self._last_line_at.pop(step.id, None)
        text = f"{step.id} {status.replace('_', ' ')}"
        first_line = message.partition("\n")[0]  # the summary has all lines
        if first_line:
            text += f": {first_line}"
        self._print(text)

    def _print(self, text: str) -> None:
        from rich.text import Text

        self._out.print(Text(on_one_line(text)), soft_wrap=True)


@dataclass
class Pace:
    """How far a step or a run is, and how fast. The texts are empty where nothing is known."""

    since: float = field(default_factory=time.monotonic)
    rows: int | None = None
    bytes: int = 0

    def moved(self, rows: int | None, size: int) -> None:
        """So far `rows` (None: not counted) and `size` bytes have moved."""
        self.rows = rows
        self.bytes = size

    @property
    def amount(self) -> str:
        """The rows so far."""
        if self.rows is None:
            return ""
        return counted(self.rows, "row")

    @property
    def size(self) -> str:
        """The bytes so far."""
        if not self.bytes:
            return ""
        return f"{self.bytes / 1e6:,.1f} MB"

    @property
    def speed(self) -> str:
        """Rows per second; where rows are not counted yet, bytes."""
        seconds = max(time.monotonic() - self.since, 0.001)  # never a division by zero
        if self.rows is not None:
            return f"{self.rows / seconds:,.0f} rows/s"
        if not self.bytes:
            return ""
        return f"{self.bytes / 1e6 / seconds:,.1f} MB/s"
