"""The time a step may take. When it is up, all connections the step has opened are shut, so that
nobody waits on.

Airflow's own timeout raises in the task once; it cannot free a clean-up that then waits on the same
dead line, and `loadsheet run` has its steps in threads, where nothing can be raised. A shut socket
ends every wait there is.
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
    """Within, this thread's connections live at most `limit`. Raises TimedOut in place of what they
    fail with then.

    `what` names the step and says where its limit is set.
    """
    bound = _Limit(what, limit.total_seconds())
    token = _current.set(bound)
    try:
        with bound.ticking():
            yield
    except Exception as error:
        if bound.is_over and not isinstance(error, TimedOut):
            raise bound.error() from error
        raise
    finally:
        _current.reset(token)


def watch(shut: Callable[[], object]) -> None:
    """Have a new connection `shut` when the step's time is up; that may be called from any thread,
    and may fail.

    Raises TimedOut when it is up already.
    """
    if bound := _current.get():
        bound.watch(shut)


def remaining() -> float:
    """Seconds the step has left, never below 0; infinite outside of a step. Raises TimedOut when
    its time is up."""
    bound = _current.get()
    return bound.remaining() if bound else float("inf")


class _Limit:
    def __init__(self, what: str, seconds: float):
        self._what, self._seconds = what, seconds
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._watched: list[Callable[[], object]] = []
        self.is_over = False

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        timer = threading.Timer(min(self._seconds, threading.TIMEOUT_MAX), self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def watch(self, shut: Callable[[], object]) -> None:
        with self._lock:
            self._watched.append(shut)
        if self.is_over:  # asked after it is on the list, so that none slips through between
            shut()
            raise self.error()

    def remaining(self) -> float:
        if self.is_over:
            raise self.error()
        return max(self._deadline - time.monotonic(), 0.0)

    def error(self) -> TimedOut:
        return TimedOut(
            f"{self._what} took longer than its timeout ({self._seconds:g} s) and was stopped; what"
            " was not committed is undone. Run it again; raise tasks.timeout if it needs more time"
        )

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            watched = list(self._watched)
        for shut in watched:
            with contextlib.suppress(Exception):  # closed meanwhile
                shut()
