"""The result of a run, step by step and as a whole."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loadsheet.cli.errors import describe_error, is_expected, report_bug
from loadsheet.cli.output import console
from loadsheet.cli.progress import Lines, Live, Silence
from loadsheet.cli.summary import Line, print_every_step, print_line, print_summary
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import Outcome
from loadsheet.plan.steps import Step
from loadsheet.redact import masked, visible

if TYPE_CHECKING:
    from loadsheet.engine.runner import Retry

# How the engine's refusals name it where nothing else helps: `or run a full refresh`, and `if ...,
# run a full refresh`, are one way of several.
_FULL_REFRESH = re.compile("[:;.] [Rr]un a full refresh of this table")


class Report:
    """Collects what the runner reports, from any thread, and passes it on to the screen."""

    def __init__(self, steps: Sequence[Step], live: Live):
        self.lines = {step.id: Line(step) for step in steps}
        self.live = live
        self.bugs: list[Exception] = []
        self.to_refresh: list[str] = []
        """Tables that failed and need a full refresh."""
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
            self.live.waiting(step, visible(masked(str(result))))
            return
        line.status = status
        if line.started:
            line.seconds = time.monotonic() - line.started
        if isinstance(result, Outcome):
            line.ended_with(result)
        elif isinstance(result, Exception):
            line.message = describe_error(result)
            place = ""
            if isinstance(result, LoadsheetError):
                place = result.place
            line.reason = line.message.removeprefix(visible(masked(place)))
            if step.kind in ("extract", "load") and _FULL_REFRESH.search(line.reason):
                self.to_refresh.append(step.name)
            if not is_expected(result):
                self.bugs.append(result)
        elif status == "upstream_failed":
            line.message = "an earlier step failed"
        self.live.ended(step, status, line.reason if status == "failed" else line.message)

    def on_progress(self, step: Step, rows: int | None, size: int) -> None:
        """A step has moved so many rows and bytes so far."""
        self.live.moved(step, rows, size)

    @property
    def failed(self) -> bool:
        """Whether any step failed or was not run."""
        return any(line.status not in ("done", "skipped") for line in self.lines.values())

    @property
    def can_resume(self) -> bool:
        """Whether the same steps may succeed later: a table that needs a full refresh, or one that
        differs from its source, would only fail again."""
        failed = [line for line in self.lines.values() if line.status == "failed"]
        for line in failed:
            if line.step.kind == "verify":
                continue
            if line.step.kind == "transform" or line.step.name not in self.to_refresh:
                return True
        return not failed

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

    def print_summary(
        self, pipeline: str, run_id: str, *more: str, see_all: str, verbose: bool
    ) -> None:
        """Print what was skipped, changed and failed (with `verbose`, each step), a line for the
        run, and the lines `more`. `see_all` is the command that prints each step."""
        out = console()
        lines = list(self.lines.values())
        if verbose:
            print_every_step(out, lines)
        else:
            print_summary(out, lines, see_all)
        statuses = Counter(line.status for line in lines)
        counts = [f"{count:,} {status.replace('_', ' ')}" for status, count in statuses.items()]
        seconds = time.monotonic() - self.began
        summary = f"{pipeline}: {', '.join(counts)} in {seconds:.1f} s (run {run_id})"
        for text in (summary, *more):
            print_line(out, "", "", text, indent="  ")


@contextmanager
def live_report(steps: Sequence[Step], quiet: bool, verbose: bool) -> Iterator[Report]:
    """A report that shows progress: bars on a terminal, lines elsewhere (more where `verbose`),
    nothing when `quiet`."""
    live: Live = Silence()
    if not quiet:
        out = console()
        # Not `is_terminal`, which FORCE_COLOR makes true for a log. A dumb terminal cannot move its
        # cursor.
        if not out.file.isatty() or out.is_dumb_terminal:
            live = Lines(out, len(steps), verbose)
        else:
            from loadsheet.cli.progress_bars import Bars

            live = Bars(out, len(steps))
    with live:
        yield Report(steps, live)
