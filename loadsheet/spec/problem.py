"""One problem in a pipeline file, printed as `file:line:col path: message` with a hint under it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from loadsheet.visible import on_one_line


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Where a file is wrong, what was expected, and what to do. `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    path: str
    """Dotted path in the document, e.g. `tables.flights.mode`; empty for the file as a whole."""
    message: str
    hint: str = ""
    code: str = ""
    """The rule that is broken, as `spec.codes` calls it."""
    severity: str = "error"
    """`error` (exit code 2) or `warning` (shown, exit code 0)."""

    def __str__(self) -> str:
        where = f"{on_one_line(self.file)}:{self.line}:{self.column}"
        label = "warning: " if self.severity == "warning" else ""
        message = on_one_line(self.message)
        head = f"{where} {on_one_line(self.path)}: {label}{message}" if self.path else f"{where} {label}{message}"
        return f"{head}\n  hint: {on_one_line(self.hint)}" if self.hint else head

    def as_dict(self) -> dict[str, Any]:
        """The problem as plain values for `--format json`."""
        return asdict(self)
