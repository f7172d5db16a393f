"""Slack messages about failed and recovered tasks. A failure to send is logged and never fails a
task.

Airflow's own history cannot say it: runs that people trigger have no date to be ordered by, and
clearing a task makes it forget. XCom and the task's state store end with the run. A Variable can be
read and written from a task and, where a task's process was lost, from the DAG processor.

Needs no logical date: a manually triggered run has none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from loadsheet.redact import clean, summary, visible

if TYPE_CHECKING:
    from airflow.sdk import Context

_PREFIX = "loadsheet_failed"
_LONGEST_KEY = 250  # of a Variable, in Airflow's database
_DESCRIPTION = (
    "{task_id} of {dag_id} has failed and not worked since; Loadsheet removes this when it does"
)


@dataclass(frozen=True)
class Failure:
    """The first failure since the task last worked."""

    since: str
    run_id: str


def find(dag_id: str, task_id: str) -> Failure | None:
    """The task's failure, if it has not worked since. One small query of Airflow's API, no secrets
    backend."""
    from airflow.sdk import Variable

    key = variable_key(dag_id, task_id)
    if key not in Variable.keys(prefix=key):
        return None
    return Failure(**json.loads(Variable.get(key)))


def remember(dag_id: str, task_id: str, run_id: str) -> None:
    """Note the failure, unless an earlier one is still open."""
    from airflow.sdk import Variable

    if find(dag_id, task_id):
        return
    failure = Failure(since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), run_id=run_id)
    description = _DESCRIPTION.format(task_id=task_id, dag_id=dag_id)
    Variable.set(
        variable_key(dag_id, task_id), json.dumps(asdict(failure)), description=description
    )


def forget(dag_id: str, task_id: str) -> None:
    """The task works again."""
    from airflow.sdk import Variable

    Variable.delete(variable_key(dag_id, task_id))


def variable_key(dag_id: str, task_id: str) -> str:
    """The Variable of a task; what is too long for Airflow ends with a hash instead."""
    key = f"{_PREFIX}__{dag_id}__{task_id}"
    return (
        key
        if len(key) <= _LONGEST_KEY
        else f"{key[: _LONGEST_KEY - 21]}_{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    )


FRAMES = 3
LONGEST_TEXT = 2500  # Slack refuses a text block above 3000 characters
_CUT_ENTITY = re.compile(r"&\w*$")


def step_name(context: Context) -> str:
    """The task's id; of one that is mapped, with the table it is for."""
    ti = context["ti"]
    mapped = getattr(ti, "map_index", -1) >= 0
    return (
        f"{ti.task_id} [{getattr(context['task'], 'name', ti.map_index)}]"
        if mapped
        else str(ti.task_id)
    )


def failure_message(context: Context) -> dict[str, Any]:
    """A task has failed for good. Without an exception (its process was killed, its host went away)
    it says so."""
    ti, error = context["ti"], context.get("exception")
    title = f":red_circle: {ti.dag_id} failed at {step_name(context)}"
    facts = {
        "Pipeline": ti.dag_id,
        "Step": step_name(context),
        "Run": context["run_id"],
        "When": _now(),
        "Try": _tries(context),
    }
    what, frames = _error_text(error), _last_frames(error)
    where = [f"*Where*\n{_preformatted(frames)}"] if frames else []
    text = f"{title}: {_escape(_first_line(what))}"
    return _message(
        title, text, facts, f"*Error*\n{_preformatted(what)}", *where, _log_link(context)
    )


def recovery_message(context: Context, failure: Failure) -> dict[str, Any]:
    """A task that had failed works again."""
    ti = context["ti"]
    title = f":large_green_circle: {ti.dag_id} works again at {step_name(context)}"
    facts = {
        "Pipeline": ti.dag_id,
        "Step": step_name(context),
        "Run": context["run_id"],
        "When": _now(),
        "Failed since": failure.since,
        "First in run": failure.run_id,
    }
    return _message(title, _escape(title), facts, _log_link(context))


def _message(title: str, text: str, facts: dict[str, str], *sections: str) -> dict[str, Any]:
    fields = [_markdown(f"*{name}*\n{_escape(value)}") for name, value in facts.items()]
    return {
        "text": text,
        "blocks": [
            _section(f"*{_escape(title)}*"),
            {"type": "section", "fields": fields},
            *(_section(section) for section in sections),
        ],
    }


def _tries(context: Context) -> str:
    ti = context["ti"]
    return f"{ti.try_number} of {ti.max_tries + 1}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _log_link(context: Context) -> str:
    return f"<{context['ti'].log_url}|Open the log>"


def _error_text(error: BaseException | str | None) -> str:
    from airflow.providers.common.compat.sdk import redact

    if error is None:
        return "No exception: the task's process was killed or lost. The log has its last lines."
    # `clean` knows what secrets look like, `redact` the passwords of all connections that this task has opened.
    return str(redact(clean(error) if isinstance(error, str) else summary(error)))


def _last_frames(error: BaseException | str | None) -> str:
    if not isinstance(error, BaseException):
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return "\n".join(
        f"{frame.filename}:{frame.lineno} in {frame.name}\n    {frame.line}" for frame in frames
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _markdown(text)}


def _markdown(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}


def _preformatted(text: str) -> str:
    shown = _escape(text.replace("```", "'''"))
    if len(shown) > LONGEST_TEXT:
        shown = _CUT_ENTITY.sub("", shown[:LONGEST_TEXT]) + " ..."
    return f"```{shown}```"


def _escape(text: str) -> str:
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


log = logging.getLogger(__name__)
GIVE_UP_SECONDS = 6.0


def notify_failure(
    context: Context, slack_conn_id: str, events: Sequence[str] = ("failure",)
) -> None:
    """For `on_failure_callback`: posts the failure to the webhook of `slack_conn_id`; never raises.

    With `recovery` among the `events` the failure is also remembered, told or not.
    """
    if "recovery" in events:
        _remember(context)
    if "failure" in events:
        try:
            _post(slack_conn_id, failure_message(context))
        except Exception as error:
            log.warning("Slack was not told about this failure: %s", summary(error))


def notify_recovery(context: Context, slack_conn_id: str) -> None:
    """For `on_success_callback` and `on_skipped_callback`: posts that a task which had failed works
    again.

    Once: the failure is forgotten when Slack was told. Where Slack refuses or cannot be reached the
    task's next success tells it; where Slack took the message and did not answer in time, a second
    one would be worse than none.
    """
    try:
        ti = context["ti"]
        failure = find(ti.dag_id, step_name(context)) if _had_work(context) else None
        if failure is None:
            return
        try:
            _post(slack_conn_id, recovery_message(context, failure))
        except TimeoutError as error:
            log.warning("Slack may not have been told about this recovery: %s", summary(error))
        forget(ti.dag_id, step_name(context))
    except Exception as error:
        log.warning("Slack was not told about this recovery: %s", summary(error))


def _remember(context: Context) -> None:
    try:
        ti = context["ti"]
        remember(ti.dag_id, step_name(context), context["run_id"])
    except Exception as error:
        log.warning("Slack will not be told when this task works again: %s", summary(error))


def _had_work(context: Context) -> bool:
    """A table that this run was told to leave out has not shown that it works."""
    task, chosen = context["task"], (context.get("params") or {}).get("tables")
    return (
        getattr(task, "kind", None) != "extract"
        or not chosen
        or getattr(task, "name", None) in chosen
    )


def _post(slack_conn_id: str, message: dict[str, object]) -> None:
    # Slack's client takes 0.3 s to import, so only when there is something to send.
    from loadsheet.airflow.slack_webhook import post

    until = time.monotonic() + GIVE_UP_SECONDS
    # Slack's client takes 0.3 s to import: only when there is something to tell

    post(slack_conn_id, message, until)
