"""The messages about late tables and marts, and their way to Slack."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from airflow.providers.common.compat.sdk import redact

from loadsheet.airflow import slack
from loadsheet.freshness.watch import Incident, Late
from loadsheet.redact import clean, summary
from loadsheet.wording import age, counted, listed

_log = logging.getLogger(__name__)


def send_all(
    incidents: Iterable[Incident], late: Iterable[Late], routes: Mapping[str, str | None]
) -> list[Incident]:
    """Send the messages of the incidents. Returns those that need no other try: they were sent, may
    have arrived, or their pipeline has no connection in `routes`.

    After one that Slack refused, or that did not reach it, the others wait for the next look as
    well. Never raises.
    """
    by_target = {one.target: one for one in late}
    done: list[Incident] = []
    for incident in incidents:
        conn_id = routes.get(incident.pipeline)
        if conn_id:
            message = over_message(incident) if incident.over else late_message(incident, by_target)
            if not _send(conn_id, message, incident.pipeline):
                break
        done.append(incident)
    return done


def _send(conn_id: str, message: dict[str, Any], pipeline: str) -> bool:
    """Whether the message needs no other try."""
    try:
        slack._post(conn_id, message)
    except TimeoutError as error:
        _log.warning("Slack may not have got the message about %s: %s", pipeline, summary(error))
    except Exception as error:
        _log.warning("Slack did not get the message about %s: %s", pipeline, summary(error))
        return False
    return True


def late_message(incident: Incident, late: Mapping[str, Late]) -> dict[str, Any]:
    """The alarm of an incident. `late` has what is known of its targets."""
    found = [late[target] for target in incident.targets if target in late]
    facts = {
        "Pipeline": incident.pipeline,
        "Late": listed(incident.targets),
        "Age": "; ".join(_age(one) for one in found[:1]),
        "When": slack._now(),
    }
    title = f":hourglass: {incident.pipeline}: {_what(incident.targets)} late"
    cause = _cause(incident)
    return slack._message(title, cause, facts, [f"*Cause*\n{slack._preformatted(cause)}"])


def over_message(incident: Incident) -> dict[str, Any]:
    """The message at the end of an incident."""
    title = f":large_green_circle: {incident.pipeline}: {_what(incident.affected)} fresh again"
    facts = {
        "Pipeline": incident.pipeline,
        "Fresh again": listed(incident.affected),
        "Late since": incident.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "When": slack._now(),
    }
    cause = _cause(incident)
    return slack._message(title, "", facts, [f"*Cause*\n{slack._preformatted(cause)}"])


def _cause(incident: Incident) -> str:
    # `clean` knows what secrets look like, `redact` the passwords of the connections that this task
    # has opened.
    return str(redact(clean(incident.cause)))


def _what(targets: tuple[str, ...]) -> str:
    if len(targets) == 1:
        return f"{targets[0]} is"
    return f"{counted(len(targets), 'table')} and marts are"


def _age(one: Late) -> str:
    limit = age(one.limit.total_seconds())
    if one.age is None:
        return f"{one.target} was never loaded (limit {limit})"
    return f"{one.target} is {age(one.age.total_seconds())} old (limit {limit})"
