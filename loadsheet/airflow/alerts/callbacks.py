"""What Airflow calls when a task of ours has ended. A message that cannot be sent is logged and
never fails the task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loadsheet.airflow.alerts import drift_notes, incidents, sending, task_messages
from loadsheet.airflow.alerts.incidents import Failure, step_name
from loadsheet.airflow.alerts.message import Delivery
from loadsheet.airflow.operators import EarlierTaskFailed
from loadsheet.redact import summary
from loadsheet.spec.routes import EVENTS, Route, route_of

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)


def notify_failure(
    context: Context, routes: Sequence[Mapping[str, Any]] | None = None, **route: Any
) -> None:
    """For `on_failure_callback`: sends the failure on the `routes` that hear of it; never raises.

    A route has the keys of `notify` in a pipeline file. One alone may be given by its keys. If a
    route is to hear of the recovery, the failure is also remembered, even if sending it fails.
    """
    try:
        _notify_failure(context, _routes(routes, route))
    except Exception as error:
        _log.warning("No message was sent about this failure: %s", summary(error))


def notify_success(
    context: Context, routes: Sequence[Mapping[str, Any]] | None = None, **route: Any
) -> None:
    """For `on_success_callback` and `on_skipped_callback`: sends that a task which had failed works
    again, and what schema drift has changed; never raises. Routes are given as to `notify_failure`.

    Each route is told of a recovery once, and the failure is forgotten when all know. One that
    refuses or cannot be reached is told by the task's next success. If it took the message and did
    not answer in time, it may have arrived, and a second message would be worse than none.
    """
    try:
        _notify_success(context, _routes(routes, route))
    except Exception as error:
        _log.warning("No message was sent about this success: %s", summary(error))


def notify_retry(
    context: Context, routes: Sequence[Mapping[str, Any]] | None = None, **route: Any
) -> None:
    """For `on_retry_callback`: sends what schema drift has changed in tables that the try has
    loaded, although it has failed with others; never raises. The next try does not load them again.
    Routes are given as to `notify_failure`."""
    try:
        _tell_drift(context, _routes(routes, route))
    except Exception as error:
        _log.warning("No message was sent about changed columns: %s", summary(error))


def _routes(routes: Sequence[Mapping[str, Any]] | None, route: Mapping[str, Any]) -> list[Route]:
    """The routes that can be used. Those of a pipeline file are checked; others are a user's own
    Python, in which one mistake must not keep the others from their message."""
    usable: list[Route] = []
    for keys in routes or [route]:
        try:
            found = route_of(keys)
            unknown = set(found.events) - {*EVENTS}
            if unknown or isinstance(keys.get("events"), str):
                raise ValueError(f"events is not a list of {', '.join(EVENTS)}")
        except (TypeError, ValueError) as error:
            _log.warning("A route cannot be used, and gets no message: %s", summary(error))
            continue
        usable.append(found)
    return usable


def _notify_failure(context: Context, routes: Sequence[Route]) -> None:
    error = context.get("exception")
    if isinstance(error, EarlierTaskFailed):
        return
    _tell_drift(context, routes)
    event = task_messages.event_of(error)
    heard = [route for route in routes if route.hears(event)]
    places = [route.place for route in heard]
    failure = None
    if any(route.hears_recovery(places) for route in routes):
        try:
            dag_id, task_id = context["ti"].dag_id, step_name(context)
            failure = incidents.remember(dag_id, task_id, context["run_id"], places)
        except Exception as problem:
            _log.warning(
                "There will be no message when this task works again: %s", summary(problem)
            )
    if not heard:
        return
    message = task_messages.failure_message(context)
    threads = failure.threads if failure else {}
    results = sending.tell(heard, message, threads, "this failure")
    if failure:
        now = {**threads, **sending.threads_in(results)}
        told = sending.places_told(results)
        if now != threads or told != places:
            incidents.keep(dag_id, task_id, replace(failure.heard_by(told), threads=now))


def _notify_success(context: Context, routes: Sequence[Route]) -> None:
    deliveries = _of_drift(context, routes)
    failure = None
    try:
        failure = _recovered(context, routes)
    except Exception as error:
        _log.warning("There is no message if this task works again: %s", summary(error))
    if failure:
        message = task_messages.recovery_message(context, failure)
        deliveries += sending.deliveries(_untold(routes, failure), message, failure.threads)
    if not deliveries and failure is None:
        return
    refused = []
    for result in sending.send(deliveries):
        is_recovery = result.delivery.message.event == "recovery"
        sending.log_error(result, "this recovery" if is_recovery else "changed columns")
        if is_recovery and result.refused:
            refused.append(result.delivery.route)
    if failure:
        _settle(context, failure, routes, refused)


def _of_drift(context: Context, routes: Sequence[Route]) -> list[Delivery]:
    """The messages of what schema drift has changed. Notes it for the digest."""
    drift = getattr(context["task"], "drift", {})
    if not drift:
        return []
    if any(route.hears("digest") for route in routes):
        _note_drift(context, drift)
    heard = [route for route in routes if route.hears("drift")]
    return sending.deliveries(heard, task_messages.drift_message(context, drift))


def _tell_drift(context: Context, routes: Sequence[Route]) -> None:
    """Tell it of a task that has failed: a batch may have loaded other tables."""
    for result in sending.send(_of_drift(context, routes)):
        sending.log_error(result, "changed columns")


def _note_drift(context: Context, drift: Mapping[str, Sequence[str]]) -> None:
    try:
        drift_notes.remember(context, drift)
    except Exception as error:
        _log.warning("The digest will not tell of changed columns: %s", summary(error))


def _recovered(context: Context, routes: Sequence[Route]) -> Failure | None:
    """The failure that is over, if there was one that a route hears of."""
    if not any("recovery" in route.events for route in routes) or not _had_work(context):
        return None
    return incidents.open_failure(context["ti"].dag_id, step_name(context))


def _untold(routes: Sequence[Route], failure: Failure) -> list[Route]:
    """The routes that hear that the failure is over, and do not know yet."""
    return [
        route
        for route in routes
        if route.hears_recovery(failure.heard) and route.place not in failure.told
    ]


def _settle(
    context: Context, failure: Failure, routes: Sequence[Route], refused: Sequence[Route]
) -> None:
    """Forget the failure, or note who knows that it is over while others do not."""
    dag_id, task_id = context["ti"].dag_id, step_name(context)
    if not refused:
        incidents.forget(dag_id, task_id)
        return
    told = [route.place for route in _untold(routes, failure) if route not in refused]
    if told:
        incidents.keep(dag_id, task_id, replace(failure, told=(*failure.told, *told)))


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
