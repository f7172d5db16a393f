"""What Slack is told, as incoming webhooks take it: `text` for notifications, `blocks` for the channel.

Needs no logical date: a run that somebody triggers has none.
"""

from __future__ import annotations

import re
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from loadsheet.redact import clean, summary
from loadsheet.visible import visible

if TYPE_CHECKING:
    from airflow.sdk import Context

    from operators.open_failures import Failure

FRAMES = 3
LONGEST_TEXT = 2500  # Slack refuses a text block above 3000 characters
_CUT_ENTITY = re.compile(r"&\w*$")


def step_name(context: Context) -> str:
    """The task's id; of one that is mapped, with the table it is for."""
    ti = context["ti"]
    mapped = getattr(ti, "map_index", -1) >= 0
    return f"{ti.task_id} [{getattr(context['task'], 'name', ti.map_index)}]" if mapped else str(ti.task_id)


def failure_message(context: Context) -> dict[str, Any]:
    """A task has failed for good. Without an exception (its process was killed, its host went away) it says so."""
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
    return _message(title, text, facts, f"*Error*\n{_preformatted(what)}", *where, _log_link(context))


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
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
