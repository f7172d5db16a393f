"""`extract.*`: one source table to the lake."""

from __future__ import annotations

from operators.base import StepOperator


class PostgresToMinioOperator(StepOperator):
    """Copies a table's new rows (or all of them) to the lake. XCom carries the load id, nothing else."""

    kind = "extract"
    ui_color = "#a7d8de"
