"""The values that `loadsheet plan --connect` shows: what each step would do now."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
End = Literal["source", "warehouse", ""]
Changes = Literal["yes", "no", "maybe"]
# The engine's refusals name the SQL that removes their cause, as in `run GRANT ... TO reader;`.
_SQL_IN_MESSAGE = re.compile(r"\b[Rr]un ((?:(?:GRANT|ALTER|DROP) [^;]*; ?)+)")


@dataclass(frozen=True, kw_only=True)
class Remark:
    """What the servers tell about a step. An `error` would make the step fail in their current
    state."""

    severity: Severity
    code: str
    """The kind of remark, for scripts: `privilege`, `key`, `drift`, ... (docs/plan.md lists
    them)."""
    message: str
    fix: str = ""
    """The SQL that removes the cause, where SQL can."""
    end: End = ""
    """The server on which the fix runs, where that is known."""


@dataclass(kw_only=True)
class StepPreview:
    """What one step would do. A number is None where it is not known without reading the rows.

    `as_dict` publishes the fields under their names: they are keys of the command's JSON.
    """

    id: str
    changes: Changes = "maybe"
    does: str = ""
    """Text for people, such as `rows of updated_at above 2026-01-01: about 1,200 rows, 80 kB`."""
    action: str | None = None
    lower: str | None = None
    upper: str | None = None
    held_by: str = ""
    rows: int | None = None
    rows_are_exact: bool = False
    bytes: int | None = None
    table_rows: int | None = None
    table_bytes: int | None = None
    ddl: list[str] = field(default_factory=list)
    sql: str = ""
    remarks: list[Remark] = field(default_factory=list)
    is_cut_off: bool = False
    """The step does not run, because an earlier step would fail."""
    reads_again: bool = False
    """Some of the rows to read may be loaded already, unchanged: then they change nothing."""
    is_rebuilt: bool = False
    """Every row is rewritten, so transforms that read the table are built in full."""
    may_remove: bool = False
    """Rows may be removed; only then are transforms that read the table built in full."""
    columns: tuple[str, ...] = ()
    """Of a load that creates or alters its table: the columns that the table has then."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Of such a load: the table's columns that get a new name."""
    dropped: tuple[str, ...] = ()
    """Of such a load: the table's columns that the source has no more. They stay, and are NULL in
    new rows."""

    def add_error(self, code: str, message: str, fix: str = "", end: End = "") -> None:
        """Add a remark that would make the step fail, unless it is there already.

        Without a `fix`, the SQL that the message asks to run becomes the fix.
        """
        # Two questions may meet the same refusal.
        if any(remark.message == message for remark in self.remarks):
            return
        sql_in_message = _SQL_IN_MESSAGE.search(message)
        if not fix and sql_in_message:
            fix = sql_in_message[1].rstrip()
            # Only the source's refusals ask for a GRANT in their text.
            end = "source" if fix.startswith("GRANT ") else ""
        self.add_remark("error", code, message, fix, end)

    def add_remark(
        self, severity: Severity, code: str, message: str, fix: str = "", end: End = ""
    ) -> None:
        """Add a remark."""
        remark = Remark(severity=severity, code=code, message=message, fix=fix, end=end)
        self.remarks.append(remark)

    @property
    def fails(self) -> bool:
        """Whether the step would fail in the servers' current state."""
        return any(remark.severity == "error" for remark in self.remarks)

    def as_dict(self) -> dict[str, Any]:
        """The preview as plain values, without the id, the SQL, the ends of remarks, and what only
        the previews of transforms need."""
        values = asdict(self)
        for name in ("id", "sql", "columns", "renamed", "dropped"):
            del values[name]
        for remark in values["remarks"]:
            del remark["end"]
        return values


def preview_summary(previews: Iterable[StepPreview]) -> dict[str, Any]:
    """The number of steps that would change something, of remarks per severity, and of rows and
    bytes to read.

    The previews `extract`, `load` and `transform`, which stand for what comes before the first
    step of the kind, count with their remarks only.
    """
    steps: list[StepPreview] = []
    severities: list[Severity] = []
    rows = size = 0
    for step in previews:
        severities.extend(remark.severity for remark in step.remarks)
        if step.id in ("extract", "load", "transform"):
            continue
        steps.append(step)
        if step.id.startswith("extract.") and step.changes != "no":
            rows += step.rows or 0
            size += step.bytes or 0
    return {
        "changes": sum(step.changes == "yes" for step in steps),
        "maybe": sum(step.changes == "maybe" for step in steps),
        "errors": severities.count("error"),
        "warnings": severities.count("warning"),
        "rows": rows,
        "bytes": size,
    }
