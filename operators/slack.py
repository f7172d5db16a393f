"""Tells Slack about a task that has finally failed. Whatever goes wrong here is logged and changes nothing."""

from __future__ import annotations

import logging
import re
import threading
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from operators.redact import clean, summary

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)
REQUEST_TIMEOUT_SECONDS = 5
# The client's timeout holds per read, so a server that answers byte by byte could hold the task: this one does not.
GIVE_UP_SECONDS = 6
FRAMES = 3
LONGEST_TEXT = 2500  # Slack refuses a text block above 3000 characters
_CUT_ENTITY = re.compile(r"&\w*$")


def notify_failure(context: Context, slack_conn_id: str) -> None:
    """Posts the failure to the webhook of `slack_conn_id`. For `on_failure_callback`; never raises."""
    try:
        _post(slack_conn_id, failure_message(context))
    except Exception as error:
        log.warning("Slack was not told about this failure: %s", summary(error))


def failure_message(context: Context) -> dict[str, Any]:
    """The message as Slack's incoming webhooks take it: `text` for notifications, `blocks` for the channel.

    Needs no logical date. Without an exception (the task's process was killed, or its host went away) it says so.
    """
    ti = context["ti"]
    title = f":red_circle: {ti.dag_id} failed at {ti.task_id}"
    facts = {
        "Pipeline": ti.dag_id,
        "Step": ti.task_id,
        "Run": context["run_id"],
        "When": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "Try": _tries(context),
    }
    error = context.get("exception")
    frames = _last_frames(error)
    return {
        "text": f"{title}: {_escape(_first_line(_error_text(error)))}",
        "blocks": [
            _section(f"*{_escape(title)}*"),
            {"type": "section", "fields": [_markdown(f"*{name}*\n{_escape(value)}") for name, value in facts.items()]},
            _section(f"*Error*\n{_preformatted(_error_text(error))}"),
            *([_section(f"*Where*\n{_preformatted(frames)}")] if frames else []),
            _section(f"<{ti.log_url}|Open the log>"),
        ],
    }


def _post(slack_conn_id: str, message: dict[str, Any]) -> None:
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

    # No retries: the client's own would double the time this may take.
    hook = SlackWebhookHook(slack_webhook_conn_id=slack_conn_id, timeout=REQUEST_TIMEOUT_SECONDS, retry_handlers=[])
    hook.get_conn()  # looks the connection up here: Airflow's channel to the supervisor belongs to this thread
    failed: list[Exception] = []

    def send() -> None:
        try:
            hook.send_dict(message)
        except Exception as error:
            failed.append(error)

    sender = threading.Thread(target=send, name="slack", daemon=True)
    sender.start()
    sender.join(GIVE_UP_SECONDS)
    if sender.is_alive():
        raise TimeoutError(f"no answer within {GIVE_UP_SECONDS} s")
    if failed:
        raise failed[0]


def _tries(context: Context) -> str:
    ti = context["ti"]
    return f"{ti.try_number} of {ti.max_tries + 1}"


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
    return "\n".join(f"{frame.filename}:{frame.lineno} in {frame.name}\n    {frame.line}" for frame in frames)


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
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
