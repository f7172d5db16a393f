"""`create_bucket`."""

from __future__ import annotations

from operators.base import StepOperator


class CreateBucketOperator(StepOperator):
    """Makes sure that the lake's bucket exists."""

    kind = "create_bucket"
    ui_color = "#d9d9d9"
