"""The messages about a task: it failed, it works again, its load has followed changed columns.

Nothing here needs a logical date, because a triggered run has none.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loadsheet.airflow.alerts.incidents import Failure, step_name, variable_key
from loadsheet.airflow.alerts.message import Message, Trouble, message_of
from loadsheet.errors import Differs, LoadsheetError
from loadsheet.redact import summary

if TYPE_CHECKING:
    from airflow.sdk import Context

FRAMES = 3


def event_of(error: object) -> str:
    """The event that a task's failure is: `differs` where its rows are not those of the source,
    `check` where rows do not pass a check, else `failure`."""
    cause = _cause(error)
    if isinstance(cause, Differs):
        return "differs"
    return "check" if cause and cause.check else "failure"


def _cause(error: object) -> LoadsheetError | None:
    """The error of ours for which Airflow was given this one."""
    # What Airflow is given was raised while the error itself was handled.
    cause = error.__context__ if isinstance(error, BaseException) else None
    return cause if isinstance(cause, LoadsheetError) else None


def failure_message(context: Context) -> Message:
    """The message about a task that has failed and is not tried again."""
    ti = context["ti"]
    error = context.get("exception")
    if error is None:
        error_text = (
            "No exception: the task's process was killed or lost. The log has its last lines."
        )
    else:
        error_text = error if isinstance(error, str) else summary(error)
    sections = {"Error": error_text}
    frames: list[str] = []
    if isinstance(error, BaseException):
        for frame in traceback.extract_tb(error.__traceback__)[-FRAMES:]:
            frames.append(f"{frame.filename}:{frame.lineno} in {frame.name}\n    {frame.line}")
    if frames:
        sections["Where"] = "\n".join(frames)
    title = f"{ti.dag_id} failed at {step_name(context)}"
    facts = {"Try": _tries(ti)}
    event = event_of(error)
    if event == "check":
        facts |= _check_facts(error)
        title = f"{ti.dag_id}: the check {facts['Check']} failed at {step_name(context)}"
    return _trouble(context).begun(event, title, facts, sections)


def _check_facts(error: object) -> dict[str, str]:
    cause = _cause(error)
    assert cause
    facts = {"Check": cause.check}
    if cause.rows is not None:
        facts["Rows"] = f"{cause.rows:,}"
    return facts


def recovery_message(context: Context, failure: Failure) -> Message:
    """The message about a task that had failed and works again."""
    title = f"{context['ti'].dag_id} works again at {step_name(context)}"
    facts = {"Failed since": failure.since, "First in run": failure.run_id}
    return _trouble(context).over("recovery", title, facts)


def _trouble(context: Context) -> Trouble:
    ti = context["ti"]
    return Trouble(
        source=ti.dag_id,
        incident=variable_key(ti.dag_id, step_name(context)),
        facts=_facts(context),
        link=ti.log_url,
    )


def drift_message(context: Context, drift: Mapping[str, Sequence[str]]) -> Message:
    """The message about `drift`: by table, what a load has changed in its target because the
    source's columns have changed."""
    ti = context["ti"]
    lines = []
    for table, changes in drift.items():
        lines += [f"{table}: {change}" for change in changes]
    return message_of(
        event="drift",
        state="note",
        title=f"{ti.dag_id} has followed changed columns at {step_name(context)}",
        source=ti.dag_id,
        facts=_facts(context),
        sections={"Changes": lines},
        link=ti.log_url,
    )


def _facts(context: Context) -> dict[str, str]:
    return {
        "Pipeline": context["ti"].dag_id,
        "Step": step_name(context),
        "Run": context["run_id"],
    }


def _tries(ti: Any) -> str:
    """Which try has failed for good: the last one, or one after which none can help."""
    if ti.try_number > ti.max_tries:
        return f"{ti.try_number} of {ti.max_tries + 1}"
    return f"{ti.try_number}, not retried"
