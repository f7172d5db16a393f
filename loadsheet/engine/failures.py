"""Turns any failure of a step into an error that names pipeline, table, run, cause and next step,
and records it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

from loadsheet.connections.lookup import Connections
from loadsheet.deadline import limited
from loadsheet.engine.diagnosis import diagnose
from loadsheet.errors import (
    Corrupt,
    InputError,
    LoadsheetError,
    Overtaken,
    Refused,
    Superseded,
    Unavailable,
)
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step, step_id
from loadsheet.postgres import Session, connect_warehouse
from loadsheet.redact import clean, message, on_one_line, summary, visible
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger

_LONGEST_WAIT = timedelta(seconds=5)
_LONGEST_MESSAGE = 2_000


@contextmanager
def noted(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections
) -> Iterator[None]:
    """Notes what the step of a table or transform fails with, and lets it pass.

    In a session of its own, because the step's may be broken. A note that cannot be written, or not
    soon, is left out: nothing may stand in the error's place.
    """
    try:
        yield
    except (Overtaken, Superseded):
        raise  # a newer run has the table, and says how it stands
    except Exception as error:
        if step.kind != "create_bucket":
            with suppress(Exception):
                _note(step, pipeline, request, connections, error)
        raise


def _note(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections, error: Exception
) -> None:
    expected = isinstance(error, LoadsheetError)
    place = f"{pipeline.name}.{step.name}: {step.kind} failed in run {request.run_id}: "
    message = str(error).removeprefix(place) if expected else summary(error)
    brief = limited("noting the failure", _LONGEST_WAIT)
    with brief, connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        ledger.ensure(session)
        ledger.record_failure(
            session,
            pipeline.name,
            "transform" if step.kind == "transform" else "table",
            step.name,
            step=step.kind,
            run_id=request.run_id,
            code=error.code if isinstance(error, LoadsheetError) else "",
            message=message[:_LONGEST_MESSAGE],
        )


_LOCK_TIMEOUT = "SQLSTATE 55P03"


@contextmanager
def explained(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections
) -> Iterator[None]:
    """Turns what the step raises into a LoadsheetError with its place; its text holds no row data
    and no secret.

    Trouble with a server becomes Unavailable when it may pass, else Refused. An unexpected
    exception is a bug: it leaves as it came, with a note of the place.
    """
    place = _Place(step, pipeline, request.run_id)
    try:
        yield
    except LoadsheetError as error:
        place.mark(error, *place.own_words(error))
        raise
    except Exception as error:
        found = diagnose(error)
        if found is None:
            error.add_note(place.failed)
            raise
        holders = place.blockers(connections) if found.code == _LOCK_TIMEOUT else ""
        known = f"{found.text} ({found.code})" if found.code else found.text
        explanation = (Unavailable if found.cause.retryable else Refused)()
        place.mark(explanation, ". ".join(filter(None, (known, holders, found.advice))), found.code)
        raise explanation.with_traceback(error.__traceback__) from error


class _Place:
    """Where a step runs, and what its errors say of it."""

    def __init__(self, step: Step, pipeline: Pipeline, run_id: str):
        self.step, self.pipeline, self.run_id = step, pipeline, run_id
        self.name = (
            pipeline.name if step.kind == "create_bucket" else f"{pipeline.name}.{step.name}"
        )
        self.failed = on_one_line(f"{self.name}: {step.kind} failed in run {run_id}")

    def mark(self, error: LoadsheetError, text: str, code: str) -> None:
        """Give the error its place, its code and `text` behind the place; once is enough."""
        if error.pipeline:
            return
        error.pipeline, error.step, error.run_id, error.code = (
            self.pipeline.name,
            self.step.id,
            self.run_id,
            code,
        )
        error.args = (f"{self.failed}: {visible(text)}",)

    def own_words(self, error: LoadsheetError) -> tuple[str, str]:
        """The text and code of an error that the core raised knowingly, perhaps because of a
        server's."""
        if isinstance(error, InputError):
            return str(error), ""
        text = clean(str(error)).removeprefix(f"{self.name}: ")
        if isinstance(error, (Corrupt, Superseded)):
            error.retryable = self.step.kind == "extract"  # there the retry is what must run again
            return (text if error.retryable else f"{text}. Next: {self._again()}"), ""
        if isinstance(error, Refused):
            for cause in _causes(error):
                if found := diagnose(cause):
                    return str(replace(found, text=_masked(text, cause))), found.code
        return text, ""

    def blockers(self, connections: Connections) -> str:
        """Who holds the lock that was waited for; empty for a source's tables, and when it cannot
        be asked."""
        warehouse = self.pipeline.warehouse
        schema = warehouse.mart_schema if self.step.kind == "transform" else warehouse.schema
        if self.step.kind == "extract":
            return ""
        brief = limited("asking who holds the lock", timedelta(seconds=10))
        with (
            suppress(Exception),
            brief,
            connect_warehouse(connections(warehouse.conn_id)) as session,
        ):
            return blockers(session, Relation(schema, self.step.name))
        return ""

    def _again(self) -> str:
        return (
            f"in Airflow clear {step_id('extract', self.step.name)}, and its load follows; on the"
            f" command line `loadsheet run {self.pipeline.name} --tables {self.step.name}`"
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    while error.__cause__:
        error = error.__cause__
        yield error


def _masked(text: str, cause: BaseException) -> str:
    """`text` with the server's words in it as they may be shown."""
    said = getattr(getattr(cause, "diag", None), "message_primary", None)
    return text.replace(clean(said), message(cause)) if said else text


# A lock on the table itself, or the one that all loads of it take (`ledger.lock_target`): pg_locks
# shows its key in halves.
_HOLDERS = """
SELECT DISTINCT format('session %%s (%%s)', pid,
    concat_ws(', ', usename, nullif(application_name, '')))
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE granted AND pid <> pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (relation = to_regclass(%(table)s)
       OR locktype = 'advisory' AND objsubid = 1
          AND (classid::bigint << 32) | objid::bigint = hashtextextended(%(key)s, 0))
ORDER BY 1 LIMIT 3
"""


def blockers(session: Session, target: Relation) -> str:
    """The sessions that hold a lock on `target` now, as a sentence; empty when there are none any
    more."""
    found = session.execute(
        _HOLDERS, {"table": target.sql, "key": f"loadsheet:{target}"}
    ).fetchall()
    holders = ", ".join(row[0] for row in found)
    return f"A lock on {target} is held by {holders}" if holders else ""
