"""Verdicts as text: for the command line, the log of the step, and its message."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.verify.models import Difference, TableVerdict, Verification
from loadsheet.wording import counted, shortened

_LONGEST_VALUE = 200


def verdict_text(verdict: TableVerdict) -> str:
    """The verdict on a line: `orders: differs, 20,051 rows, 1 missing, 2 different`."""
    parts: list[str] = [verdict.state]
    if verdict.state != "not compared":
        parts.append(counted(verdict.target_rows, "row"))
    for kind, count in verdict.counts.items():
        if count:
            parts.append(f"{count:,} {kind}")
    if verdict.newer:
        parts.append(f"{verdict.newer:,} newer in the source")
    if verdict.unproven and verdict.kind == "table":
        parts.append(f"{verdict.unproven:,} no longer in the source")
    return f"{verdict.table}: {', '.join(parts)}"


def row_text(row: Difference, values: bool = False, where: str = "in the source") -> str:
    """The row by its key, with the columns in which it differs: `id = 77 in status`. With `values`
    also both sides' values, which are row data; `where` says whose the expected ones are."""
    text = ", ".join(f"{name} = {value}" for name, value in row.key.items())
    if not row.changes:
        return text
    if not values:
        return f"{text} in {', '.join(change.column for change in row.changes)}"
    changes = [
        f"{change.column} is {_value(change.target)}, {_value(change.source)} {where}"
        for change in row.changes
    ]
    return f"{text}: {'; '.join(changes)}"


def _value(text: str | None) -> str:
    return "NULL" if text is None else repr(shortened(text, _LONGEST_VALUE))


def states_text(found: Verification) -> str:
    """How many tables and marts have which verdict: `3 tables, 1 mart: 3 equal, 1 differ`."""
    states = [verdict.state for verdict in found.verdicts]
    parts = []
    for state in ("equal", "differs", "not proven", "not compared"):
        if state in states:
            parts.append(f"{states.count(state):,} {'differ' if state == 'differs' else state}")
    amounts = [counted(len(found.tables), "table")] if found.tables else []
    amounts += [counted(len(found.marts), "mart")] if found.marts else []
    return f"{', '.join(amounts)}: {', '.join(parts)}"


def differences_text(verdicts: Sequence[TableVerdict], most_tables: int, most_rows: int) -> str:
    """The first tables with the first rows by which they differ, in a line: `orders: 1 missing (id
    = 181), 2 different (id = 77 in status; id = 78 in amount)`."""
    texts = [_differences_of(verdict, most_rows) for verdict in verdicts[:most_tables]]
    if len(verdicts) > most_tables:
        texts.append(f"{counted(len(verdicts) - most_tables, 'more table')}")
    return ". ".join(texts)


def _differences_of(verdict: TableVerdict, most_rows: int) -> str:
    parts = [verdict.why] if verdict.is_gone else []
    for kind, count in verdict.counts.items():
        if not count:
            continue
        part = f"{count:,} {kind}"
        rows = [shortened(row_text(row), _LONGEST_VALUE) for row in verdict.named[kind][:most_rows]]
        if len(rows) < count and rows:
            rows.append("...")
        if rows:
            part += f" ({'; '.join(rows)})"
        parts.append(part)
    return f"{verdict.table}: {', '.join(parts)}"
