"""Sends messages on all routes at once, within a few seconds in sum or not at all.

One route that is slow, away or wrong keeps no other from its message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadsheet.airflow.alerts.message import Delivery, Message, PartlyDelivered, Post, Thread
from loadsheet.redact import on_one_line, register_secrets, secrets_in, summary
from loadsheet.spec.routes import Route
from loadsheet.wording import shortened

if TYPE_CHECKING:
    from airflow.sdk import Connection

_log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 6.0
"""For all messages of a task in sum."""
_LONGEST_REASON = 500  # a receiver may answer with a whole page
_SHOWN_AS = {
    "slack": "Slack",
    "email": "Email",
    "teams": "Teams",
    "pagerduty": "PagerDuty",
    "webhook": "The webhook",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a delivery."""

    delivery: Delivery
    error: Exception | None = None
    """TimeoutError if the message may have arrived, but no answer came in time. PartlyDelivered if
    it did for some."""
    thread: Thread | None = None

    @property
    def refused(self) -> bool:
        """Whether it is certain that the message did not arrive."""
        arrived = isinstance(self.error, (TimeoutError, PartlyDelivered))
        return self.error is not None and not arrived


def tell(
    routes: Iterable[Route],
    message: Message,
    threads: Mapping[str, Thread] | None = None,
    about: str = "",
) -> list[Result]:
    """Send `message` on the routes; log what did not arrive, as one `about` its source or what is
    given. `threads`, by the routes' places, are those that it follows. Never raises for a route
    that does not work."""
    results = send(deliveries(routes, message, threads))
    for result in results:
        log_error(result, about or message.source)
    return results


def deliveries(
    routes: Iterable[Route], message: Message, threads: Mapping[str, Thread] | None = None
) -> list[Delivery]:
    """The message on each of the routes, in the thread of its place if there is one."""
    known = threads or {}
    return [
        Delivery(route=route, message=message, thread=known.get(route.place)) for route in routes
    ]


def threads_in(results: Iterable[Result]) -> dict[str, Thread]:
    """The threads that the messages are in, or have begun, by their places."""
    return {result.delivery.route.place: result.thread for result in results if result.thread}


def places_told(results: Iterable[Result]) -> list[str]:
    """The places that have the message, or may have it."""
    return [result.delivery.route.place for result in results if not result.refused]


def send(deliveries: Sequence[Delivery]) -> list[Result]:
    """Send all messages at the same time, and wait for at most GIVE_UP_SECONDS.

    Connections are looked up in this thread, which owns Airflow's channel to the supervisor.
    """
    until = time.monotonic() + GIVE_UP_SECONDS
    senders = [_Sender(delivery, until) for delivery in deliveries]
    return [sender.result() for sender in senders]


class _Sender:
    """Sends one message in a thread of its own, which is left alone when the time is up."""

    def __init__(self, delivery: Delivery, until: float):
        self._delivery = delivery
        self._until = until
        self._ended = Result(delivery=delivery, error=TimeoutError("no answer in time"))
        self._thread: threading.Thread | None = None
        try:
            self._post = _prepared(delivery, until)
            sender = threading.Thread(target=self._run, name="alert", daemon=True)
            sender.start()
            self._thread = sender
        except Exception as error:
            self._ended = Result(delivery=delivery, error=error)

    def _run(self) -> None:
        try:
            self._ended = Result(delivery=self._delivery, thread=self._post())
        except Exception as error:
            self._ended = Result(delivery=self._delivery, error=error)

    def result(self) -> Result:
        """What became of it, when the time is up at the latest."""
        if self._thread:
            self._thread.join(max(0.0, self._until - time.monotonic()))
        return self._ended


def log_error(result: Result, about: str) -> None:
    """A warning if the message `about` something did not arrive, or may not have."""
    if result.error is None:
        return
    route = result.delivery.route
    sure = "did not get" if result.refused else "may not have got"
    _log.warning(
        "%s %s the message about %s (connection %s): %s",
        _SHOWN_AS[route.kind],
        sure,
        about,
        route.conn_id,
        on_one_line(shortened(summary(result.error), _LONGEST_REASON)),
    )


def _prepared(delivery: Delivery, until: float) -> Post:
    """The post that is ready to be made. Raises for a connection that is not there or not fit."""
    from airflow.sdk import Connection

    # The clients take up to 0.3 s to import, so only when there is something to send.
    connection = Connection.get(delivery.route.conn_id)
    _hide_secrets(connection)
    match delivery.route.kind:
        case "slack":
            from loadsheet.airflow.alerts.slack_posting import prepared
        case "email":
            from loadsheet.airflow.alerts.email import prepared
        case "teams":
            from loadsheet.airflow.alerts.teams import prepared
        case "pagerduty":
            from loadsheet.airflow.alerts.pagerduty import prepared
        case "webhook":
            from loadsheet.airflow.alerts.webhook import prepared
    return prepared(delivery, connection, until)


def _hide_secrets(connection: Connection) -> None:
    """An error may quote the address, which is the secret of most webhooks."""
    register_secrets(connection.password or "", *secrets_in(connection.extra_dejson))
