"""The messages about late tables and marts, and their way on the routes that hear of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from loadsheet.airflow.alerts.message import Message, Trouble
from loadsheet.airflow.alerts.sending import places_told, tell, threads_in
from loadsheet.freshness.watch import Incident, Late, Told
from loadsheet.spec.routes import Route
from loadsheet.wording import age, counted, listed

SECONDS = 120.0
"""For the messages of one look, which has 4 minutes for all that it does. A receiver may take
seconds for each of hundreds; the next look sends the others."""


def send_all(
    incidents: Iterable[Incident], late: Iterable[Late], routes: Mapping[str, Sequence[Route]]
) -> Iterator[tuple[Incident, Told]]:
    """Send the messages of the incidents, each on the `routes` of its pipeline that hear of them,
    and that of an incident's end to those that have its alarm, in the thread of it. Each is to be
    noted before the next one is asked for.

    A message that was sent and not answered in time may have arrived, and is not sent again. What
    has not worked once is not tried again by this look, which would take too long. Never raises for
    a route that does not work.
    """
    by_target = {(one.pipeline, one.target): one for one in late}
    until = time.monotonic() + SECONDS
    failed: set[str] = set()
    for incident in incidents:
        if time.monotonic() > until:
            return
        heard = [route for route in routes.get(incident.pipeline, ()) if route.hears("late")]
        if incident.over:
            heard = [route for route in heard if route.place in incident.heard]
        untold = [route for route in heard if route.place not in incident.places]
        message = over_message(incident) if incident.over else late_message(incident, by_target)
        tried = [route for route in untold if route.place not in failed]
        threads = {place: dict(thread) for place, thread in incident.threads.items()}
        results = tell(tried, message, threads)
        failed |= {result.delivery.route.place for result in results if result.error}
        places = [*incident.places, *places_told(results)]
        is_complete = all(route.place in places for route in heard)
        yield (
            incident,
            Told(places=places, is_complete=is_complete, threads=threads_in(results)),
        )


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
