"""The table at a run's end: faults tried, rows lost, rows duplicated, and what the naive way did in
the same test."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.faults.oracle import Verdict

TALLIES = pytest.StashKey[dict[str, "Tally"]]()
HEAD = ("fault", "tried", "hit", "rows lost", "rows duplicated", "control (without the mechanism)")


@dataclass
class Tally:
    """One line of the table. `hit` are the faults that met something alive (a kill of a living run,
    for example)."""

    fault: str
    tried: int = 0
    hit: int = 0
    lost: int = 0
    doubled: int = 0
    controls: list[str] = field(default_factory=list)

    def add(self, *verdicts: Verdict, tried: int = 1, hit: int | None = None) -> None:
        """`tried` more faults, after which the oracle said `verdicts`; all of them hit unless `hit`
        says otherwise."""
        self.tried += tried
        self.hit += tried if hit is None else hit
        self.lost += sum(verdict.lost for verdict in verdicts)
        self.doubled += sum(verdict.doubled for verdict in verdicts)

    def control(self, what: str) -> None:
        """What the naive way did, in a few words: `lost 54 of 328 rows`."""
        self.controls.append(what)

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        numbers = (f"{n:,}" for n in (self.tried, self.hit, self.lost, self.doubled))
        return (self.fault, *numbers, "; ".join(self.controls))


def as_table(tallies: list[Tally]) -> list[str]:
    """The lines as a Markdown table, columns aligned."""
    rows = [HEAD, *(tally.cells for tally in tallies)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
