"""What every step's operator shares. One call into `loadsheet.steps.execute`; the rest is Airflow's side of it.

The engine is imported when a task runs, not when a DAG file is parsed: a worker parses the file for every task.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from loadsheet.visible import on_one_line
from operators.failures import explained

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.outcome import Outcome, RunRequest
    from loadsheet.plan.steps import Kind
    from loadsheet.spec.models import Pipeline

BUNDLE_ROOT = Path(__file__).resolve().parents[1]
PROGRESS_EVERY_SECONDS = 10.0


class StepOperator(BaseOperator):
    """Runs one step of the plan. `spec` is the pipeline file (absolute, or relative to the folder of our code), `name`
    the table or transform. Both are data, never templates: whoever edits a spec must not be able to make Airflow render
    it."""

    template_fields = ()
    kind: ClassVar[Kind]

    def __init__(self, *, spec: str, name: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.spec = spec
        self.name = name
        self._working = False

    def execute(self, context: Context) -> str | list[str] | None:
        """What the next step needs, if anything: a load id, or names of tables. Skips where there was nothing to do."""
        with explained():
            self._working = True
            try:
                outcome = self._run(context)
            finally:
                self._working = False
        self.log.info("%s: %s", self._shown, outcome.message)
        if outcome.skipped:
            raise AirflowSkipException(outcome.message)
        if self.kind == "resolve":
            return list(outcome.names)
        return outcome.load_id if self.kind == "extract" else None

    def on_kill(self) -> None:
        """Stops the work. psycopg cancels the statement that runs in the server when it sees a KeyboardInterrupt;
        after a timeout the work has ended already and the timeout's own exception must stay."""
        if self._working:
            raise KeyboardInterrupt("Airflow asked this task to stop")

    def load_id(self, context: Context) -> str | None:
        """The load id handed over by an earlier step; None where no earlier step makes one."""
        return None

    @property
    def _shown(self) -> str:
        return on_one_line(self.name)

    def _run(self, context: Context) -> Outcome:
        from loadsheet.plan.steps import Step
        from loadsheet.spec.load import load_pipeline
        from loadsheet.steps import execute
        from operators.connections import airflow_connection

        pipeline = load_pipeline(BUNDLE_ROOT / self.spec)
        return execute(
            Step(kind=self.kind, name=self.name),
            pipeline,
            _request(_knowing(pipeline, self.name) if self.kind in ("extract", "load") else pipeline, context),
            airflow_connection,
            load_id=self.load_id(context),
            progress=self._progress(),
        )

    def _progress(self) -> Callable[[int | None, int], None]:
        said = time.monotonic()

        def say(rows: int | None, size: int) -> None:
            nonlocal said
            if time.monotonic() - said >= PROGRESS_EVERY_SECONDS:
                said = time.monotonic()
                self.log.info("%s: %s%.1f MB so far", self._shown, f"{rows:,} rows, " if rows else "", size / 1e6)

        return say


def _knowing(pipeline: Pipeline, name: str) -> Pipeline:
    """The pipeline with the table of a mapped task among its own, so that "all but these" means it too."""
    return replace(pipeline, tables=(*pipeline.tables, pipeline.table(name))) if pipeline.pattern_of(name) else pipeline


def _request(pipeline: Pipeline, context: Context) -> RunRequest:
    """The run as the schedule, the Variable and the trigger form ask for it; a run may have no logical date."""
    from airflow.sdk import Variable

    from loadsheet.options import run_request
    from loadsheet.switches import VARIABLE

    return run_request(
        pipeline,
        run_id=context["run_id"],
        variable=Variable.get(VARIABLE, default=None),
        params=context["params"],
        data_interval=(context.get("data_interval_start"), context.get("data_interval_end")),
    )
