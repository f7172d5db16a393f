"""A run's progress: states per task group, live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from demo.airflow import Task
from demo.screen import Screen

_ENDED = ("success", "skipped", "failed", "upstream_failed")
_WORDS = {
    "success": "done",
    "upstream_failed": "not reached",
    "up_for_retry": "waiting for a retry",
}
_LINE_EVERY = 5.0


def by_group(tasks: list[Task]) -> dict[str, Counter[str]]:
    """Task group (or the task's own id) -> how many tasks are in which state."""
    groups: dict[str, Counter[str]] = {}
    for task in tasks:
        groups.setdefault(task.task_id.partition(".")[0], Counter())[task.state or "waiting"] += 1
    order = ("look", "extract", "load", "transform")
    return dict(
        sorted(
            groups.items(),
            key=lambda item: order.index(item[0]) if item[0] in order else len(order),
        )
    )


def in_words(states: Counter[str]) -> str:
    """`6 done, 2 skipped`."""
    known = sorted(
        states.items(),
        key=lambda item: (_ENDED.index(item[0]) if item[0] in _ENDED else 9, item[0]),
    )
    return ", ".join(f"{count} {_WORDS.get(state, state)}" for state, count in known)


class Watch:
    """Give `seen` to `Api.wait`."""

    def __init__(self, screen: Screen, live: Live | None):
        self._screen, self._live = screen, live
        self._started = self._said_at = time.monotonic()
        self._said = ""

    def seen(self, tasks: list[Task]) -> None:
        """Show where the tasks are now."""
        groups = by_group(tasks)
        if self._live:
            self._live.update(_table(groups, time.monotonic() - self._started))
        elif time.monotonic() - self._said_at >= _LINE_EVERY:
            self._say(groups)

    def _say(self, groups: dict[str, Counter[str]]) -> None:
        text = " · ".join(f"{group}: {in_words(states)}" for group, states in groups.items())
        if text != self._said:
            self._screen.note(f"{time.monotonic() - self._started:4.0f} s  {text}")
            self._said = text
        self._said_at = time.monotonic()


@contextmanager
def watching(screen: Screen) -> Iterator[Watch]:
    """A display for the time of one run; at the end the report takes its place."""
    if screen.console.is_terminal:
        with Live(console=screen.console, transient=True, refresh_per_second=8) as live:
            yield Watch(screen, live)
    else:
        yield Watch(screen, None)


def _table(groups: dict[str, Counter[str]], seconds: float) -> Table:
    table = Table.grid(padding=(0, 2))
    for group, states in groups.items():
        total, ended = states.total(), sum(states[state] for state in _ENDED)
        style = "red" if states["failed"] or states["upstream_failed"] else "green"
        bar = ProgressBar(
            total=total, completed=ended, width=24, complete_style=style, finished_style=style
        )
        table.add_row(f"  {group}", bar, f"{ended}/{total}", f"[dim]{in_words(states)}[/]")
    table.add_row("", "", f"[cyan]{seconds:.0f} s[/]", "")
    return table
