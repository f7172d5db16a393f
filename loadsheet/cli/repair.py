"""What `loadsheet verify --repair` does between its two comparisons, and what it prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loadsheet.cli.output import show
from loadsheet.cli.run import Screen, run_steps
from loadsheet.connections.lookup import Connections
from loadsheet.engine.request import repair_request
from loadsheet.engine.resolve import resolved
from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pipeline
from loadsheet.verify.models import Verification
from loadsheet.verify.repair import plan_repair
from loadsheet.wording import listed

_NEXT_STEP = "The same command repairs what is left"


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was done."""

    tables: list[str] = field(default_factory=list)
    """The tables that a run has read, to be compared again."""
    has_failed: bool = False
    document: dict[str, Any] = field(default_factory=dict)


def repair_tables(
    spec: Pipeline, connections: Connections, found: Verification, quiet: bool
) -> Repaired:
    """Run the extractions that repair what was `found`, their loads and the transforms that are due
    then. Prints unless `quiet`."""
    plan = plan_repair(spec.name, found.tables)
    if not quiet:
        for name, why in plan.left.items():
            show(on_one_line(f"{name}: not repaired: {why}"))
    document: dict[str, Any] = {"run_id": None, "steps": [], "not_repaired": plan.left}
    if not plan.tables:
        return Repaired(document=document)
    if not quiet:
        show(on_one_line(f"repairing {listed(plan.tables)}"))
    spec = resolved(spec, connections)
    request = repair_request(spec, rows_of=frozenset(plan.rows_of), whole=frozenset(plan.whole))
    report = run_steps(spec, request, connections, Screen(quiet=quiet, verbose=False), _NEXT_STEP)
    if not quiet:
        see_all = f"loadsheet status {spec.name} shows their state"
        report.print_summary(spec.name, request.run_id, see_all=see_all, verbose=False)
    report.explain_bugs()
    document |= {"run_id": request.run_id, "steps": report.documents()}
    return Repaired(tables=plan.tables, has_failed=report.failed, document=document)
