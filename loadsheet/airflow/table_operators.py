"""The operators of tasks that extract tables and load them: `granularity: table` and `batch`, and
of the transforms that follow a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowSkipException

from loadsheet.airflow import operators
from loadsheet.airflow.assets import publish
from loadsheet.airflow.notes import write_note
from loadsheet.airflow.operators import EarlierTaskFailed, SqlTransformOperator, StepOperator
from loadsheet.airflow.shown import show
from loadsheet.errors import TablesFailed
from loadsheet.outcome import Outcome, skipped
from loadsheet.plan.dag_tasks import first_to_last
from loadsheet.plan.steps import Step
from loadsheet.redact import on_one_line
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.wording import counted, listed

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.outcome import RunRequest
    from loadsheet.plan.steps import Kind
    from loadsheet.spec.models import Pipeline

FAILED_TABLES = "failed_tables"
"""The XCom key under which a batch leaves the names of the tables that have failed."""


class TableOperator(StepOperator):
    """Extracts a table and loads it, in one process. XCom carries only the load id.

    A retry loads what the try before has extracted completely. After a person has cleared the
    task, each try extracts the table again: that is what clearing asks for.
    """

    kind: ClassVar[Kind] = "table"
    ui_color = "#b7e1b0"

    def _work(self, pipeline: Pipeline, request: RunRequest, context: Context) -> Outcome:
        from loadsheet.engine.both_steps import extract_and_load, servers_for_both

        find = operators.airflow_connection
        request = self._resuming(request, [self.name], context)
        with servers_for_both(pipeline, find) as servers:
            return extract_and_load(self.name, pipeline, request, find, servers, self._progress())

    def _resuming(self, request: RunRequest, tables: Sequence[str], context: Context) -> RunRequest:
        """The request of this try, which resumes the one before."""
        if context["ti"].try_number > 1 and not self._was_cleared(context):
            return replace(request, resumes=frozenset(tables))
        return request


class BatchOperator(TableOperator):
    """Extracts and loads many tables, one after the other, in one process. XCom carries the load
    ids by table, and the names of tables that have failed.

    A table that fails stops no other; at the end the task fails, and names it. A retry does only
    what is not done.
    """

    kind = "batch"

    def __init__(self, *, tables: Sequence[str], **kwargs: Any):
        super().__init__(**kwargs)
        self.tables = tables

    @property
    def shown_as(self) -> str:
        """What Airflow shows for a mapped task: the first and the last table."""
        return first_to_last(self.tables)

    def execute(self, context: Context) -> Any:
        """The load ids by table. Raises AirflowSkipException where no table had anything to do,
        otherwise as `as_airflow_errors`."""
        self._outcomes: dict[Step, Outcome] = {}
        outcome = self._outcome(context)
        if outcome.skipped:
            raise AirflowSkipException(outcome.message)
        return {step.name: one.load_id for step, one in self._outcomes.items() if one.load_id}

    def _own_tables(self) -> Sequence[str]:
        return self.tables

    def _work(self, pipeline: Pipeline, request: RunRequest, context: Context) -> Outcome:
        from loadsheet.engine.batch import run_batch

        request = self._resuming(request, self.tables, context)

        self.drift = {}

        def ended(table: str, result: Outcome | Exception, seconds: float | None) -> None:
            step = Step(kind="table", name=table)
            self._ended(pipeline, step, result, seconds)
            # At once: the task may still fail with another table.
            if isinstance(result, Outcome):
                self.drift |= operators.drift_of({step: result})

        try:
            outcomes = run_batch(
                self.name,
                self.tables,
                pipeline,
                request,
                operators.airflow_connection,
                self._progress,
                ended,
            )
        except TablesFailed as error:
            context["ti"].xcom_push(key=FAILED_TABLES, value=list(error.tables))
            raise
        for table, outcome in outcomes.items():
            self._outcomes[Step(kind="table", name=table)] = outcome
        return self._in_all()

    def _tell(
        self, pipeline: Pipeline, request: RunRequest, outcome: Outcome, context: Context
    ) -> Outcome:
        find = operators.airflow_connection
        self._outcomes = publish(self, self._outcomes, pipeline, context, find, request)
        if any(outcome.changed for outcome in self._outcomes.values()):
            write_note(pipeline, context, find)
        outcome = self._in_all()
        show(self, Step(kind=self.kind, name=self.name), pipeline, outcome)
        return outcome

    def _in_all(self) -> Outcome:
        loaded = sum(not outcome.skipped for outcome in self._outcomes.values())
        if not loaded:
            return skipped(f"nothing to do in {counted(len(self.tables), 'table')}")
        return Outcome(status="done", message=f"{counted(loaded, 'table')} loaded")


class TransformAfterBatchOperator(SqlTransformOperator):
    """Builds a mart that reads tables of a batch. A table of the batch that it does not read may
    fail."""

    def _work(self, pipeline: Pipeline, request: RunRequest, context: Context) -> Outcome:
        ti: Any = context["ti"]
        states = ti.get_task_states(
            dag_id=ti.dag_id, task_ids=sorted(self.upstream_task_ids), run_ids=[ti.run_id]
        )
        reads = set(transform_inputs(pipeline)[self.name].tables)
        for task_id, state in sorted(states.get(ti.run_id, {}).items()):
            if state not in ("failed", "upstream_failed"):
                continue
            what = ""
            if state == "failed" and task_id.startswith("batch."):
                # None where its process was lost: then any of its tables may lack its load.
                failed = ti.xcom_pull(task_ids=task_id, key=FAILED_TABLES)
                if failed is not None:
                    mine = sorted(reads.intersection(failed))
                    if not mine:
                        continue
                    what = f" with {on_one_line(listed(mine))}"
            raise EarlierTaskFailed(
                f"{task_id} of this run is {state}{what}, and {on_one_line(self.name)} reads what"
                " it loads. Its log has the reason. Clear that task with those downstream of it."
            )
        return super()._work(pipeline, request, context)
