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

    def load_id(self, context: Context) -> str | None:
        """The id that the extract step has pushed. Raises InputError when there is none, but for a mapped task, which
        follows all extractions: None where that of its own table had nothing to give."""
        ti = context["ti"]
        if getattr(ti, "map_index", -1) >= 0:
            upstream = ti.task_id.replace("load.load_", "extract.extract_", 1)
            mapped: str | None = ti.xcom_pull(task_ids=upstream, map_indexes=ti.map_index)
            return mapped
        upstream = step_id("extract", self.name)
        found = ti.xcom_pull(task_ids=upstream)
        if not isinstance(found, str):
            raise InputError(f"{upstream} of this run has left no load id. Clear that task; this one follows it.")
        return found
