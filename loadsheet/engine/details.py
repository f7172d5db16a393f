"""What a step reads and writes, as log lines in groups: Airflow's log folds a group, `-v` shows it
on one line.

Names, bounds of cursors, SQL and counts; never rows, and nothing that looks like a secret.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from loadsheet.redact import on_one_line, without_secrets

_log = logging.getLogger(__name__)
_folded: ContextVar[bool] = ContextVar("loadsheet_folded_details", default=False)
_hidden: ContextVar[bool] = ContextVar("loadsheet_hidden_details", default=False)


@contextmanager
def folded() -> Iterator[None]:
    """Groups are written as Airflow's log viewer folds them."""
    token = _folded.set(True)
    try:
        yield
    finally:
        _folded.reset(token)


@contextmanager
def group(title: str) -> Iterator[None]:
    """What is logged within is a group, where groups are folded. Those within it are single lines:
    Airflow's log viewer folds no group in a group."""
    if not _folded.get():
        yield
        return
    _log.info("::group::%s", on_one_line(title))
    token = _folded.set(False)
    try:
        yield
    finally:
        _folded.reset(token)
        _log.info("::endgroup::")


@contextmanager
def hidden() -> Iterator[None]:
    """Groups are not written: several threads would mix theirs."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def show(title: str, facts: Mapping[str, object]) -> None:
    """Log a group. A fact without a value (None, "") is left out."""
    if _hidden.get():
        return
    lines = []
    for name, value in facts.items():
        if value not in (None, ""):
            lines.append(f"{name}: {without_secrets(on_one_line(str(value)))}")
    title = on_one_line(title)
    if not _folded.get():
        _log.info("%s: %s", title, "; ".join(lines))
        return
    _log.info("::group::%s", title)
    for line in lines:
        _log.info("%s", line)
    _log.info("::endgroup::")


def amount(rows: int, size: int, started: float) -> dict[str, str]:
    """Rows, bytes, seconds and rate of what began at `started` (monotonic)."""
    seconds = max(time.monotonic() - started, 0.001)
    return {
        "rows": f"{rows:,}",
        "bytes": f"{size:,}",
        "seconds": f"{seconds:.1f}",
        "rate": f"{rows / seconds:,.0f} rows/s, {size / 1e6 / seconds:,.1f} MB/s",
    }
