"""The one task of a DAG that stands for a pipeline file with problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context


class BrokenSpecOperator(BaseOperator):
    """Fails at once and says why; a retry cannot help."""

    template_fields = ()
    ui_color = "#f4a6a0"

    def __init__(self, *, problems: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.problems = problems

    def execute(self, context: Context) -> None:
        """Raises AirflowFailException with every problem of the file."""
        raise AirflowFailException(self.problems)
