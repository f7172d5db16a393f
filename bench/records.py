"""Measured values as they are stored (bench/results/*.json) and shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Record:
    """All values of one thing: what was measured (`bench`, `case`), of whom, in which unit."""

    bench: str
    case: str
    contender: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)


def store(file: Path, facts: dict[str, str], records: Sequence[Record]) -> None:
    """Write the records of one bench, with what they were measured on."""
    file.parent.mkdir(exist_ok=True)
    document = {"facts": facts, "records": [asdict(record) for record in records]}
    file.write_text(json.dumps(document, indent=1) + "\n")


def show(records: Sequence[Record]) -> None:
    """Print them: median, spread."""
    table = Table("case", "contender", "unit", "median", "from", "to", "n")
    for r in records:
        table.add_row(
            r.case,
            r.contender,
            r.unit,
            f"{r.median:.3g}",
            f"{min(r.values):.3g}",
            f"{max(r.values):.3g}",
            str(len(r.values)),
        )
    Console(width=150).print(table)
