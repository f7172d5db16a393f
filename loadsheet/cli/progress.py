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

MOST_TROUBLES = 20
"""Lines about failures and retries while a run goes on."""
_LONGEST = 200  # characters of such a line


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
    """For a log: a line for each wait for a retry and each failure, and every `every` seconds how
    far the run and its long steps are. With `verbose` also a line when a step starts and when it
    ends."""

    def __init__(self, out: Console, steps: int = 0, verbose: bool = False, every: float = 30.0):
        self._out = out
        self._steps = steps
        self._verbose = verbose
        self._every = every
        self._ended = 0
        self._troubles = 0
        self._pace: dict[str, Pace] = {}
        self._last_line_at: dict[str, float] = {}
        """Of the steps that run."""
        self._last_whole_at = time.monotonic()

    def started(self, step: Step) -> None:
        self._pace[step.id] = Pace()
        self._last_line_at[step.id] = time.monotonic()
        if self._verbose:
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
        self._print_trouble(f"{step.id} {message}")

    def ended(self, step: Step, status: str, message: str) -> None:
        self._last_line_at.pop(step.id, None)
        self._ended += 1
        text = f"{step.id} {status.replace('_', ' ')}"
        if message:
            text += f": {message}"
        if self._verbose:
            self._print(on_a_short_line(text))
        elif status == "failed":
            self._print_trouble(text)
        elif time.monotonic() - self._last_whole_at >= self._every:
            self._last_whole_at = time.monotonic()
            self._print(f"{self._ended:,} of {counted(self._steps, 'step')}")

    def _print_trouble(self, text: str) -> None:
        """Print a failure or a wait, but not hundreds of them: the summary has all failures."""
        self._troubles += 1
        if self._verbose or self._troubles <= MOST_TROUBLES:
            self._print(on_a_short_line(text))
        if self._troubles == MOST_TROUBLES and not self._verbose:
            self._print("more failures and retries are not shown until the end")

    def _print(self, text: str) -> None:
        from rich.text import Text

        self._out.print(Text(on_one_line(text)), soft_wrap=True)


def on_a_short_line(text: str) -> str:
    """The first line of `text`, or its beginning: the summary has all of it."""
    first_line = text.partition("\n")[0]
    if len(first_line) <= _LONGEST:
        return first_line
    return f"{first_line[:_LONGEST].rpartition(' ')[0]} …"


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
