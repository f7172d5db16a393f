"""Slack messages about a pipeline file of the bundle that is broken, and about its repair.

Such a file has no runs, so that no task can report it. Its parse finds the problems, and leaves one
message per change of them in a folder next to the DAG files. The DAG processor sends it with the
next refresh of the bundle: a parse that asked for the connection would stop the whole processor
until it has built Airflow's API in memory, which took 20 s.

A file that was a DAG before is reported to the connection that it had then, a new one to the
connection that its text names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from loadsheet.airflow.dag_ids import texts_in
from loadsheet.airflow.slack import post_file_message
from loadsheet.airflow.stubs import Stubs, alert_of, message_of, write_atomically
from loadsheet.redact import summary

_log = logging.getLogger(__name__)
_DEFAULT_EVENTS = ("failure", "recovery")
_TRY_AGAIN_SECONDS = 60.0


@dataclass(frozen=True)
class _State:
    """Where messages about a file go, and the hash of the problems that were reported last."""

    slack_conn_id: str
    events: tuple[str, ...]
    reported: str = ""


def report_problems(stub: Path, spec: Path, shown: str, problems: str) -> None:
    """Leave one message, if these `problems` were not reported yet. `stub` is the DAG file of the
    pipeline file `spec`, which messages call `shown`. Never raises."""
    state = _read(stub)
    conn_id = texts_in(spec).get("notify.slack_conn_id")
    if state is None and conn_id:
        state = _State(conn_id, _DEFAULT_EVENTS)
    if state is None or "failure" not in state.events:
        return
    reported = hashlib.sha256(problems.encode(errors="replace")).hexdigest()
    if state.reported != reported and _write(stub, replace(state, reported=reported)):
        _leave(stub, state.slack_conn_id, shown, problems)


def report_repair(stub: Path, shown: str, dag: DAG) -> None:
    """Leave one message, if problems of the file were reported and it is a DAG now; note where
    messages about it go. Never raises."""
    before = _read(stub)
    notify = getattr(dag, "loadsheet_notify", None)
    if notify is None:
        with contextlib.suppress(OSError):
            alert_of(stub).unlink(missing_ok=True)
        return
    after = _State(notify.slack_conn_id, tuple(notify.events))
    if before == after or not _write(stub, after):
        return
    if before is None or not before.reported or "recovery" not in after.events:
        return
    try:
        # Slack was not told of the problems yet, and need not be.
        message_of(stub).unlink()
    except OSError:
        _leave(stub, after.slack_conn_id, shown, "")


def _leave(stub: Path, slack_conn_id: str, shown: str, problems: str) -> None:
    message = {"slack_conn_id": slack_conn_id, "file": shown, "problems": problems}
    try:
        write_atomically(message_of(stub), json.dumps(message), drafts=stub.parents[1])
    except OSError as error:
        _log.warning("Slack gets no message about this file: %s", summary(error))


def _read(stub: Path) -> _State | None:
    try:
        noted: dict[str, Any] = json.loads(alert_of(stub).read_text(encoding="utf-8"))
        return _State(noted["slack_conn_id"], tuple(noted["events"]), noted["reported"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(stub: Path, state: _State) -> bool:
    """Whether the state could be noted. If not, each parse would leave the same message."""
    try:
        write_atomically(alert_of(stub), json.dumps(asdict(state)), drafts=stub.parents[1])
    except OSError as error:
        _log.warning("Slack gets no message about this file: %s", summary(error))
        return False
    return True


class Messages:
    """Sends what the parses of the DAG files of `stubs` have left."""

    def __init__(self, stubs: Stubs):
        self._folder = stubs.messages
        self._wait_until = 0.0

    def send(self) -> None:
        """Send all messages. If Slack refuses one or cannot be reached, it and the others are tried
        again after a minute, so that the DAG processor loses at most a tenth of its time."""
        if time.monotonic() < self._wait_until:
            return
        for name in sorted(os.listdir(self._folder)):
            if not self._send(self._folder / name):
                self._wait_until = time.monotonic() + _TRY_AGAIN_SECONDS
                return

    def _send(self, file: Path) -> bool:
        """Whether the message needs no other try."""
        try:
            message = json.loads(file.read_text(encoding="utf-8"))
            post_file_message(message["slack_conn_id"], message["file"], message["problems"])
        except FileNotFoundError:  # repaired meanwhile
            return True
        except TimeoutError as error:
            _log.warning("Slack may not have got the message of %s: %s", file.name, summary(error))
        except Exception as error:
            _log.warning("Slack did not get the message of %s: %s", file.name, summary(error))
            return False
        file.unlink(missing_ok=True)
        return True
