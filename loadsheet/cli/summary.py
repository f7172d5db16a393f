"""What a run prints at its end: what had nothing to do, what changed, and last what failed.

A pipeline may have thousands of steps, and most of them nothing to do. So steps that were skipped
alike share a line, and so do steps that failed alike; longer lists are cut. `every_step` prints a
line for each step instead (`-v`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadsheet.cli.output import print_labelled
from loadsheet.outcome import Outcome
from loadsheet.plan.steps import Step
from loadsheet.redact import on_one_line, visible
from loadsheet.wording import counted, listed, shortened

if TYPE_CHECKING:
    from rich.console import Console

MOST_LINES = 20
"""Lines about tables that changed, of different reasons to skip, and failures."""
_MOST_NAMES = 3
_NAME_WIDTH = 40
_INDENT = " " * 10
# What a step has done, by its kind.
_PAST = {"load": "loaded", "transform": "built", "verify": "verified"}
_STYLES = {
    "loaded": "green",
    "built": "green",
    "verified": "green",
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
    reason: str = ""
    """The part of `message` that steps which ended alike share."""
    remarks: tuple[str, ...] = ()
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

    def ended_with(self, outcome: Outcome) -> None:
        """Take over what the outcome says."""
        self.message = outcome.message
        self.reason = outcome.reason
        self.remarks = outcome.remarks
        self.counts = outcome.counts


@dataclass
class _Entry:
    """A line of the summary: what happened to a table, or to several alike."""

    status: str
    names: list[str]
    text: str
    is_remarkable: bool = False
    seconds: float = 0.0
    tries: int = 1
    kinds: set[str] = field(default_factory=set)


def print_summary(out: Console, lines: Sequence[Line], see_all: str) -> None:
    """Print the summary of the steps; `see_all` is the command that lists all of them."""
    _print_entries(out, _skipped(lines), see_all)
    _print_entries(out, _changed(lines), see_all)
    print_failures(out, lines, see_all)


def print_every_step(out: Console, lines: Sequence[Line]) -> None:
    """Print a line for each step, then the failures."""
    width = max(len(line.step.id) for line in lines)
    for line in lines:
        status = line.status.replace("_", " ")
        if line.step.kind == "load" and line.status == "done":
            status = "loaded"
        rows = "" if line.rows is None else counted(line.rows, "row")
        message = line.message
        if line.status == "failed":
            message = ""  # it follows below
        if line.tries > 1:
            message += f" ({counted(line.tries, 'try', 'tries')})"
        tail = f"{line.step.id:<{width}}  {rows:>16}  {line.seconds:>7.1f} s  {message}"
        print_line(out, line.status, f"{status:<15}  ", on_one_line(tail.rstrip()))
    print_failures(out, lines)


def print_failures(out: Console, lines: Sequence[Line], see_all: str = "") -> None:
    """Print each failure once, with the steps that it has stopped. All of them where `see_all`,
    the command that lists them, is empty."""
    failures = list(_grouped(line for line in lines if line.status == "failed"))
    most = MOST_LINES if see_all else len(failures)
    for entry in failures[:most]:
        tries = "" if entry.tries == 1 else f", {entry.tries} tries"
        names = listed(entry.names, _MOST_NAMES)
        print_line(
            out, "failed", "failed    ", on_one_line(f"{names} ({entry.seconds:.1f} s{tries})")
        )
        for detail in visible(entry.text).splitlines():
            print_line(out, "", "  ", detail, indent="  ")
    if len(failures) > most:
        others = sum(len(entry.names) for entry in failures[most:])
        print_line(out, "failed", "failed    ", f"{counted(others, 'more step')}: {see_all}")
    not_run = [line.step.id for line in lines if line.status in ("upstream_failed", "not run")]
    if not_run:
        names = listed(not_run, most=_MOST_NAMES if see_all else len(not_run))
        text = on_one_line(f"{names} (an earlier step failed)")
        print_line(out, "not run", "not run   ", text)


def _skipped(lines: Sequence[Line]) -> list[_Entry]:
    """The steps that had nothing to do, by their reasons. A load whose extraction was skipped is
    not among them: the extraction says why."""
    kinds = ("extract", "load", "transform")
    skipped = [line for line in lines if line.status == "skipped" and line.step.kind in kinds]
    said = {line.step.name for line in skipped if line.step.kind == "extract"}
    skipped = [line for line in skipped if line.step.kind != "load" or line.step.name not in said]
    entries = list(_grouped(line for line in skipped if not line.remarks))
    for line in skipped:
        if line.remarks:
            entries.append(_Entry("skipped", [line.step.name], line.message, is_remarkable=True))
    for entry in entries:
        if len(entry.names) > _MOST_NAMES:
            noun = "transform" if "transform" in entry.kinds else "table"
            entry.names = [counted(len(entry.names), noun)]
        else:
            entry.names = [", ".join(entry.names)]
    return entries


def _grouped(lines: Iterable[Line]) -> Iterator[_Entry]:
    """An entry for all lines of one kind with the same reason."""
    entries: dict[tuple[str, str], _Entry] = {}
    for line in lines:
        name = line.step.id if line.status == "failed" else line.step.name
        group = (line.step.kind, line.reason)
        if group not in entries:
            entries[group] = _Entry(line.status, [], line.reason, kinds={line.step.kind})
        entry = entries[group]
        entry.names.append(name)
        entry.seconds = max(entry.seconds, line.seconds)
        entry.tries = max(entry.tries, line.tries)
    yield from entries.values()


def _changed(lines: Iterable[Line]) -> list[_Entry]:
    """The tables that were loaded, the transforms that were built, and what was verified."""
    extracts = {line.step.name: line for line in lines if line.step.kind == "extract"}
    entries: list[_Entry] = []
    for line in lines:
        if line.status != "done" or line.step.kind not in _PAST:
            continue
        parts = [line.message]
        seconds = line.seconds
        tries = line.tries
        remarks = line.remarks
        if line.step.kind == "load" and line.step.name in extracts:
            extract = extracts[line.step.name]
            parts += extract.remarks
            remarks += extract.remarks
            seconds += extract.seconds
            tries = max(tries, extract.tries)
        text = f"{'; '.join(parts)} ({seconds:.1f} s)"
        if tries > 1:
            text = f"{'; '.join(parts)} ({seconds:.1f} s, {tries} tries)"
        is_remarkable = bool(remarks) or tries > 1
        entries.append(_Entry(_PAST[line.step.kind], [line.step.name], text, is_remarkable))
    return entries


def _print_entries(out: Console, entries: list[_Entry], see_all: str) -> None:
    if len(entries) > MOST_LINES + 1:
        # What differs from the usual comes through; else the first ones, in the plan's order.
        by_interest = sorted(entries, key=lambda entry: not entry.is_remarkable)
        chosen = {id(entry) for entry in by_interest[:MOST_LINES]}
        shown = [entry for entry in entries if id(entry) in chosen]
    else:
        shown = entries
    width = 0
    for entry in shown:
        width = max(width, min(len(on_one_line(entry.names[0])), _NAME_WIDTH))
    for entry in shown:
        name = on_one_line(entry.names[0])
        text = f"{name:<{width}}  {on_one_line(shortened(entry.text))}"
        print_line(out, entry.status, f"{entry.status:<10}", text)
    if len(shown) < len(entries):
        text = f"{len(entries) - len(shown):,} more: {see_all}"
        print_line(out, entries[0].status, f"{entries[0].status:<10}", text)


def print_line(out: Console, status: str, label: str, text: str, indent: str = _INDENT) -> None:
    """Print a label in the colour of `status`, and its text."""
    print_labelled(out, label, text, _STYLES.get(status, ""), indent)
