"""Measured values as they are stored (bench/results/*.json) and shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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


def store(file: Path, facts: dict[str, str], records: Sequence[Record], more: bool = False) -> None:
    """Write the records of one bench, with what they were measured on.

    With `more`, the values are added to those of the same things in the file, whose other records
    stay.
    """
    file.parent.mkdir(exist_ok=True)
    if more and file.exists():
        records = _together([*read(file)[1], *records])
    document = {"facts": facts, "records": [asdict(record) for record in records]}
    file.write_text(json.dumps(document, indent=1) + "\n")


def read(file: Path) -> tuple[dict[str, str], list[Record]]:
    """What `store` has written: what was measured on, and the records."""
    document = json.loads(file.read_text())
    records = [
        Record(**{**record, "values": tuple(record["values"])}) for record in document["records"]
    ]
    return document["facts"], records


def _together(records: Sequence[Record]) -> list[Record]:
    """One record per thing, with the values of all."""
    found: dict[tuple[str, str, str, str], Record] = {}
    for record in records:
        thing = (record.bench, record.case, record.contender, record.unit)
        earlier = found[thing].values if thing in found else ()
        found[thing] = replace(record, values=(*earlier, *record.values))
    return list(found.values())


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
