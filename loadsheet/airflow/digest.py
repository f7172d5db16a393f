"""Sends the daily digests that are due: one message for each place and time, however many pipelines
name it.

Each look of the DAG that watches a project asks what is due. Until when a place has been told is in
a Variable, so that a retry, a cleared task or a later look sends nothing twice, and the first look
after Airflow was down sends one digest for all that time. A process that dies between a message and
the note sends it again; a digest that a route refuses is sent by the next look.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from airflow.sdk import Variable

from loadsheet.airflow.alerts import drift_notes
from loadsheet.airflow.alerts.sending import tell
from loadsheet.airflow.digest_message import digest_message
from loadsheet.airflow.links import page_address
from loadsheet.airflow.operators import airflow_connection
from loadsheet.deadline import limited
from loadsheet.freshness.day import Day, last_due, read_days
from loadsheet.postgres import connect_warehouse
from loadsheet.redact import on_one_line, summary
from loadsheet.spec.models import Pipeline
from loadsheet.spec.routes import Route

_log = logging.getLogger(__name__)
_WAREHOUSE_LIMIT = timedelta(seconds=30)
_STATEMENT_TIMEOUT = "20s"
# So long a place keeps its time although no file names it: a file that is edited, or that an older
# one replaces for an hour, loses no digest.
_REMEMBERED = timedelta(days=7)
_DESCRIPTION = "Until when Loadsheet's digests have told what happened"


@dataclass(kw_only=True)
class _Digest:
    """What is told at one place and time of day."""

    route: Route
    pipelines: list[Pipeline] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """The files that name the route, and have problems."""


def send_due(
    pipelines: Sequence[Pipeline],
    broken: Mapping[str, Sequence[Route]],
    variable: str,
    now: datetime,
    away: dict[str, str],
) -> None:
    """Send the digests of `pipelines` that are due, and note it in the Variable. `broken` has the
    routes that broken files name. `away` has why warehouses cannot be asked, by their connections;
    those that are found to be away are added. Raises what Airflow's API raises, and nothing of a
    warehouse or a route."""
    digests = _by_place(pipelines, broken)
    if not digests:
        return
    stored = Variable.get(variable, default=None)
    told = _times(stored)
    # A place that was never told of anything begins with the next digest.
    dues = dict(_dues(digests, now))
    until = {name: told.get(name, due) for name, due in dues.items()}
    unnamed = told.keys() - dues
    others = {name: told[name] for name in unnamed if now - told[name] < _REMEMBERED}
    if others | until != told:
        _note(variable, others | until)
    was_sent = False
    for name, due in dues.items():
        if until[name] < due and _send(digests[name], until[name], due, away):
            until[name] = due
            # At once: after this, nothing sends it again.
            _note(variable, others | until)
            was_sent = True
    if was_sent:
        _forget_drift(pipelines, min(until.values()))


def _by_place(
    pipelines: Sequence[Pipeline], broken: Mapping[str, Sequence[Route]]
) -> dict[str, _Digest]:
    digests: dict[str, _Digest] = {}
    for pipeline in pipelines:
        for route in pipeline.notify:
            if route.hears("digest"):
                digest = digests.setdefault(_name(route), _Digest(route=route))
                digest.pipelines.append(pipeline)
    for file, routes in broken.items():
        for route in routes:
            if route.hears("digest"):
                digest = digests.setdefault(_name(route), _Digest(route=route))
                digest.broken.append(file)
    return digests


def _name(route: Route) -> str:
    return f"{route.place} at {route.digest_at.removesuffix(' UTC')}"


def _dues(digests: Mapping[str, _Digest], now: datetime) -> Iterator[tuple[str, datetime]]:
    for name, digest in digests.items():
        # What a broken file has there may be no time.
        with suppress(ValueError, OSError, KeyError):
            yield name, last_due(digest.route.digest_at, now)


def _send(digest: _Digest, start: datetime, end: datetime, away: dict[str, str]) -> bool:
    """Whether the route has the digest, or may have it."""
    days = list(_days(digest.pipelines, start, end, away))
    _add_drift(days, start, end)
    message = digest_message(days, digest.broken, start, end, page_address())
    (result,) = tell([digest.route], message, about="the day")
    return not result.refused


def _days(
    pipelines: Sequence[Pipeline], start: datetime, end: datetime, away: dict[str, str]
) -> Iterator[Day]:
    by_warehouse: dict[str, list[Pipeline]] = {}
    for pipeline in pipelines:
        by_warehouse.setdefault(pipeline.warehouse.conn_id, []).append(pipeline)
    for conn_id, its_pipelines in by_warehouse.items():
        days: list[Day] = []
        if conn_id not in away:
            try:
                days = _days_in(conn_id, its_pipelines, start, end)
            except Exception as error:  # the digest tells of the others, and of this
                _log.warning("the warehouse %s cannot be asked: %s", conn_id, summary(error))
                why = f"the warehouse {conn_id} cannot be asked: {on_one_line(summary(error))}"
                away[conn_id] = why
        if conn_id in away:
            days = [Day(pipeline=one.name, unknown=away[conn_id]) for one in its_pipelines]
        yield from days


def _days_in(
    conn_id: str, pipelines: Sequence[Pipeline], start: datetime, end: datetime
) -> list[Day]:
    with (
        limited(f"asking {conn_id}", _WAREHOUSE_LIMIT),
        connect_warehouse(airflow_connection(conn_id)) as session,
    ):
        session.pin({"statement_timeout": _STATEMENT_TIMEOUT}, read_only=True)
        return read_days(session, pipelines, start, end)


def _add_drift(days: Sequence[Day], start: datetime, end: datetime) -> None:
    known = {day.pipeline: day for day in days}
    for note in drift_notes.read_notes():
        if note.pipeline in known and start <= note.at < end:
            known[note.pipeline].drift += note.changes


def _forget_drift(pipelines: Sequence[Pipeline], told: datetime) -> None:
    names = {pipeline.name for pipeline in pipelines}
    for note in drift_notes.read_notes():
        # Another project on this Airflow may have pipelines of its own.
        if note.pipeline in names and note.at < told:
            drift_notes.forget(note)


def _times(text: str | None) -> dict[str, datetime]:
    """What the Variable has; nothing where it was edited to something else."""
    with suppress(ValueError, TypeError, AttributeError):
        stored = json.loads(text or "{}")
        return {name: _in_utc(moment) for name, moment in stored.items()}
    _log.warning("when digests were sent cannot be read: each begins with its next time")
    return {}


def _in_utc(moment: str) -> datetime:
    return datetime.fromisoformat(moment).astimezone(UTC)


def _note(variable: str, until: Mapping[str, datetime]) -> None:
    times = {name: moment.isoformat() for name, moment in until.items()}
    Variable.set(variable, json.dumps(times, ensure_ascii=False), description=_DESCRIPTION)
