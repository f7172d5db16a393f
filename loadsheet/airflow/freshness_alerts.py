"""The messages about late tables and marts, and their way on the routes that hear of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from airflow.providers.common.compat.sdk import redact

from loadsheet.airflow.alerts.message import Delivery, Message, message_of
from loadsheet.airflow.alerts.sending import log_error, send
from loadsheet.freshness.watch import Incident, Late
from loadsheet.redact import clean
from loadsheet.spec.routes import Route
from loadsheet.wording import age, counted, listed


def send_all(
    incidents: Iterable[Incident], late: Iterable[Late], routes: Mapping[str, Sequence[Route]]
) -> dict[Incident, list[str] | None]:
    """Send the messages of the incidents, each on the `routes` of its pipeline that hear of them.

    Returns None for an incident that needs no other try, else the places that know of it. A message
    that was sent and not answered in time may have arrived, and is not sent again. What has not
    worked once is not tried again by this look, which would take too long. Never raises for a route
    that does not work.
    """
    by_target = {(one.pipeline, one.target): one for one in late}
    told: dict[Incident, list[str] | None] = {}
    failed: set[str] = set()
    for incident in incidents:
        heard = [route for route in routes.get(incident.pipeline, ()) if route.hears("late")]
        untold = [route for route in heard if route.place not in incident.places]
        message = over_message(incident) if incident.over else late_message(incident, by_target)
        tried = [route for route in untold if route.place not in failed]
        results = send([Delivery(route=route, message=message) for route in tried])
        places = list(incident.places)
        for result in results:
            log_error(result, incident.pipeline)
            if result.error:
                failed.add(result.delivery.route.place)
            if not result.refused:
                places.append(result.delivery.route.place)
        is_complete = all(route.place in places for route in heard)
        told[incident] = None if is_complete else places
    return told


def late_message(incident: Incident, late: Mapping[tuple[str, str], Late]) -> Message:
    """The alarm of an incident. `late` has what is known of its targets."""
    facts = {"Pipeline": incident.pipeline, "Late": listed(incident.targets)}
    first = late.get((incident.pipeline, incident.targets[0]))
    if first:
        facts["Age"] = _age(first)
    return message_of(
        event="late",
        state="open",
        title=f"{incident.pipeline}: {_what(incident.targets)} late",
        source=incident.pipeline,
        facts=facts,
        sections={"Cause": _cause(incident)},
        incident=_name(incident),
    )


def over_message(incident: Incident) -> Message:
    """The message at the end of an incident."""
    return message_of(
        event="late",
        state="resolved",
        title=f"{incident.pipeline}: {_what(incident.affected)} fresh again",
        source=incident.pipeline,
        facts={
            "Pipeline": incident.pipeline,
            "Fresh again": listed(incident.affected),
            "Late since": incident.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
        },
        sections={"Cause": _cause(incident)},
        incident=_name(incident),
    )


def _name(incident: Incident) -> str:
    return f"loadsheet_late__{incident.pipeline}__{incident.since.isoformat()}__{incident.key}"


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
