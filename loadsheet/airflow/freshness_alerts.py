"""The messages about late tables and marts, and their way on the routes that hear of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loadsheet.airflow.alerts.message import Message, Thread, Trouble
from loadsheet.airflow.alerts.sending import tell, threads_in
from loadsheet.freshness.watch import Incident, Late
from loadsheet.spec.routes import Route
from loadsheet.wording import age, counted, listed


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of the messages about incidents."""

    told: dict[Incident, list[str] | None] = field(default_factory=dict)
    """None for an incident that needs no other try, else the places that know of it."""
    threads: dict[Incident, dict[str, Thread]] = field(default_factory=dict)
    """Those that their messages have begun, by place."""


def send_all(
    incidents: Iterable[Incident], late: Iterable[Late], routes: Mapping[str, Sequence[Route]]
) -> Sent:
    """Send the messages of the incidents, each on the `routes` of its pipeline that hear of them,
    and that of an incident's end in the thread of its alarm.

    A message that was sent and not answered in time may have arrived, and is not sent again. What
    has not worked once is not tried again by this look, which would take too long. Never raises for
    a route that does not work.
    """
    by_target = {(one.pipeline, one.target): one for one in late}
    sent = Sent()
    failed: set[str] = set()
    for incident in incidents:
        heard = [route for route in routes.get(incident.pipeline, ()) if route.hears("late")]
        untold = [route for route in heard if route.place not in incident.places]
        message = over_message(incident) if incident.over else late_message(incident, by_target)
        tried = [route for route in untold if route.place not in failed]
        threads = {place: dict(thread) for place, thread in incident.threads.items()}
        results = tell(tried, message, threads)
        places = list(incident.places)
        for result in results:
            if result.error:
                failed.add(result.delivery.route.place)
            if not result.refused:
                places.append(result.delivery.route.place)
        is_complete = all(route.place in places for route in heard)
        sent.told[incident] = None if is_complete else places
        sent.threads[incident] = threads_in(results)
    return sent


def late_message(incident: Incident, late: Mapping[tuple[str, str], Late]) -> Message:
    """The alarm of an incident. `late` has what is known of its targets."""
    facts = {"Late": listed(incident.targets)}
    first = late.get((incident.pipeline, incident.targets[0]))
    if first:
        facts["Age"] = _age(first)
    title = f"{incident.pipeline}: {_what(incident.targets)} late"
    return _trouble(incident).begun("late", title, facts, {"Cause": incident.cause})


def over_message(incident: Incident) -> Message:
    """The message at the end of an incident."""
    facts = {
        "Fresh again": listed(incident.affected),
        "Late since": incident.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    title = f"{incident.pipeline}: {_what(incident.affected)} fresh again"
    return _trouble(incident).over("late", title, facts, {"Cause": incident.cause})


def _trouble(incident: Incident) -> Trouble:
    name = f"loadsheet_late__{incident.pipeline}__{incident.since.isoformat()}__{incident.key}"
    facts = {"Pipeline": incident.pipeline}
    return Trouble(source=incident.pipeline, incident=name, facts=facts)


def _what(targets: tuple[str, ...]) -> str:
    if len(targets) == 1:
        return f"{targets[0]} is"
    return f"{counted(len(targets), 'table')} and marts are"


def _age(one: Late) -> str:
    limit = age(one.limit.total_seconds())
    if one.age is None:
        return f"{one.target} was never loaded (limit {limit})"
    return f"{one.target} is {age(one.age.total_seconds())} old (limit {limit})"
