"""The operators of the generated tasks: a thin layer over `loadsheet.engine.execute`.

The engine is imported when a task runs, not when a DAG file is parsed: a worker parses the file for
every task.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk import Connection as AirflowConnection
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
)

from loadsheet.airflow.locate import pipeline_file
from loadsheet.connections.lookup import Connection
from loadsheet.errors import ConnectionMissing, InputError, LoadsheetError
from loadsheet.plan.steps import step_id
from loadsheet.redact import clean, on_one_line, summary, visible

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.outcome import Outcome, RunRequest
    from loadsheet.plan.steps import Kind
    from loadsheet.spec.models import Pipeline


def airflow_connection(conn_id: str) -> Connection:
    """The connection as Airflow finds it (secrets backend, environment, database). Raises
    ConnectionMissing."""
    try:
        found = AirflowConnection.get(conn_id)
    except AirflowNotFoundException:
        raise ConnectionMissing(_why_not(conn_id, f"AIRFLOW_CONN_{conn_id.upper()}")) from None
    return Connection(
        conn_id=conn_id,
        conn_type=found.conn_type or "",
        host=found.host or "",
        port=found.port,
        login=found.login or "",
        password=found.password or "",
        schema=found.schema or "",
        extra=found.extra_dejson,
    )


def _why_not(conn_id: str, variable: str) -> str:
    if variable in os.environ:  # Airflow passes over one that it cannot read
        return (
            f"Airflow cannot read {variable}: expected JSON, or"
            " conn_type://login:password@host:port/schema with special characters of the login and"
            " the password percent-encoded"
        )
    return (
        f"Airflow has no connection {conn_id!r}. Add it under Admin > Connections, import"
        f" connections/ with `airflow connections import`, or set {variable}."
    )


@contextmanager
def explained() -> Iterator[None]:
    """Turns whatever the work raises into AirflowFailException (no retry) or AirflowException
    (retry).

    What Airflow itself raises passes. An original exception's text never reaches the log unread: a
    driver's message quotes the row it stumbled over. Its frames do, because they are code.
    """
    try:
        yield
    except LoadsheetError as error:
        kind = AirflowException if error.retryable else AirflowFailException
        raise kind(clean(str(error))).with_traceback(error.__traceback__) from None
    except Exception as error:
        if isinstance(error, AirflowException) or type(error).__module__.startswith("airflow."):
            raise
        kind, text = _outside_the_core(error)
        raise kind(text).with_traceback(error.__traceback__) from None


def _outside_the_core(error: Exception) -> tuple[type[AirflowException], str]:
    """How the task ends with an error that the core did not explain: trouble on the way to it, or a
    bug."""
    # needs the drivers, which parsing a DAG file does not
    from loadsheet.engine.diagnosis import diagnose

    if found := diagnose(error):
        return AirflowException if found.cause.retryable else AirflowFailException, str(found)
    notes = map(visible, getattr(error, "__notes__", ()))  # the core has noted where it happened
    return AirflowFailException, "\n".join(
        [summary(error), *notes, "This is a bug in Loadsheet: please report it"]
    )


PROGRESS_EVERY_SECONDS = 10.0


class StepOperator(BaseOperator):
    """Runs one step of the plan. `spec` is the pipeline file (absolute, or relative to its
    project), `name` the table or transform. Both are data, never templates: the author of a spec
    must not be able to make Airflow render it."""

    template_fields = ()
    kind: ClassVar[Kind]

    def __init__(self, *, spec: str, name: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.spec = spec
        self.name = name
        self._working = False

    def execute(self, context: Context) -> str | list[str] | None:
        """What the next step needs, if anything: a load id, or names of tables. Skips where there
        was nothing to do."""
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
        """Stops the work. psycopg cancels the statement that runs in the server when it sees a
        KeyboardInterrupt; after a timeout the work has ended already and the timeout's own
        exception must stay."""
        if self._working:
            raise KeyboardInterrupt("Airflow asked this task to stop")

    def load_id(self, context: Context) -> str | None:
        """The load id handed over by an earlier step; None where no earlier step makes one."""
        return None

    @property
    def _shown(self) -> str:
        return on_one_line(self.name)

    def _run(self, context: Context) -> Outcome:
        from loadsheet.engine.execute import execute
        from loadsheet.plan.steps import Step
        from loadsheet.spec.pipeline_file import load_pipeline

        pipeline = load_pipeline(pipeline_file(self.spec, self.get_dag()))
        return execute(
            Step(kind=self.kind, name=self.name),
            pipeline,
            _request(
                _knowing(pipeline, self.name) if self.kind in ("extract", "load") else pipeline,
                context,
            ),
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
                self.log.info(
                    "%s: %s%.1f MB so far",
                    self._shown,
                    f"{rows:,} rows, " if rows else "",
                    size / 1e6,
                )

        return say


def _knowing(pipeline: Pipeline, name: str) -> Pipeline:
    """The pipeline with the table of a mapped task among its own, so that "all but these" means it
    too."""
    return (
        replace(pipeline, tables=(*pipeline.tables, pipeline.table(name)))
        if pipeline.pattern_of(name)
        else pipeline
    )


def _request(pipeline: Pipeline, context: Context) -> RunRequest:
    """The run as the schedule, the Variable and the trigger form ask for it; a run may have no
    logical date."""
    from airflow.sdk import Variable

    from loadsheet.engine.request import VARIABLE, airflow_request

    return airflow_request(
        pipeline,
        run_id=context["run_id"],
        variable=Variable.get(VARIABLE, default=None),
        params=context["params"],
        data_interval=(context.get("data_interval_start"), context.get("data_interval_end")),
    )


class CreateBucketOperator(StepOperator):
    """Makes sure that the lake's bucket exists."""

    kind = "create_bucket"
    ui_color = "#d9d9d9"


class ResolveTablesOperator(StepOperator):
    """Asks the source which tables match. XCom carries their names."""

    kind = "resolve"
    ui_color = "#e3d5ca"


class PostgresToMinioOperator(StepOperator):
    """Copies a table's new rows (or all of them) to the lake. XCom carries the load id, nothing
    else."""

    kind = "extract"
    ui_color = "#a7d8de"


class MinioToPostgresOperator(StepOperator):
    """Loads what this run's extract of the same table has stored, in one warehouse transaction."""

    kind = "load"
    ui_color = "#b7e1b0"

    def load_id(self, context: Context) -> str | None:
        """The id that the extract step has pushed. Raises InputError when there is none, but for a
        mapped task, which follows all extractions: None where that of its own table had nothing to
        give."""
        ti = context["ti"]
        if getattr(ti, "map_index", -1) >= 0:
            upstream = ti.task_id.replace("load.load_", "extract.extract_", 1)
            mapped: str | None = ti.xcom_pull(task_ids=upstream, map_indexes=ti.map_index)
            return mapped
        upstream = step_id("extract", self.name)
        found = ti.xcom_pull(task_ids=upstream)
        if not isinstance(found, str):
            raise InputError(
                f"{upstream} of this run has left no load id. Clear that task; this one follows it."
            )
        return found


class SqlTransformOperator(StepOperator):
    """Builds a mart when any of its inputs was loaded since it was last built."""

    kind = "transform"
    ui_color = "#f5d6a3"


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
