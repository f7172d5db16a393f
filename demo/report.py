"""Tables for people: what a run did, what the marts hold, which checks passed."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from demo.checks import Check
from demo.flights.day import Counts
from demo.ledger import Line, Run

_STYLES = {"success": "green", "failed": "red", "upstream_failed": "red", "skipped": "yellow"}
_WORDS = {"success": "loaded", "upstream_failed": "not reached"}


def run_table(run: Run) -> Table:
    """A line per table and per transform."""
    table = _table("table", "", "extracted", "inserted", "updated", "deleted", "seconds")
    table.caption = "seconds of work, without the time to start Airflow's tasks"
    for line in run.tables:
        table.add_row(*_row(line))
    table.add_row()
    for line in run.transforms:
        table.add_row(*_row(line))
    return table


def _row(line: Line) -> list[str]:
    style = _STYLES.get(line.state, "")
    word = (
        "built"
        if line.state == "success" and line.work and line.work.extracted is None
        else line.state
    )
    state = f"[{style}]{_WORDS.get(word, word)}[/]" if style else line.state
    work = line.work
    if work is None:
        return [line.name, state]
    rows = [
        _count(work.extracted),
        _count(work.inserted),
        _count(work.updated),
        _count(work.deleted),
    ]
    return [line.name, state, *rows, f"{work.seconds:.2f}"]


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,}"


def mart_table(counts: Mapping[str, int]) -> Table:
    """Rows per mart."""
    table = _table("mart", "rows")
    for name, rows in counts.items():
        table.add_row(name, f"{rows:,}")
    return table


def day_line(counts: Mapping[str, Counts]) -> str:
    """`bookings +83, flights +21 ~46, …`."""
    return ", ".join(
        f"{table}{_signed('+', c.inserted)}{_signed('~', c.updated)}" for table, c in counts.items()
    )


def _signed(sign: str, rows: int) -> str:
    return f" {sign}{rows:,}" if rows else ""


def check_lines(checks: list[Check]) -> Group:
    """A line per check, with what was found where there is room."""
    width = max(len(check.name) for check in checks)
    return Group(*(_check(check, width) for check in checks))


def _check(check: Check, width: int) -> Text:
    mark = ("✓ ", "green") if check.passed else ("✗ ", "red")
    line = Text.assemble(mark, check.name.ljust(width), "  ", (check.detail, "dim"))
    line.no_wrap, line.overflow = check.passed, "ellipsis" if check.passed else "fold"
    return line


def _table(*columns: str) -> Table:
    table = Table(
        box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", caption_justify="left"
    )
    for column in columns:
        left = column in ("", "table", "mart")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table
