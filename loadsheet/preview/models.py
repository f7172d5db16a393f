"""What a run would do with the servers as they are now: the values that `loadsheet plan --connect`
shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
Changes = Literal["yes", "no", "maybe"]
_REMEDY = re.compile(r"\brun ((?:GRANT|ALTER) [^;]*;)")


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something about a step that the servers tell. An `error` would make the step fail as things
    are."""

    severity: Severity
    code: str
    """What kind of thing, for scripts: `privilege`, `key`, `cursor`, `drift`, ... (docs/plan.md
    lists them)."""
    message: str
    fix: str = ""
    """The SQL that removes the cause, where SQL can."""


@dataclass(kw_only=True)
class StepPreview:
    """What one step would do. Numbers are None where nobody knows them without reading the rows."""

    id: str
    changes: Changes = "maybe"
    does: str = ""
    """For people: `rows above updated_at 2026-01-01, about 1,200`."""
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
    """An earlier step would fail, so that this one does not run."""
    reads_again: bool = False
    """Rows may be among those to be read that were loaded before as they are: then nothing comes of
    them."""
    is_rebuilt: bool = False
    """Every row is written anew, so that what reads the table is built in full."""
    may_remove: bool = False
    """Rows may be taken away; only then what reads the table is built in full."""

    def error(self, code: str, message: str, fix: str = "") -> None:
        """Add what would make the step fail; the SQL that a message asks to run becomes its fix."""
        remedy = _REMEDY.search(message)
        remark = Remark(
            severity="error", code=code, message=message, fix=fix or (remedy[1] if remedy else "")
        )
        if remark.message not in {known.message for known in self.remarks}:
            self.remarks.append(remark)

    def tell(self, severity: Severity, code: str, message: str, fix: str = "") -> None:
        """Add what is worth knowing."""
        self.remarks.append(Remark(severity=severity, code=code, message=message, fix=fix))

    @property
    def fails(self) -> bool:
        """Whether the step would fail as things are."""
        return any(remark.severity == "error" for remark in self.remarks)

    def as_dict(self) -> dict[str, Any]:
        """The preview as plain values, without the id and the SQL."""
        return {name: value for name, value in asdict(self).items() if name not in ("id", "sql")}


def summary(previews: Iterable[StepPreview]) -> dict[str, Any]:
    """How many steps would change something, how many remarks there are of each kind, the rows and
    bytes to read.

    Previews of what comes before the first step of a kind count with their remarks only.
    """
    previews = list(previews)
    found = [remark.severity for step in previews for remark in step.remarks]
    steps = [step for step in previews if step.id not in ("extract", "load", "transform")]
    moving = [step for step in steps if step.id.startswith("extract.") and step.changes != "no"]
    return {
        "changes": sum(step.changes == "yes" for step in steps),
        "maybe": sum(step.changes == "maybe" for step in steps),
        "errors": found.count("error"),
        "warnings": found.count("warning"),
        "rows": sum(step.rows or 0 for step in moving),
        "bytes": sum(step.bytes or 0 for step in moving),
    }
