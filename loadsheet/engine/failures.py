"""Turns any failure of a step into an error that names pipeline, table, run, cause and next step,
and records it in the ledger.

`execute` wraps every step in both context managers: `failure_explained` inside, `failure_recorded`
around it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.engine import lock_holders
from loadsheet.engine.diagnosis import diagnose, named
from loadsheet.errors import (
    Corrupt,
    InputError,
    LoadsheetError,
    Overtaken,
    Refused,
    Superseded,
    TargetLost,
    Unavailable,
)
from loadsheet.outcome import RunRequest
from loadsheet.plan.dag_tasks import task_id
from loadsheet.plan.steps import Step
from loadsheet.postgres import connect_warehouse
from loadsheet.redact import clean_whole, message, on_one_line, summary, visible
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger
from loadsheet.wording import LONGEST_MESSAGE, shortened

_log = logging.getLogger(__name__)
# A step that has failed should end soon, also when the warehouse is what is away.
_LONGEST_RECORDING = timedelta(seconds=5)
_LONGEST_MESSAGE = 2_000


@contextmanager
def failure_recorded(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections
) -> Iterator[None]:
    """Records the failure of a table's or transform's step in the ledger, and raises it further.

    In a session of its own, because the step's may be broken. Where the record cannot be written
    within seconds there is none: nothing may replace the step's own error.
    """
    try:
        yield
    except Exception as error:
        # A newer run that owns the table records its own result.
        is_overtaken = isinstance(error, (Overtaken, Superseded))
        is_overtaken = is_overtaken and not isinstance(error, TargetLost)
        # Where a reader fails, the extract reads on.
        if not step.is_of_pipeline and not is_overtaken and step.kind != "read":
            try:
                _record(step, pipeline, request, connections, error)
            except Exception as why:
                _log.info("the failure is not in the ledger: %s", summary(why))
        raise


def _record(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections, error: Exception
) -> None:
    code = ""
    text = summary(error)
    if isinstance(error, LoadsheetError):
        code = error.code
        text = error.reason  # the record's own columns name the place
    with (
        limited("recording the failure", _LONGEST_RECORDING),
        connect_warehouse(connections(pipeline.warehouse.conn_id)) as session,
    ):
        ledger.ensure(session)
        ledger.record_failure(
            session,
            pipeline.name,
            "transform" if step.kind == "transform" else "table",
            _target(step, pipeline),
            step=step.kind,
            run_id=request.run_id,
            code=code,
            message=text[:_LONGEST_MESSAGE],
        )


def _target(step: Step, pipeline: Pipeline) -> Relation:
    """The table or mart that the step is about."""
    warehouse = pipeline.warehouse
    schema = warehouse.mart_schema if step.kind == "transform" else warehouse.schema
    return Relation(schema, step.name)


@contextmanager
def failure_explained(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections
) -> Iterator[None]:
    """Turns what the step raises into a LoadsheetError that names its place; its text holds no row
    data and no secret.

    Trouble with a server becomes Unavailable when it may pass, else Refused. An unexpected
    exception is a bug: it is raised unchanged, with a note of the place.
    """
    place = _Place(step, pipeline, request.run_id)
    try:
        yield
    except LoadsheetError as error:
        text, code = place.text_and_code(error)
        error.check = error.check or _constraint_broken(error)
        place.mark(error, text, code)
        raise
    except Exception as error:
        diagnosis = diagnose(error)
        if diagnosis is None:
            error.add_note(place.failed)
            raise
        who = ""
        if diagnosis.code == lock_holders.LOCK_TIMEOUT:
            who = place.lock_holders(connections)
        explanation: LoadsheetError = Refused()
        if diagnosis.cause.retryable:
            explanation = Unavailable()
        explanation.check = _constraint_broken(error)
        place.mark(explanation, lock_holders.explained(error, diagnosis, who), diagnosis.code)
        # With the driver's traceback, so that it is clear where it happened.
        raise explanation.with_traceback(error.__traceback__) from error


class _Place:
    """Where a step runs: what its errors begin with, and which lock it may have waited for."""

    def __init__(self, step: Step, pipeline: Pipeline, run_id: str):
        self.step = step
        self.pipeline = pipeline
        self.run_id = run_id
        self.name = pipeline.name
        if not step.is_of_pipeline:
            self.name += f".{step.name}"
        self.failed = on_one_line(f"{self.name}: {step.kind} failed in run {run_id}")

    def mark(self, error: LoadsheetError, text: str, code: str) -> None:
        """Set the error's place and code, and `text` as its message after the place. Does nothing
        to an error that has a place already."""
        if error.pipeline:
            return
        error.pipeline = self.pipeline.name
        error.step = self.step.id
        error.run_id = self.run_id
        error.code = code or (f"{ledger.CHECK}{error.check}" if error.check else "")
        error.place = f"{self.failed}: "
        message = f"{error.place}{visible(shortened(text, LONGEST_MESSAGE))}"
        if error.excerpt:
            message += f"\n{error.excerpt}"
        error.args = (message,)

    def text_and_code(self, error: LoadsheetError) -> tuple[str, str]:
        """The message and code of an error that our own code raised, perhaps because of a
        server's."""
        if isinstance(error, InputError):
            return str(error), ""
        text = clean_whole(str(error)).removeprefix(f"{self.name}: ")
        if isinstance(error, (Corrupt, Superseded)):
            # Only a new extraction helps. A retry of an extract step is one, that of a load is not.
            error.retryable = self.step.kind == "extract"
            if not error.retryable:
                task = task_id(self.pipeline, "extract", self.step.name)
                follows = ", and its load follows" if task.startswith("extract.") else ""
                text += (
                    f". Next: in Airflow clear {task}{follows}; on the command line"
                    f" `loadsheet run {self.pipeline.name} --tables {self.step.name}`"
                )
            return text, ""
        if isinstance(error, Refused):
            cause = error.__cause__
            while cause:
                diagnosis = diagnose(cause)
                if diagnosis:
                    text = f"{named(cause)}{_mask_server_message(text, cause)}"
                    return str(replace(diagnosis, text=text)), diagnosis.code
                cause = cause.__cause__
        return text, ""

    def lock_holders(self, connections: Connections) -> str:
        """A sentence that names who holds a lock that the step may have waited for; empty where
        nobody does, and where the servers do not answer."""
        pipeline, name = self.pipeline, self.step.name
        target = _target(self.step, pipeline)
        ours = lock_holders.of_target(target, f"loadsheet:fence:{pipeline.name}:{name}")
        found = lock_holders.holders(connections, pipeline.warehouse.conn_id, [ours])
        if found or self.step.kind != "extract":
            return found
        theirs = lock_holders.of_table(Relation(pipeline.source.schema, name))
        return lock_holders.holders(connections, pipeline.source.conn_id, [theirs])


def _constraint_broken(error: BaseException) -> str:
    """The constraint, or the ASSERT of a script, that rows do not pass by what the server says;
    empty for another error."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, psycopg.errors.AssertFailure):
            return "ASSERT"
        if isinstance(cause, psycopg.IntegrityError):
            if cause.diag.constraint_name:
                return on_one_line(f"constraint {cause.diag.constraint_name}")
            return on_one_line(f"NOT NULL of {cause.diag.column_name or 'a column'}")
        cause = cause.__cause__
    return ""


def _mask_server_message(text: str, cause: BaseException) -> str:
    """`text` with row data removed from the server's message that it quotes."""
    diagnostics = getattr(cause, "diag", None)
    primary = getattr(diagnostics, "message_primary", None)
    if not primary:
        return text
    return text.replace(clean_whole(primary), message(cause))
