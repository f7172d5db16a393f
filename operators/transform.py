"""`transform.*`: one mart from its SQL file."""

from __future__ import annotations

from operators.base import StepOperator


class SqlTransformOperator(StepOperator):
    """Builds a mart when any of its inputs was loaded since it was last built."""

    kind = "transform"
    ui_color = "#f5d6a3"
