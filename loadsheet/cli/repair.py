"""What `loadsheet verify --repair` does between its two comparisons, and what it prints."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from loadsheet.cli.output import show
from loadsheet.cli.run import Screen, run_steps
from loadsheet.connections.lookup import Connections
from loadsheet.engine.request import repair_request
from loadsheet.engine.resolve import resolved
from loadsheet.engine.sessions import Servers
from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pipeline
from loadsheet.verify.models import Verification
from loadsheet.verify.repair import plan_repair
from loadsheet.wording import listed

_NEXT_STEP = "The same command repairs what is left"


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was done."""

    names: list[str] = field(default_factory=list)
    """The tables and marts to compare again; empty where nothing was done."""
    has_failed: bool = False
    document: dict[str, Any] = field(default_factory=dict)


def repair_differences(
    spec: Pipeline, connections: Connections, found: Verification, quiet: bool
) -> Repaired:
    """Run the extractions that repair what was `found`, their loads and the transforms that are due
    then. Prints unless `quiet`."""
    plan = plan_repair(found)
    if not quiet:
        for name, why in plan.left.items():
            show(on_one_line(f"{name}: not repaired: {why}"))
    document: dict[str, Any] = {"run_id": None, "steps": [], "not_repaired": plan.left}
    if not plan.names:
        return Repaired(document=document)
    if not quiet:
        show(on_one_line(f"repairing {listed(plan.names)}"))
    # The command compares again itself.
    spec = replace(resolved(spec, Servers(spec, connections)), verify=None)
    request = repair_request(spec, rows_of=plan.rows_of, whole=plan.whole, marts=plan.marts)
    report = run_steps(spec, request, connections, Screen(quiet=quiet, verbose=False), _NEXT_STEP)
    if not quiet:
        see_all = f"loadsheet status {spec.name} shows all"
        report.print_summary(spec.name, request.run_id, see_all=see_all, verbose=False)
    report.explain_bugs()
    document |= {"run_id": request.run_id, "steps": report.documents()}
    # A mart that was equal may read what was repaired.
    marts = [verdict.table for verdict in found.marts]
    names = list(dict.fromkeys([*plan.names, *marts]))
    return Repaired(names=names, has_failed=report.failed, document=document)
