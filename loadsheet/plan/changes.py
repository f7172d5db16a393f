"""What differs between two states of a pipeline file, as values that `loadsheet plan --diff` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from loadsheet.plan.consequences import Consequence

What = Literal["added", "removed", "changed"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A table, a transform or the pipeline's own settings, and how they differ."""

    what: What
    name: str
    """`table orders`, `transform sales`, `pipeline`."""
    steps: tuple[str, ...] = ()
    """The steps of the DAG that come, go, or work otherwise."""
    details: tuple[str, ...] = ()
    """`primary_key: id -> id, line`, one per setting."""
    sql: tuple[str, ...] = ()
    """A unified diff of the SQL file."""
    consequences: tuple[Consequence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All changes since `revision`, in the order of the file; `built_again` are transforms that follow from them."""

    pipeline: str
    revision: str
    is_new: bool
    changes: tuple[Change, ...]
    built_again: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """One line: how much differs."""
        if self.is_new:
            return f"{self.pipeline} is new since {self.revision}: there was no such pipeline"
        if not self.changes:
            return f"{self.pipeline} since {self.revision}: nothing changed"
        counts = [
            (what, sum(change.what == what for change in self.changes)) for what in ("added", "removed", "changed")
        ]
        return f"{self.pipeline} since {self.revision}: {', '.join(f'{n} {what}' for what, n in counts if n)}"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain values; a diff as one text."""
        changes = [{**asdict(change), "sql": "\n".join(change.sql)} for change in self.changes]
        return {
            "revision": self.revision, "new": self.is_new, "changes": changes, "built_again": self.built_again,
        }  # fmt: skip
