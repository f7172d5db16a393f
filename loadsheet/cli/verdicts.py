"""How tests ended, for people and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from loadsheet.cli.output import console
from loadsheet.cli.places import shown

if TYPE_CHECKING:
    from loadsheet.testing.compare import Difference
    from loadsheet.testing.run import Verdict


def print_verdict(pipeline: str, verdict: Verdict) -> None:
    """The test with its mark; of one that failed, each row that is not as expected, or what kept it from being run."""
    out = console()
    mark = ("ok    ", "green") if verdict.passed else ("failed", "bold red")
    out.print(Text.assemble(mark, f"  {pipeline}: {verdict.case.name}"), soft_wrap=True)
    if verdict.passed:
        return
    step = f" (step {verdict.step})" if len(verdict.case.steps) > 1 and verdict.step else ""
    out.print(Text(f"        {_place(verdict.case.where)}{step}"), soft_wrap=True)
    if verdict.error:
        out.print(Text(_indented(_shortened(verdict.error))), soft_wrap=True)
    table = ""
    for difference in verdict.differences:
        if difference.table != table:
            table = difference.table
            out.print(Text(f"        {table}:"), soft_wrap=True)
        for line, style in _lines(difference):
            out.print(Text(f"          {line}", style=style), soft_wrap=True)


def _lines(difference: Difference) -> list[tuple[str, str]]:
    """A missing row has a `-` before it, one too many a `+`, and each cell that differs a line with both."""
    expected, actual = difference.expected, difference.actual
    where = f"   {_place(difference.where)}" if difference.where else ""
    if expected is None:
        return [(f"+ {_row(actual or {})}", "green")]
    if actual is None:
        return [(f"- {_row(expected)}{where}", "red")]
    key = tuple(c for c in difference.key if c in expected) or tuple(c for c in expected if c not in difference.cells)
    lines = [(f"~ {_row({c: expected[c] for c in key})}{where}", "yellow")]
    for cell in difference.cells:
        lines += [(f"    {cell}: expected {_value(expected[cell])}, found {_value(actual[cell])}", "")]
    return lines


def _row(values: dict[str, str | None]) -> str:
    return ", ".join(f"{name}: {_value(value)}" for name, value in values.items())


def _value(value: str | None) -> str:
    """As it is, in quotes where it would be taken for something else: NULL, nothing, two lines."""
    if value is None:
        return "null"
    is_plain = value and value == value.strip() and value.isprintable() and value != "null"
    return value if is_plain else repr(value)


def _place(where: str) -> str:
    file, line, column = where.rsplit(":", 2)
    return f"{shown(file)}:{line}:{column}"


def _shortened(text: str) -> str:
    """Files as seen from here."""
    return text.replace(f"{Path.cwd()}/", "")


def _indented(text: str) -> str:
    return "\n".join(f"        {line}" for line in text.splitlines())


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict for `--json`."""
    return {
        "name": verdict.case.name, "where": verdict.case.where, "passed": verdict.passed, "step": verdict.step,
        "error": verdict.error,
        "differences": [
            {"table": d.table, "expected": d.expected, "actual": d.actual, "where": d.where}
            for d in verdict.differences
        ],
    }  # fmt: skip
