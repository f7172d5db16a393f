"""Whether the servers of a pipeline answer and accept the login, asked once per connection before
anything runs.

Without it, a server that is away or refuses the login would fail every table's step by itself, each
after its retries.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from loadsheet.deadline import limited
from loadsheet.engine.diagnosis import diagnose
from loadsheet.engine.sessions import KeptServers
from loadsheet.errors import InputError, LoadsheetError, Refused, Unavailable
from loadsheet.lake.manifest import load_prefix
from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)

# As long as libpq tries, and a little more for what the first session asks.
_LONGEST_TRY = timedelta(seconds=12)
_POLL_SECONDS = 1.0

End = Literal["source", "lake", "warehouse"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server that a pipeline uses. `bucket` and `prefix` are the lake's: the prefix, with its
    slash, below which one of the pipelines with this bucket may list."""

    end: End
    conn_id: str
    bucket: str = ""
    prefix: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"the {self.end} (connection {self.conn_id!r})"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a server cannot be used. `may_pass` tells whether waiting may help."""

    place: Place
    text: str
    may_pass: bool
    is_input: bool = False
    """The connection itself is missing or wrong."""
    is_login: bool = False
    """The server answered, and does not accept the login."""

    @property
    def short(self) -> str:
        """Why, in a few words."""
        if self.is_input:
            return "the connection is missing or wrong"
        if self.is_login:
            return "the login is refused"
        return "no answer" if self.may_pass else "refused"

    def __str__(self) -> str:
        return self.text if self.is_input else f"{self.place}: {self.text}"


OnWait = Callable[[Sequence[Refusal], float], None]


def places(pipeline: Pipeline) -> list[Place]:
    """The servers of the pipeline."""
    lake = pipeline.lake
    return [
        Place(end="source", conn_id=pipeline.source.conn_id),
        Place(end="lake", conn_id=lake.conn_id, bucket=lake.bucket, prefix=load_prefix(pipeline)),
        Place(end="warehouse", conn_id=pipeline.warehouse.conn_id),
    ]


def preflight(pipeline: Pipeline, servers: KeptServers, on_wait: OnWait) -> None:
    """Returns when all servers of the pipeline answer and accept the login. The first steps use the
    sessions that were opened for that.

    A server that is away may be restarting: it is asked again for as long as the retries of a step
    would take (tasks.retries times tasks.retry_delay). `on_wait` is called once, with what is
    refused and the seconds to wait. What waiting cannot help is raised at once.

    Raises InputError for a connection that is missing or wrong, Refused and Unavailable with what
    each server refuses.
    """
    tasks = pipeline.tasks
    patience = tasks.retries * tasks.retry_delay.total_seconds()
    deadline = time.monotonic() + patience
    refusals = refused(places(pipeline), servers)
    has_waited = False
    while refusals:
        for refusal in refusals:
            _log.info("%s", refusal)
        if not all(refusal.may_pass for refusal in refusals) or time.monotonic() >= deadline:
            raise _error(refusals)
        if not has_waited:
            on_wait(refusals, patience)
            has_waited = True
        time.sleep(min(_POLL_SECONDS, max(deadline - time.monotonic(), 0.0)))
        refusals = refused([refusal.place for refusal in refusals], servers)


def refused(asked: Iterable[Place], servers: KeptServers) -> list[Refusal]:
    """The refusals of these servers, which are asked at the same time. One that is both source and
    warehouse is asked once."""
    once: dict[tuple[str, str], Place] = {}
    for place in asked:
        once.setdefault((place.conn_id, place.bucket), place)
    with ThreadPoolExecutor(len(once), thread_name_prefix="loadsheet-preflight") as pool:
        futures = [pool.submit(copy_context().run, _ask, place, servers) for place in once.values()]
        answers = [future.result() for future in futures]
    return [answer for answer in answers if answer is not None]


def refusal_of(place: Place, error: Exception) -> Refusal | None:
    """The refusal that `error` means; None for a bug."""
    if isinstance(error, InputError):
        return Refusal(place=place, text=str(error), may_pass=False, is_input=True)
    if isinstance(error, LoadsheetError):
        return Refusal(place=place, text=str(error), may_pass=error.retryable)
    diagnosis = diagnose(error)
    if diagnosis is None:
        return None
    advice = f"{diagnosis.cause.why}. Next: {diagnosis.cause.next}"
    text = f"{diagnosis.text_with_code}. {advice}"
    cause = diagnosis.cause
    return Refusal(place=place, text=text, may_pass=cause.retryable, is_login=cause.is_login)


def _ask(place: Place, servers: KeptServers) -> Refusal | None:
    try:
        # Not within the limit, which is the server's: to ask Airflow means to import it.
        servers.find_connection(place.conn_id)
        with limited(f"connecting to {place}", _LONGEST_TRY):
            _reach(place, servers)
    except Exception as error:
        refusal = refusal_of(place, error)
        if refusal is None:
            raise
        return refusal
    return None


def _reach(place: Place, servers: KeptServers) -> None:
    """Log in. Raises what the server, a pooler or the driver raises."""
    if place.end == "lake":
        servers.lake.exists(place.prefix)
        return
    with servers.source() if place.end == "source" else servers.warehouse() as session:
        session.prove_transactions()


def _error(refusals: Sequence[Refusal]) -> LoadsheetError:
    text = "\n".join(map(str, refusals))
    if any(refusal.is_input for refusal in refusals):
        return InputError(text)
    if all(refusal.may_pass for refusal in refusals):
        return Unavailable(text)
    return Refused(text)
