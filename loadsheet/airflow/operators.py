"""The operators of the generated tasks: a thin layer over `loadsheet.engine.execute`.

The engine is imported when a task runs, not when a DAG file is parsed: a worker parses the file for
every task.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk import Connection as AirflowConnection
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from loadsheet.airflow import log_escaping, metrics
from loadsheet.airflow.assets import publish
from loadsheet.airflow.command_line import converted
from loadsheet.airflow.lineage import ReportsLineage
from loadsheet.airflow.lineage_checks import checked_by
from loadsheet.airflow.locate import pipeline_file
from loadsheet.airflow.notes import write_note
from loadsheet.airflow.shown import show
from loadsheet.connections.lookup import Connection
from loadsheet.errors import ConnectionMissing, InputError, LoadsheetError
from loadsheet.installed import unusable
from loadsheet.plan.steps import Step, step_id
from loadsheet.redact import clean, on_one_line, summary, visible
from loadsheet.wording import counted

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.checks import Checked
    from loadsheet.outcome import Outcome, RunRequest
    from loadsheet.plan.steps import Kind
    from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)
log_escaping.install()


def airflow_connection(conn_id: str) -> Connection:
    """The connection as Airflow finds it (secrets backend, environment, database). Raises
    ConnectionMissing."""
    try:
        found = AirflowConnection.get(conn_id)
    except AirflowNotFoundException:
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        message = (
            f"Airflow has no connection {conn_id!r}. Add it under Admin > Connections, import"
            f" connections/ with `airflow connections import`, or set {variable}."
        )
        if variable in os.environ:  # Airflow ignores a variable that it cannot read
            message = (
                f"Airflow cannot read {variable}: expected JSON, or"
                " conn_type://login:password@host:port/schema with special characters of the login"
                " and the password percent-encoded"
            )
        raise ConnectionMissing(message) from None
    return converted(conn_id, found)


@contextmanager
def as_airflow_errors() -> Iterator[None]:
    """Turns an error of the work into AirflowException, or AirflowFailException if a retry cannot
    help. Airflow's own exceptions pass.

    The original exception's text does not reach the log unchecked, because a driver's message
    quotes the row that it failed at. Its frames do, because they are code.
    """
    try:
        yield
    except LoadsheetError as error:
        kind = _exception_type(error.retryable)
        raise kind(clean(str(error))).with_traceback(error.__traceback__) from None
    except Exception as error:
        if isinstance(error, AirflowException) or type(error).__module__.startswith("airflow."):
            raise
        raise _unexplained(error).with_traceback(error.__traceback__) from None


def _exception_type(retryable: bool) -> type[AirflowException]:
    return AirflowException if retryable else AirflowFailException


def _unexplained(error: Exception) -> AirflowException:
    """The exception for an error that the core did not explain: a server's, a package's that cannot
    be used here, or a bug."""
    missing = unusable(error)
    if missing:
        # The next try may be on another worker, which has it.
        return AirflowException(missing)
    # needs the drivers, which parsing a DAG file does not
    from loadsheet.engine.diagnosis import diagnose, named

    diagnosis = diagnose(error)
    if diagnosis:
        return _exception_type(diagnosis.cause.retryable)(f"{named(error)}{diagnosis}")
    lines = [summary(error)]
    # the core has noted there in which step it happened
    for note in getattr(error, "__notes__", ()):
        lines.append(visible(note))
    lines.append("This is a bug in Loadsheet: please report it")
    return AirflowFailException("\n".join(lines))


PROGRESS_EVERY_SECONDS = 10.0


class RetryAtOnce(RetryPolicy):
    """A task whose worker was stopped has not failed: waiting before its retry helps nothing."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """A retry without delay, if the task has one left."""
        return RetryDecision.retry(timedelta(0), "the worker was told to stop")


class StepOperator(ReportsLineage, BaseOperator):
    """Runs one step of the plan.

    `spec` is the pipeline file (absolute, or relative to its project), `name` the table or
    transform. Neither is a template: an author of a spec must not be able to have Airflow render
    code.
    """

    template_fields = ()
    kind: ClassVar[Kind]

    def __init__(self, *, spec: str, name: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.spec = spec
        self.name = name
        self._working = False
        self.drift: dict[str, tuple[str, ...]] = {}
        """By table: what the task's loads have changed because the source's columns have changed.
        Alerts read it when the task has ended."""
        self.checked: list[Checked] = []

    def execute(self, context: Context) -> Any:
        """What the next step needs: a load id, or nothing. Raises AirflowSkipException if there was
        nothing to do, otherwise as `as_airflow_errors`."""
        outcome = self._outcome(context)
        # The engine has logged the outcome.
        if outcome.skipped:
            raise AirflowSkipException(outcome.message)
        return outcome.load_id if self.kind in ("extract", "table") else None

    def _outcome(self, context: Context) -> Outcome:
        """Do the work. Raises as `as_airflow_errors`."""
        with self._reason_first(context), as_airflow_errors():
            # Only from here to the end of the work may `on_kill` interrupt.
            self._working = True
            try:
                return self._run(context)
            finally:
                self._working = False

    @contextmanager
    def _reason_first(self, context: Context) -> Iterator[None]:
        """Logs why the step failed, in one line. Airflow logs the same text after it, with the
        frames of all that called us."""
        try:
            yield
        except AirflowException as error:
            # The place is that of this log, and would push the reason out of sight.
            place, _, reason = str(error).partition(f" failed in run {context['run_id']}: ")
            _log.error("%s", on_one_line(reason or place))
            raise
        except KeyboardInterrupt as error:
            _log.error("%s: the work was rolled back", error)
            raise

    def on_kill(self) -> None:
        """Stops the work: on a KeyboardInterrupt, psycopg cancels the statement in the server, and
        the transaction is rolled back. Airflow tries the task again at once.

        After a timeout the work has ended already, and the exception of the timeout must stay.
        """
        if not self._working:
            return
        # Once: a service manager tells every process to stop, and Airflow passes its own on as
        # well. A second interrupt would disturb the rollback.
        self._working = False
        self.retry_policy = RetryAtOnce()
        raise KeyboardInterrupt("Airflow asked this task to stop")

    def load_id(self, context: Context) -> str | None:
        """The load id that an earlier step has pushed; None for a step that needs none."""
        return None

    def _run(self, context: Context) -> Outcome:
        from loadsheet.engine.details import folded
        from loadsheet.spec.pipeline_file import load_pipeline

        pipeline = load_pipeline(pipeline_file(self.spec, self.get_dag()))
        tables_of = pipeline
        matched = [name for name in self._own_tables() if pipeline.pattern_of(name)]
        if matched:
            # A mapped task's tables are in the request too, so that "all but these" includes them.
            tables = (*pipeline.tables, *map(pipeline.table, matched))
            tables_of = replace(pipeline, tables=tables)
        request = _request(tables_of, context)
        step = Step(kind=self.kind, name=self.name)
        started = time.monotonic()
        try:
            with folded():
                outcome = self._work(pipeline, request, context)
        except EarlierTaskFailed:
            raise
        except Exception as error:
            self._ended(pipeline, step, error, time.monotonic() - started)
            raise
        self._ended(pipeline, step, outcome, time.monotonic() - started)
        return self._tell(pipeline, request, outcome, context)

    def _ended(
        self, pipeline: Pipeline, step: Step, result: Outcome | Exception, seconds: float | None
    ) -> None:
        """Keep and count what the step tells, which has ended in `result`."""
        self.checked += checked_by(step, result)
        metrics.report(pipeline, step, result, seconds)

    def _tell(
        self, pipeline: Pipeline, request: RunRequest, outcome: Outcome, context: Context
    ) -> Outcome:
        """Tell Airflow what has changed and what was done. Returns the outcome, which is that of an
        earlier try where this one has found its work done."""
        step = Step(kind=self.kind, name=self.name)
        self.drift = drift_of({step: outcome})
        if self.outlets:
            told = publish(self, {step: outcome}, pipeline, context, airflow_connection, request)
            outcome = told[step]
        if outcome.changed:
            write_note(pipeline, context, airflow_connection)
        show(self, step, pipeline, outcome)
        return outcome

    def _work(self, pipeline: Pipeline, request: RunRequest, context: Context) -> Outcome:
        """Do the step. Raises as `loadsheet.engine.execute`."""
        from loadsheet.engine.execute import execute

        if self.kind == "transform" and self._was_cleared(context):
            request = request.with_full(self.name)
        load_id = self.load_id(context)
        verify = None
        if self.kind == "verify":
            from loadsheet.verify.step import verify_due

            verify = verify_due
        return execute(
            Step(kind=self.kind, name=self.name),
            pipeline,
            request,
            airflow_connection,
            load_id=load_id,
            progress=self._progress(),
            verify=verify,
        )

    def _was_cleared(self, context: Context) -> bool:
        """Whether a person has cleared the task after it ran: Airflow then allows more tries than
        its retries."""
        most: int = getattr(context.get("ti"), "max_tries", 0)
        return most > (self.retries or 0)

    def _progress(self, table: str = "") -> Callable[[int | None, int], None]:
        """A function that logs rows and bytes, at most every PROGRESS_EVERY_SECONDS: those of the
        table, where the task has several."""
        name = on_one_line(table or self.name)
        last = time.monotonic()

        def log_progress(rows: int | None, size: int) -> None:
            nonlocal last
            if time.monotonic() - last < PROGRESS_EVERY_SECONDS:
                return
            last = time.monotonic()
            count = f"{counted(rows, 'row')}, " if rows else ""
            _log.info("%s: %s%.1f MB so far", name, count, size / 1e6)

        return log_progress


def drift_of(outcomes: Mapping[Step, Outcome]) -> dict[str, tuple[str, ...]]:
    """What schema drift has changed, by table; without the tables in which it has changed
    nothing."""
    return {step.name: outcome.drift for step, outcome in outcomes.items() if outcome.drift}


def _request(pipeline: Pipeline, context: Context) -> RunRequest:
    """The run as its schedule, the Variable and the trigger form define it. A run that was
    triggered manually may have no data interval."""
    from airflow.sdk import Variable

    from loadsheet.engine.request import VARIABLE, airflow_request

    # Airflow checks the values of a DAG's parameters, and ignores what is not one. A DAG of a user
    # may declare more than ours do.
    run_conf = getattr(context.get("dag_run"), "conf", None) or {}
    declared = getattr(context.get("dag"), "params", None) or {}
    return airflow_request(
        pipeline,
        run_id=context["run_id"],
        variable=Variable.get(VARIABLE, default=None),
        params=context["params"],
        undeclared=run_conf.keys() - declared.keys(),
        data_interval=(context.get("data_interval_start"), context.get("data_interval_end")),
    )


class CreateBucketOperator(StepOperator):
    """Makes sure that the lake's bucket exists."""

    kind = "create_bucket"
    ui_color = "#d9d9d9"


class ResolveTablesOperator(StepOperator):
    """Asks the source which tables match a pattern. XCom carries their names, in lists
    `batches_of` so many where one task loads many."""

    kind = "resolve"
    ui_color = "#e3d5ca"

    def __init__(self, *, batches_of: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.batches_of = batches_of

    def execute(self, context: Context) -> list[Any]:
        """The names, or lists of them. Raises as every StepOperator."""
        names = list(self._outcome(context).names)
        size = self.batches_of
        if size is None:
            return names
        return [names[start : start + size] for start in range(0, len(names), size)]

    def _run(self, context: Context) -> Outcome:
        outcome = super()._run(context)
        most = conf.getint("core", "max_map_length")
        tables = len(outcome.names)
        count = -(-tables // (self.batches_of or 1))
        # Airflow's own answer names neither the setting nor the count.
        if count > most:
            raise AirflowFailException(
                f"{self.name} matches {counted(tables, 'table')}, and Airflow makes at most"
                f" {counted(most, 'task')} of one pattern. Next: set AIRFLOW__CORE__MAX_MAP_LENGTH"
                f" to {count} or more for all Airflow services, or write several patterns that"
                " match fewer tables each (a table belongs to the first pattern that matches it)"
            )
        return outcome


class PostgresToMinioOperator(StepOperator):
    """Copies a table's new rows, or all of them, to the lake. XCom carries only the load id."""

    kind = "extract"
    ui_color = "#a7d8de"


class HelpExtractOperator(StepOperator):
    """Helps the extract task of a large table in the same run. Where it cannot, it is skipped and
    says why: the extract task reads on without it."""

    kind = "read"
    ui_color = "#a7d8de"

    def __init__(self, *, number: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.number = number

    def _work(self, pipeline: Pipeline, request: RunRequest, context: Context) -> Outcome:
        from loadsheet.engine.execute import execute
        from loadsheet.outcome import skipped

        ti: Any = context["ti"]
        extract = step_id("extract", self.name)

        def is_over() -> bool:
            asked = {"dag_id": ti.dag_id, "task_ids": [extract], "run_ids": [ti.run_id]}
            try:
                states = ti.get_task_states(**asked)
            except Exception as error:
                # Without an answer it waits no longer than for an extract that offers nothing.
                _log.info("the state of %s is not known: %s", extract, summary(error))
                return False
            state = states.get(ti.run_id, {}).get(extract)
            return state in ("success", "failed", "skipped", "upstream_failed", "removed")

        try:
            return execute(
                Step(kind="read", name=self.name, number=self.number),
                pipeline,
                request,
                airflow_connection,
                progress=self._progress(),
                is_over=is_over,
            )
        except LoadsheetError as error:
            _log.warning("%s", on_one_line(str(error)))
            return skipped(f"could not help: {on_one_line(str(error))}")
        except AirflowTaskTimeout:
            # Airflow's limit is as long as the engine's, and begins before it. A reader's may end
            # before its extract's, for which it has waited.
            return skipped("could not help any longer: its time is up (tasks.timeout)")


class EarlierTaskFailed(AirflowFailException):
    """A task that this one needs has failed. That task reports why, so this is no news."""


class NotExtracted(EarlierTaskFailed):
    """The extract task of a mapped load has failed."""


class MinioToPostgresOperator(StepOperator):
    """Loads what the same run has extracted from the same table, in one warehouse transaction."""

    kind = "load"
    ui_color = "#b7e1b0"

    def load_id(self, context: Context) -> str | None:
        """The id that the extract step has pushed. Raises InputError if there is none.

        A mapped task follows the extracts of all tables, so its own may have found nothing new:
        then there is none, and that is no error. Raises NotExtracted if its own has failed.
        """
        ti = context["ti"]
        if getattr(ti, "map_index", -1) >= 0:
            return self._mapped_load_id(ti)
        upstream = step_id("extract", self.name)
        pushed = ti.xcom_pull(task_ids=upstream)
        if not isinstance(pushed, str):
            raise InputError(
                f"{upstream} of this run has no load id. Clear that task; this one follows it."
            )
        return pushed

    def _mapped_load_id(self, ti: Any) -> str | None:
        upstream = ti.task_id.replace("load.load_", "extract.extract_", 1)
        load_id: str | None = ti.xcom_pull(task_ids=upstream, map_indexes=ti.map_index)
        if load_id is None:
            # The extracts of a pattern are no leaves of the DAG: where a load without rows was
            # skipped, whatever had become of its extract, the run was a success.
            states = ti.get_task_states(
                dag_id=ti.dag_id,
                task_ids=[upstream],
                run_ids=[ti.run_id],
                map_index=ti.map_index,
            )
            state = "".join(states.get(ti.run_id, {}).values())
            if state != "skipped":
                raise NotExtracted(
                    f"{upstream} [{on_one_line(self.name)}] of this run is {state or 'missing'} and"
                    " has no load id. Its log has the reason. Clear that task; this one follows it."
                )
        return load_id


class SqlTransformOperator(StepOperator):
    """Builds a mart if any of its inputs was loaded since the last build."""

    kind = "transform"
    ui_color = "#f5d6a3"


class VerifyTablesOperator(StepOperator):
    """Compares the staging tables that are due with their source. Fails where a row differs."""

    kind = "verify"
    ui_color = "#c9b8e8"


class BrokenSpecOperator(BaseOperator):
    """Fails at once with the problems of a pipeline file; a retry cannot help."""

    template_fields = ()
    ui_color = "#f4a6a0"

    def __init__(self, *, problems: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.problems = problems

    def execute(self, context: Context) -> None:
        """Raises AirflowFailException with every problem of the file."""
        raise AirflowFailException(self.problems)
