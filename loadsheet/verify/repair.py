"""Which tables `loadsheet verify --repair` repairs, and how: decided from the verdicts.

the table is    what is done
merged          the rows that differ are read again (`engine.repair`)
replaced        all rows are read again, as in every run of it
appended        nothing: its rows have no key by which one could be replaced
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from loadsheet.verify.models import TableVerdict


@dataclass(kw_only=True)
class RepairPlan:
    """What is to be repaired, and why something is not."""

    rows_of: list[str] = field(default_factory=list)
    """Tables of which the rows that differ are read."""
    whole: list[str] = field(default_factory=list)
    """Tables that are read in full."""
    left: dict[str, str] = field(default_factory=dict)
    """Why a table is not repaired, and what to do."""

    @property
    def tables(self) -> list[str]:
        """The tables to repair."""
        return [*self.rows_of, *self.whole]


def plan_repair(pipeline: str, verdicts: Sequence[TableVerdict]) -> RepairPlan:
    """What can be repaired of what the `verdicts` say. Rows that may be newer than the last load
    are left to the next run."""
    plan = RepairPlan()
    for verdict in verdicts:
        name = verdict.table
        if verdict.state == "equal":
            continue
        if verdict.state == "not proven":
            plan.left[name] = (
                f"it is not proven that a row differs. `loadsheet run {pipeline}` reads what is new"
            )
        elif verdict.state == "not compared":
            plan.left[name] = "it was not compared"
        elif verdict.mode == "append":
            plan.left[name] = (
                "an appended table has no key by which one row could be replaced. Read it again, if"
                " the source still has all of its rows:"
                f" `loadsheet run {pipeline} --tables {name} --full-refresh`"
            )
        elif verdict.mode == "replace":
            plan.whole.append(name)
        else:
            plan.rows_of.append(name)
    return plan
