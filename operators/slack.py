"""Tells Slack about a task that has failed for good, and when it works again. Whatever goes wrong here is logged and
changes nothing: Airflow calls these when the task's state is settled."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loadsheet.redact import summary
from operators import open_failures
from operators.slack_messages import failure_message, recovery_message, step_name

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)
GIVE_UP_SECONDS = 6.0


def notify_failure(context: Context, slack_conn_id: str, events: Sequence[str] = ("failure",)) -> None:
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
    """For `on_success_callback` and `on_skipped_callback`: posts that a task which had failed works again.

    Once: the failure is forgotten when Slack was told. Where Slack refuses or cannot be reached the task's next
    success tells it; where Slack took the message and did not answer in time, a second one would be worse than none.
    """
    try:
        ti = context["ti"]
        failure = open_failures.find(ti.dag_id, step_name(context)) if _had_work(context) else None
        if failure is None:
            return
        try:
            _post(slack_conn_id, recovery_message(context, failure))
        except TimeoutError as error:
            log.warning("Slack may not have been told about this recovery: %s", summary(error))
        open_failures.forget(ti.dag_id, step_name(context))
    except Exception as error:
        log.warning("Slack was not told about this recovery: %s", summary(error))


def _remember(context: Context) -> None:
    try:
        ti = context["ti"]
        open_failures.remember(ti.dag_id, step_name(context), context["run_id"])
    except Exception as error:
        log.warning("Slack will not be told when this task works again: %s", summary(error))


def _had_work(context: Context) -> bool:
    """A table that this run was told to leave out has not shown that it works."""
    task, chosen = context["task"], (context.get("params") or {}).get("tables")
    return getattr(task, "kind", None) != "extract" or not chosen or getattr(task, "name", None) in chosen


def _post(slack_conn_id: str, message: dict[str, object]) -> None:
    until = time.monotonic() + GIVE_UP_SECONDS
    from operators.webhook import post  # Slack's client takes 0.3 s to import: only when there is something to tell

    post(slack_conn_id, message, until)
