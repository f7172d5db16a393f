"""The time limit of a step. When it is reached, all connections that the step has opened are shut,
so that no thread keeps waiting on them.

Airflow's own timeout is not enough: it raises an exception in the task once, and a clean-up that
then waits on the same dead connection hangs. `loadsheet run` runs its steps in threads, where no
exception can be raised from outside. Shutting a socket ends every kind of wait on it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta

from loadsheet.errors import TimedOut

_current: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextlib.contextmanager
def limited(what: str, limit: timedelta) -> Iterator[None]:
    """Within the block, connections that were given to `watch` live at most `limit`, and within
    another limit not longer than that one has left. Raises TimedOut in place of the errors that
    shutting them causes, and where no time is left.

    `what` names the step, for the error.
    """
    current = _Limit(what, min(limit.total_seconds(), remaining()))
    token = _current.set(current)
    try:
        with current.ticking():
            yield
    except Exception as error:
        if current.is_over and not isinstance(error, TimedOut):
            raise current.error() from error
        raise
    finally:
        _current.reset(token)


def watch(shut: Callable[[], object]) -> None:
    """Call `shut` when the step's time is up, from another thread; it may fail. Outside of a step
    this does nothing.

    Raises TimedOut when the time is up already.
    """
    current = _current.get()
    if current:
        current.watch(shut)


def remaining() -> float:
    """The seconds that the step has left, never below 0; infinite outside of a step. Raises
    TimedOut when its time is up."""
    current = _current.get()
    if current is None:
        return float("inf")
    return current.remaining()


class _Limit:
    def __init__(self, what: str, seconds: float):
        self._what = what
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._watched: list[Callable[[], object]] = []
        self.is_over = False

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        timer = threading.Timer(min(self._seconds, threading.TIMEOUT_MAX), self._end)
        # A process that ends does not wait for it.
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def watch(self, shut: Callable[[], object]) -> None:
        with self._lock:
            self._watched.append(shut)
        # Checked after it is on the list: if the time ends in between, it is shut twice, not never.
        if self.is_over:
            shut()
            raise self.error()

    def remaining(self) -> float:
        if self.is_over:
            raise self.error()
        return max(self._deadline - time.monotonic(), 0.0)

    def error(self) -> TimedOut:
        return TimedOut(
            f"{self._what} took longer than its timeout ({self._seconds:g} s) and was stopped;"
            " uncommitted changes are rolled back. Run it again; raise tasks.timeout if it needs"
            " more time"
        )

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            watched = list(self._watched)
        # Without the lock: shutting may take a while, and a step may start to watch meanwhile.
        for shut in watched:
            with contextlib.suppress(Exception):  # it has been closed meanwhile
                shut()
