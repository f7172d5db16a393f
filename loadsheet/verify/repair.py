"""What `loadsheet verify --repair` repairs, and how: decided from the verdicts.

a table that is    what is done
gone               all rows are read
merged             the rows that differ are read again (`engine.repair`)
replaced           all rows are read again, as in every run of it
appended           nothing: its rows have no key by which one could be replaced
a mart             it is built in full
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loadsheet.verify.models import TableVerdict, Verification


@dataclass(kw_only=True)
class RepairPlan:
    """What is to be repaired, and why something is not."""

    rows_of: set[str] = field(default_factory=set)
    """Tables of which the rows that differ are read."""
    whole: set[str] = field(default_factory=set)
    """Tables that are read in full."""
    marts: set[str] = field(default_factory=set)
    """Marts that are built in full."""
    left: dict[str, str] = field(default_factory=dict)
    """Why a table or mart is not repaired, and what to do."""

    @property
    def names(self) -> list[str]:
        """The tables and marts to repair."""
        return sorted(self.rows_of | self.whole | self.marts)


def plan_repair(found: Verification) -> RepairPlan:
    """What can be repaired of what was `found`. Rows that may be newer than the last load are left
    to the next run."""
    plan = RepairPlan()
    for verdict in found.verdicts:
        name = verdict.table
        if verdict.state == "differs" or (verdict.removes_gone and verdict.unproven):
            _place(plan, found.pipeline, verdict)
        elif verdict.state in ("not proven", "not compared"):
            plan.left[name] = f"{verdict.state}, see above"
    return plan


def _place(plan: RepairPlan, pipeline: str, verdict: TableVerdict) -> None:
    """Add what differs for certain to the plan."""
    name = verdict.table
    if verdict.kind == "transform":
        plan.marts.add(name)
    elif verdict.is_gone:
        plan.whole.add(name)
    elif verdict.mode == "merge":
        plan.rows_of.add(name)
    elif verdict.mode == "replace":
        plan.whole.add(name)
    else:
        plan.left[name] = (
            "an appended table has no key by which one row could be replaced. If the source still"
            " has all of its rows, read it again:"
            f" `loadsheet run {pipeline} --tables {name} --full-refresh`"
        )
