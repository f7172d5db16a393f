"""Escapes what our modules log in Airflow: text from outside cannot pass for lines of the log.

Airflow's log viewer shows colours, breaks lines, and folds what follows `::group::`. A table's
name, a run's id or a server's message may hold all of these. Only groups of our own are folded:
those whose marker is in the text of the log call, not in what is filled into it.
"""

from __future__ import annotations

import logging

from loadsheet.redact import on_one_line, without_secrets
from loadsheet.wording import LONGEST_MESSAGE, shortened

_MARKERS = ("::group::", "::endgroup::")


def install() -> None:
    """From now on, what our modules log in this process is escaped."""
    ours = logging.getLogger("loadsheet")
    if not any(isinstance(handler, _Escaping) for handler in ours.handlers):
        ours.addHandler(_Escaping())


def line(record: logging.LogRecord) -> str:
    """The message of the record on one line, with all that steers a viewer made visible."""
    own = next((marker for marker in _MARKERS if str(record.msg).startswith(marker)), "")
    text = record.getMessage()[len(own) :]
    for marker in _MARKERS:
        text = text.replace(marker, marker.replace("::", ": :"))
    return own + on_one_line(without_secrets(shortened(text, LONGEST_MESSAGE)))


class _Escaping(logging.Handler):
    """Changes the record for the handlers that get it next: Airflow's, of the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = line(record), ()
