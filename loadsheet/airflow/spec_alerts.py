"""Alerts about a pipeline file of the bundle that is broken, and about its repair.

Such a file has no runs, so that no task can report it. Its parse finds the problems, and leaves one
message per change of them in a folder next to the DAG files. The DAG processor sends it with the
next refresh of the bundle: a parse that asked for the connection would stop the whole processor
until it has built Airflow's API in memory, which took 20 s.

A file that was a DAG before is reported on the routes that it had then, a new one on those that its
text names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from airflow.sdk import DAG

from loadsheet.airflow.alerts.message import Message, Thread, Trouble
from loadsheet.airflow.alerts.sending import tell, threads_in
from loadsheet.airflow.dag_ids import routes_in
from loadsheet.airflow.stubs import (
    Stubs,
    alert_of,
    message_file_of,
    thread_file_of,
    write_atomically,
)
from loadsheet.redact import summary
from loadsheet.spec.routes import Route, route_of

_log = logging.getLogger(__name__)
_TRY_AGAIN_SECONDS = 60.0


@dataclass(frozen=True)
class _State:
    """Where messages about a file go, the hash of the problems that were reported last, and the
    places that have heard of earlier ones since the file was last read."""

    routes: tuple[Route, ...]
    reported: str = ""
    told: tuple[str, ...] = ()

    def told_by_now(self, stub: Path) -> tuple[str, ...]:
        """The places that have heard of problems since the file was last read: all but those for
        which a message still waits and that have heard of none before."""
        if not self.reported:
            return ()
        waiting: list[str] = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            waiting = [route.place for route in _left_to(message_file_of(stub))]
        heard = [route.place for route in self.routes if route.hears("broken_spec")]
        return tuple(sorted({*self.told, *heard} - ({*waiting} - {*self.told})))


def report_problems(stub: Path, spec: Path, shown: str, problems: str) -> None:
    """Leave one message, if these `problems` were not reported yet. `stub` is the DAG file of the
    pipeline file `spec`, which messages call `shown`. Never raises."""
    state = _read(stub)
    if state is None:
        state = _State(tuple(routes_in(spec)))
    heard = [route for route in state.routes if route.hears("broken_spec")]
    if not heard:
        return
    reported = hashlib.sha256(problems.encode(errors="replace")).hexdigest()
    if state.reported == reported:
        return
    if _write(stub, replace(state, reported=reported, told=state.told_by_now(stub))):
        _leave(stub, heard, shown, problems)


def report_repair(stub: Path, shown: str, dag: DAG) -> None:
    """Leave one message, if problems of the file were reported and it is a DAG now; note where
    messages about it go. Never raises."""
    before = _read(stub)
    routes: tuple[Route, ...] = getattr(dag, "loadsheet_notify", ())
    if not routes:
        with contextlib.suppress(OSError):
            alert_of(stub).unlink(missing_ok=True)
        return
    after = _State(routes)
    if before == after or not _write(stub, after):
        return
    if before is None or not before.reported:
        return
    # Who was not told of the problems need not be told that they are fixed.
    told = before.told_by_now(stub)
    with contextlib.suppress(OSError):
        message_file_of(stub).unlink()
    heard = [route for route in routes if route.hears_recovery(told)]
    if heard:
        _leave(stub, heard, shown, "")
    else:
        _keep_threads(message_file_of(stub), {})


def _leave(stub: Path, routes: Sequence[Route], shown: str, problems: str) -> None:
    message = {"routes": _keys(routes), "file": shown, "problems": problems}
    try:
        write_atomically(message_file_of(stub), json.dumps(message), drafts=stub.parents[1])
    except OSError as error:
        _log.warning("No message is sent about this file: %s", summary(error))


def _left_to(message_file: Path) -> list[Route]:
    """The routes that a message waits for."""
    return [route_of(keys) for keys in json.loads(message_file.read_text("utf-8"))["routes"]]


def _keys(routes: Sequence[Route]) -> list[dict[str, object]]:
    return [route.as_keys() for route in routes]


def _read(stub: Path) -> _State | None:
    try:
        noted = json.loads(alert_of(stub).read_text(encoding="utf-8"))
        routes = tuple(map(route_of, noted["routes"]))
        return _State(routes, noted["reported"], tuple(noted.get("told", ())))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(stub: Path, state: _State) -> bool:
    """Whether the state could be noted. If not, each parse would leave the same message."""
    noted = {"routes": _keys(state.routes), "reported": state.reported, "told": state.told}
    try:
        write_atomically(alert_of(stub), json.dumps(noted), drafts=stub.parents[1])
    except OSError as error:
        _log.warning("No message is sent about this file: %s", summary(error))
        return False
    return True


def _threads(message_file: Path) -> dict[str, Thread]:
    """The threads of messages about the file's problems, by the places of routes."""
    try:
        noted = json.loads(thread_file_of(message_file).read_text(encoding="utf-8"))
        return {place: {**thread} for place, thread in noted.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep_threads(message_file: Path, threads: Mapping[str, Thread]) -> None:
    file = thread_file_of(message_file)
    # Without the note, the next message begins a thread of its own.
    with contextlib.suppress(OSError):
        if threads:
            write_atomically(file, json.dumps(threads), drafts=file.parents[1])
        else:
            file.unlink(missing_ok=True)


def file_message(file: str, problems: str = "") -> Message:
    """The message that the pipeline file `file` has `problems` or, without any, that it is read
    again."""
    trouble = Trouble(source=file, incident=f"loadsheet_file__{file}", facts={"File": file})
    if not problems:
        return trouble.over("recovery", f"{file} is read again")
    title = f"{file} has problems, and there are no runs of it until they are fixed"
    return trouble.begun("broken_spec", title, {}, {"Problems": problems})


class Messages:
    """Sends what the parses of the DAG files of `stubs` have left."""

    def __init__(self, stubs: Stubs):
        self._folder = stubs.messages
        self._wait_until = 0.0

    def send(self) -> None:
        """Send all messages. What a route refuses, or cannot be sent, is tried again after a minute
        with the messages after it, so that the DAG processor loses at most a tenth of its time."""
        if time.monotonic() < self._wait_until:
            return
        for name in sorted(os.listdir(self._folder)):
            if not self._send(self._folder / name):
                self._wait_until = time.monotonic() + _TRY_AGAIN_SECONDS
                return

    def _send(self, file: Path) -> bool:
        """Whether the message needs no other try."""
        try:
            text = file.read_text(encoding="utf-8")
            left = json.loads(text)
            routes = list(map(route_of, left["routes"]))
            message = file_message(left["file"], left["problems"])
        except FileNotFoundError:  # repaired meanwhile
            return True
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("The message %s cannot be read: %s", file.name, summary(error))
            file.unlink(missing_ok=True)  # else no other would be sent
            return True
        threads = _threads(file)
        results = tell(routes, message, threads)
        refused = [result.delivery.route for result in results if result.refused]
        if left["problems"]:
            _keep_threads(file, {**threads, **threads_in(results)})
        else:
            places = {route.place for route in refused}
            _keep_threads(file, {name: threads[name] for name in threads if name in places})
        if not refused:
            file.unlink(missing_ok=True)
        elif len(refused) < len(routes):
            # Only what is still there: a parse may have left another message, or none.
            with contextlib.suppress(OSError):
                if file.read_text(encoding="utf-8") == text:
                    left = {**left, "routes": _keys(refused)}
                    write_atomically(file, json.dumps(left), drafts=self._folder.parent)
        return not refused
