"""What servers tell the page, without waiting long for any: the page belongs to Airflow's API
server, which has other things to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field, replace
from typing import Any

from airflow.models.connection import Connection as AirflowConnection
from airflow.sdk.exceptions import AirflowNotFoundException

from loadsheet.airflow.command_line import converted
from loadsheet.connections.lookup import Connection, Connections
from loadsheet.errors import ConnectionMissing

LONGEST_WAIT = 5.0
"""Seconds that a request waits for servers."""
FRESH = 5.0
"""Seconds for which an answer is given again: many people look at the same page."""
_KEPT = 60.0
# Each has a thread and a few sessions. Anyone may ask about as many tables and runs as they like.
_MOST_AT_ONCE = 16
_NEVER = float("-inf")
_CONNECT_TIMEOUT = 4

Document = dict[str, Any]
Work = Callable[[Connections], Document]


def stored_connection(conn_id: str) -> Connection:
    """The connection as Airflow's API server finds it (secrets backend, environment, database),
    with a short time to connect unless it has one. Raises ConnectionMissing."""
    try:
        found = AirflowConnection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        raise ConnectionMissing(
            f"Airflow's API server has no connection {conn_id!r}. Add it under Admin > Connections,"
            f" or set AIRFLOW_CONN_{conn_id.upper()} for the API server as well"
        ) from None
    connection = converted(conn_id, found)
    return replace(connection, extra={"connect_timeout": _CONNECT_TIMEOUT, **connection.extra})


def _not_in_time(conn_id: str) -> Connection:
    raise ConnectionMissing(
        f"the server of the connection {conn_id!r} has not answered within {LONGEST_WAIT:g} s, or"
        " too many questions wait for servers; the page shows its answer once there is one"
    )


@dataclass
class _Reading:
    """One piece of work, in a thread of its own."""

    work: Work
    answer: Future[Document] = field(default_factory=Future)
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            answer = self.work(stored_connection)
        except Exception as error:
            self.ended = time.monotonic()
            self.answer.set_exception(error)
        else:
            self.ended = time.monotonic()
            self.answer.set_result(answer)

    def is_older(self, seconds: float) -> bool:
        """Whether it ended longer ago than that."""
        return self.ended is not None and time.monotonic() - self.ended > seconds


class Answers:
    """Keeps the last answer to each question, and asks each question once at a time: a server that
    hangs costs one thread, however many people look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: dict[Hashable, _Reading] = {}
        self._last: dict[Hashable, Document] = {}

    def get(self, questions: dict[Hashable, Work]) -> list[Document]:
        """The answers, in the order of the questions, after LONGEST_WAIT at most.

        Where one is missing by then, it is the last one, or else what the work that has begun makes
        of connections that do not answer. Raises what the work raises.
        """
        if not questions:
            return []
        readings = {key: self._reading(key, work) for key, work in questions.items()}
        # Not longer because others wait already.
        end = max(reading.began for reading in readings.values()) + LONGEST_WAIT
        pending = [reading.answer for reading in readings.values() if reading.began != _NEVER]
        wait_for(pending, timeout=max(0.0, end - time.monotonic()))
        answers = []
        for key, reading in readings.items():
            if reading.answer.done():
                answers.append(reading.answer.result())
            elif key in self._last:
                answers.append(self._last[key])
            else:
                answers.append(reading.work(_not_in_time))
        return answers

    def _reading(self, key: Hashable, work: Work) -> _Reading:
        with self._lock:
            self._forget_old()
            reading = self._readings.get(key)
            if reading and not reading.is_older(FRESH):
                return reading
            if reading and not reading.answer.exception():
                self._last[key] = reading.answer.result()
            unfinished = [one for one in self._readings.values() if not one.answer.done()]
            if len(unfinished) >= _MOST_AT_ONCE:
                return _Reading(work, began=_NEVER)
            reading = self._readings[key] = _Reading(work)
            reading.start()
            return reading

    def _forget_old(self) -> None:
        for key, reading in list(self._readings.items()):
            if reading.is_older(_KEPT):
                del self._readings[key]
                self._last.pop(key, None)
