"""`load.*`: what an extract has put into the lake, into its staging table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadsheet.errors import InputError
from loadsheet.plan.steps import step_id
from operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class MinioToPostgresOperator(StepOperator):
    """Loads what this run's extract of the same table has stored, in one warehouse transaction."""

    kind = "load"
    ui_color = "#b7e1b0"

    def load_id(self, context: Context) -> str:
        """The id that the extract step has pushed. Raises InputError when there is none."""
        upstream = step_id("extract", self.name)
        found = context["ti"].xcom_pull(task_ids=upstream)
        if not isinstance(found, str):
            raise InputError(f"{upstream} of this run has left no load id. Clear that task; this one follows it.")
        return found
