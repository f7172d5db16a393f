"""Slack messages about failed and recovered tasks. A failure to send is logged and never fails a
task.

A task has recovered if it works after an open failure, which a Variable remembers. Airflow's
history cannot tell: triggered runs have no date to order them by, and clearing a task removes its
earlier result. XCom and the task's state store end with the run. A Variable can be read and written
by a task and, if the task's process was lost, by the DAG processor.

Nothing here needs a logical date, because a triggered run has none.
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
from urllib.parse import quote

from loadsheet.airflow.operators import EarlierTaskFailed
from loadsheet.redact import clean, on_one_line, summary, visible

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 6.0
FRAMES = 3
LONGEST_TEXT = 2500  # Slack refuses a text block above 3000 characters
LONGEST_NAME = 500  # and a field above 2000
# As they stand in the name of a table, `*` and `~` would make the rest bold or struck out. A `_`
# within a word does nothing.
_UNFORMATTED = {ord("*"): "∗", ord("~"): "∼", ord("`"): "ˋ"}
_CUT_ENTITY = re.compile(r"&\w*$")

_PREFIX = "loadsheet_failed"
_LONGEST_KEY = 250  # of a Variable, in Airflow's database
_HASH_LENGTH = 20
_DESCRIPTION = (
    "{task_id} of {dag_id} has failed and not worked since; Loadsheet removes this when it does"
)


def notify_failure(
    context: Context, slack_conn_id: str, events: Sequence[str] = ("failure",)
) -> None:
    """For `on_failure_callback`: posts the failure to the webhook of `slack_conn_id`; never raises.

    With `recovery` among the `events`, the failure is also remembered, even if posting it fails.
    """
    if isinstance(context.get("exception"), EarlierTaskFailed):
        return
    if "recovery" in events:
        try:
            remember(context["ti"].dag_id, step_name(context), context["run_id"])
        except Exception as error:
            _log.warning("Slack will get no message when this task works again: %s", summary(error))
    if "failure" in events:
        try:
            _post(slack_conn_id, failure_message(context))
        except Exception as error:
            _log.warning("Slack did not get the message about this failure: %s", summary(error))


def notify_recovery(context: Context, slack_conn_id: str) -> None:
    """For `on_success_callback` and `on_skipped_callback`: posts that a task which had failed works
    again; never raises.

    It does so once: when the message was sent, the failure is forgotten. If Slack refuses or cannot
    be reached, the task's next success posts it. If Slack took the message and did not answer in
    time, it may have arrived, and a second message would be worse than none.
    """
    try:
        if not _had_work(context):
            return
        dag_id = context["ti"].dag_id
        task_id = step_name(context)
        failure = open_failure(dag_id, task_id)
        if failure is None:
            return
        try:
            _post(slack_conn_id, recovery_message(context, failure))
        except TimeoutError as error:
            _log.warning(
                "Slack may not have got the message about this recovery: %s", summary(error)
            )
        forget(dag_id, task_id)
    except Exception as error:
        _log.warning("Slack did not get the message about this recovery: %s", summary(error))


def _had_work(context: Context) -> bool:
    """Whether the task had something to do: a table that the run leaves out has not
    shown that it works, nor has the verify step of a run that leaves out tables."""
    task = context["task"]
    chosen = (context.get("params") or {}).get("tables")
    kind = getattr(task, "kind", None)
    if kind not in ("extract", "table", "batch", "verify") or not chosen:
        return True
    if kind == "batch":
        return set(getattr(task, "tables", ())) <= set(chosen)
    return kind != "verify" and getattr(task, "name", None) in chosen


def _post(slack_conn_id: str, message: dict[str, object]) -> None:
    # Slack's client takes 0.3 s to import, so only when there is something to send.
    from loadsheet.airflow.slack_webhook import post

    post(slack_conn_id, message, time.monotonic() + GIVE_UP_SECONDS)


@dataclass(frozen=True)
class Failure:
    """The first failure since the task last worked."""

    since: str
    run_id: str


def open_failure(dag_id: str, task_id: str) -> Failure | None:
    """The task's failure, if it has not worked since. For a task without one, this is one small
    request to Airflow's API, and none to a secrets backend."""
    from airflow.sdk import Variable

    key = variable_key(dag_id, task_id)
    if key not in Variable.keys(prefix=key):
        return None
    return Failure(**json.loads(Variable.get(key)))


def open_failures(dag_id: str, task_ids: Sequence[str]) -> set[str]:
    """Those of the tasks that have failed and not worked since, by one request for all of them."""
    from airflow.sdk import Variable

    # A key that is too long ends with a hash, and begins as the others do.
    prefix = variable_key(dag_id, "")[: _LONGEST_KEY - _HASH_LENGTH - 1]
    failed = set(Variable.keys(prefix=prefix))
    return {task_id for task_id in task_ids if variable_key(dag_id, task_id) in failed}


def remember(dag_id: str, task_id: str, run_id: str) -> None:
    """Store the failure, unless an earlier one is still open."""
    from airflow.sdk import Variable

    if open_failure(dag_id, task_id):
        return
    failure = Failure(since=_now(), run_id=run_id)
    description = _DESCRIPTION.format(task_id=task_id, dag_id=dag_id)
    Variable.set(
        variable_key(dag_id, task_id), json.dumps(asdict(failure)), description=description
    )


def forget(dag_id: str, task_id: str) -> None:
    """Remove the failure: the task works again."""
    from airflow.sdk import Variable

    Variable.delete(variable_key(dag_id, task_id))


def variable_key(dag_id: str, task_id: str) -> str:
    """The name of the task's Variable; if it is too long for Airflow, it ends with a hash."""
    key = f"{_PREFIX}__{dag_id}__{task_id}"
    if len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{key[: _LONGEST_KEY - _HASH_LENGTH - 1]}_{digest}"


def step_name(context: Context) -> str:
    """The task's id, followed by its table if it is a mapped task."""
    ti = context["ti"]
    if getattr(ti, "map_index", -1) < 0:
        return str(ti.task_id)
    table = getattr(context["task"], "name", ti.map_index)
    return f"{ti.task_id} [{table}]"


def failure_message(context: Context) -> dict[str, Any]:
    """The message about a task that has failed and is not tried again."""
    ti = context["ti"]
    title = f":red_circle: {ti.dag_id} failed at {step_name(context)}"
    facts = {
        "Pipeline": ti.dag_id,
        "Step": step_name(context),
        "Run": context["run_id"],
        "When": _now(),
        "Try": _tries(ti),
    }
    from airflow.providers.common.compat.sdk import redact

    error = context.get("exception")
    if error is None:
        error_text = (
            "No exception: the task's process was killed or lost. The log has its last lines."
        )
    else:
        error_text = clean(error) if isinstance(error, str) else summary(error)
        # `clean` and `summary` know what secrets look like, `redact` the passwords of the
        # connections that this task has opened.
        error_text = str(redact(error_text))
    sections = [f"*Error*\n{_preformatted(error_text)}"]
    frames: list[str] = []
    if isinstance(error, BaseException):
        for frame in traceback.extract_tb(error.__traceback__)[-FRAMES:]:
            frames.append(f"{frame.filename}:{frame.lineno} in {frame.name}\n    {frame.line}")
    if frames:
        where = "\n".join(frames)
        sections.append(f"*Where*\n{_preformatted(where)}")
    sections.append(_log_link(context))
    first_line = error_text.partition("\n")[0]
    return _message(title, first_line, facts, sections)


def _tries(ti: Any) -> str:
    """Which try has failed for good: the last one, or one after which none can help."""
    if ti.try_number > ti.max_tries:
        return f"{ti.try_number} of {ti.max_tries + 1}"
    return f"{ti.try_number}, not retried"


def recovery_message(context: Context, failure: Failure) -> dict[str, Any]:
    """The message about a task that had failed and works again."""
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
    return _message(title, "", facts, [_log_link(context)])


def post_file_message(slack_conn_id: str, file: str, problems: str = "") -> None:
    """Post that the pipeline file `file` has `problems`, or, without any, that it is read again.
    Raises as `slack_webhook.post`."""
    facts = {"File": file, "When": _now()}
    if not problems:
        title = f":large_green_circle: {file} is read again"
        _post(slack_conn_id, _message(title, "", facts, []))
        return
    title = f":red_circle: {file} has problems, and there are no runs of it until they are fixed"
    text = clean(problems)
    first_line = text.partition("\n")[0]
    section = f"*Problems*\n{_preformatted(text)}"
    _post(slack_conn_id, _message(title, first_line, facts, [section]))


def _message(
    title: str, first_line: str, facts: dict[str, str], sections: list[str]
) -> dict[str, Any]:
    """The message; a notification on a screen shows its title and the `first_line` of its text.

    Title, line and facts come as they are, and are escaped and cut here. A section has been made by
    `_preformatted` or `_log_link`.
    """
    notification = f"{title}: {first_line}" if first_line else title
    fields = [_markdown(f"*{name}*\n{_short(value)}") for name, value in facts.items()]
    blocks = [_section(f"*{_short(title)}*"), {"type": "section", "fields": fields}]
    for section in sections:
        blocks.append(_section(section))
    return {"text": _short(notification), "blocks": blocks}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _log_link(context: Context) -> str:
    # A run's id is part of it. Within the brackets, a `|` or `>` would end the address.
    address = "".join(quote(sign) if sign in '<>|"` ' else sign for sign in context["ti"].log_url)
    link = f"<{_escape(on_one_line(address))}|Open the log>"
    return link if len(link) <= LONGEST_TEXT else "_The address of the log is too long for Slack_"


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _markdown(text)}


def _markdown(text: str) -> dict[str, Any]:
    # Verbatim: Slack makes no link of what looks like an address, a channel or a person.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _preformatted(text: str) -> str:
    # Three backticks would end the block.
    without_end = text.replace("```", "'''")
    return f"```{_cut(_escape(without_end), LONGEST_TEXT)}```"


def _short(text: str) -> str:
    """A title or a name, on one line. Signs that format text become ones that look like them."""
    plain = on_one_line(text).translate(_UNFORMATTED)
    return _cut(_escape(plain), LONGEST_NAME)


def _cut(escaped: str, longest: int) -> str:
    if len(escaped) <= longest:
        return escaped
    # The cut may leave half of an entity such as `&amp;`.
    return _CUT_ENTITY.sub("", escaped[:longest]) + " ..."


def _escape(text: str) -> str:
    # Slack reads links and mentions from these three characters.
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
