"""The result of a run, step by step and as a whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadsheet.cli.errors import describe_error, is_expected, report_bug
from loadsheet.cli.output import console
from loadsheet.cli.progress import Lines, Live, Silence
from loadsheet.outcome import Outcome
from loadsheet.plan.steps import Step
from loadsheet.redact import visible

if TYPE_CHECKING:
    from rich.console import Console

    from loadsheet.engine.runner import Retry


_STYLES = {
    "done": "green",
    "skipped": "yellow",
    "failed": "bold red",
    "upstream_failed": "red",
    "not run": "red",
}


@dataclass
class Line:
    """One step of the run: its status at the end, the reason, and how long it took."""

    step: Step
    status: str = "not run"
    message: str = ""
    counts: dict[str, int] | None = None
    started: float | None = None
    seconds: float = 0.0
    tries: int = 1

    @property
    def rows(self) -> int | None:
        """Rows extracted, else rows that a transform changed; None for a step without rows."""
        counts = self.counts or {}
        if "extracted" in counts:
            return counts["extracted"]
        changes = [counts[name] for name in ("inserted", "updated", "deleted") if name in counts]
        if changes:
            return sum(changes)
        return None


class Report:
    """Collects what the runner reports, from any thread, and passes it on to the screen."""

    def __init__(self, steps: Sequence[Step], live: Live):
        self.lines = {step.id: Line(step) for step in steps}
        self.live = live
        self.bugs: list[Exception] = []
        self.began = time.monotonic()

    def on_step(self, step: Step, status: str, result: Outcome | Exception | Retry | None) -> None:
        """A step started, waits for a retry, or ended with `status` and its outcome or error."""
        line = self.lines[step.id]
        if status == "started":
            # The time of a step includes its retries.
            line.started = line.started or time.monotonic()
            self.live.started(step)
            return
        if status == "waiting":
            line.tries += 1
            self.live.waiting(step, str(result))
            return
        line.status = status
        if line.started:
            line.seconds = time.monotonic() - line.started
        if isinstance(result, Outcome):
            line.message = result.message
            line.counts = result.counts
        elif isinstance(result, Exception):
            line.message = describe_error(result)
            if not is_expected(result):
                self.bugs.append(result)
        elif status == "upstream_failed":
            line.message = "an earlier step failed"
        self.live.ended(step, status, line.message)

    def on_progress(self, step: Step, rows: int | None, size: int) -> None:
        """A step has moved so many rows and bytes so far."""
        self.live.moved(step, rows, size)

    @property
    def failed(self) -> bool:
        """Whether any step failed or was not run."""
        return any(line.status not in ("done", "skipped") for line in self.lines.values())

    @property
    def has_bugs(self) -> bool:
        """Whether a step failed because of a bug."""
        return bool(self.bugs)

    def explain_bugs(self) -> None:
        """Print the traceback of each failure that is a bug."""
        for bug in self.bugs:
            report_bug(bug)

    def documents(self) -> list[dict[str, Any]]:
        """The steps for `--json`."""
        return [
            {
                "id": line.step.id,
                "kind": line.step.kind,
                "name": line.step.name,
                "status": line.status,
                "message": line.message,
                "counts": line.counts or {},
                "seconds": round(line.seconds, 3),
                "tries": line.tries,
            }
            for line in self.lines.values()
        ]

    def print_summary(self, pipeline: str, run_id: str, *more: str) -> None:
        """Print one line per step, one for the run, and the lines `more`."""
        out = console()
        width = max(map(len, self.lines))
        for line in self.lines.values():
            _print_line(out, line, width)
        statuses = Counter(line.status for line in self.lines.values())
        counts = [f"{count} {status.replace('_', ' ')}" for status, count in statuses.items()]
        seconds = time.monotonic() - self.began
        summary = f"{pipeline}: {', '.join(counts)} in {seconds:.1f} s (run {run_id})"
        # Not wrapped: a run id that is cut in two cannot be copied.
        for text in (summary, *more):
            out.print(text, markup=False, soft_wrap=True)


def _print_line(out: Console, line: Line, width: int) -> None:
    from rich.text import Text

    status = line.status.replace("_", " ")
    if line.step.kind == "load" and line.status == "done":
        status = "loaded"
    rows = "" if line.rows is None else f"{line.rows:,} rows"
    # A server's message may have several lines; they are indented below their step.
    message = visible(line.message).replace("\n", "\n" + " " * 17)
    if line.tries > 1:
        message += f" (tries: {line.tries})"
    tail = f"  {line.step.id:<{width}}  {rows:>16}  {line.seconds:>7.1f} s  {message}".rstrip()
    out.print(Text.assemble((f"{status:<15}", _STYLES[line.status]), tail), soft_wrap=True)


@contextmanager
def live_report(steps: Sequence[Step], quiet: bool) -> Iterator[Report]:
    """A report that shows progress: bars on a terminal, lines elsewhere, nothing when `quiet`."""
    live: Live = Silence()
    if not quiet:
        out = console()
        # Not `is_terminal`, which FORCE_COLOR makes true for a log. A dumb terminal cannot move its
        # cursor.
        if not out.file.isatty() or out.is_dumb_terminal:
            live = Lines(out)
        else:
            from loadsheet.cli.progress_bars import Bars

            live = Bars(out, len(steps))
    with live:
        yield Report(steps, live)
