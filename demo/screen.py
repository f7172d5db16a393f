"""What the demo prints: a line per step with its time; live on a terminal, plain text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding


@dataclass
class Step:
    """The detail to print when a step is done."""

    detail: str = ""


class Screen:
    """Writes to one console; thread-safe as far as Rich is."""

    def __init__(self, console: Console | None = None):
        self.console = console or _console()
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started

    def chapter(self, title: str, text: str = "") -> None:
        """A heading, and what is going to happen."""
        self.console.print()
        self.console.rule(f"[bold]{escape(title)}[/]", align="left", style="dim")
        if text:
            self.console.print(text, style="dim")

    def show(self, what: RenderableType) -> None:
        """Something below a step."""
        self.console.print(Padding(what, (0, 0, 0, 2)))

    def note(self, text: str) -> None:
        """A line below a step."""
        self.show(f"[dim]{escape(text)}[/]")

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Shows `title` while the block runs, and a line with its time and `detail` when it is done
        or has failed."""
        done, started = Step(), time.monotonic()
        try:
            with self.console.status(escape(title)):
                yield done
        except BaseException:
            self.result(False, title, done.detail, time.monotonic() - started)
            raise
        self.result(True, title, done.detail, time.monotonic() - started)

    def result(self, good: bool, title: str, detail: str, seconds: float) -> None:
        """The line of a step that has ended."""
        mark = "[green]✓[/]" if good else "[red]✗[/]"
        more = f"  [dim]{escape(detail)}[/]" if detail else ""
        self.console.print(
            f"{mark} {escape(title)}{more}  [cyan]{seconds:.1f} s[/]", soft_wrap=True
        )


def _console() -> Console:
    """The terminal with its own width; a log file gets long lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
