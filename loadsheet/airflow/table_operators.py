"""The operators of tasks that extract tables and load them: `granularity: table`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loadsheet.airflow import operators
from loadsheet.airflow.operators import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.outcome import Outcome, RunRequest
    from loadsheet.spec.models import Pipeline


class TableOperator(StepOperator):
    """Extracts a table and loads it, in one process. XCom carries only the load id.

    A retry loads what the try before has extracted completely. After a person has cleared the
    task, each try extracts the table again: that is what clearing asks for.
    """

    kind = "table"
    ui_color = "#b7e1b0"

    def _work(self, pipeline: Pipeline, request: RunRequest, context: Context) -> Outcome:
        from loadsheet.engine.both_steps import extract_and_load, servers_for_both

        if context["ti"].try_number > 1 and not self._was_cleared(context):
            request = replace(request, resumes=frozenset({self.name}))
        find = operators.airflow_connection
        with servers_for_both(pipeline, find) as servers:
            return extract_and_load(self.name, pipeline, request, find, servers, self._progress())
