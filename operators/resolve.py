"""`resolve_*`: the names of the tables that a pattern matches, for the tasks that are mapped over them."""

from __future__ import annotations

from operators.base import StepOperator


class ResolveTablesOperator(StepOperator):
    """Asks the source which tables match. XCom carries their names."""

    kind = "resolve"
    ui_color = "#e3d5ca"
