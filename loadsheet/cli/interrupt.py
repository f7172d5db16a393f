"""Ctrl-C, `kill` and a terminal that is closed, while steps run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from loadsheet.cli.errors import say
from loadsheet.cli.progress import Live

_PATIENCE = 5.0
_STOPPED_BY = 128
"""What shells add to a signal's number: 130 is Ctrl-C, 143 `kill`, 129 a terminal that is gone."""


@contextmanager
def stopping_at_once(live: Live, way_on: str) -> Iterator[None]:
    """Within, such a signal clears the screen, says what now is (and the `way_on`), and ends the
    process.

    A KeyboardInterrupt would wait for the worker threads, and those sit in a COPY until it is done.
    Going away is safe: a server rolls back what a lost client has not committed, and the next run
    takes over by its fence.
    """

    def tell() -> None:
        live.__exit__(None, None, None)
        say(f"interrupted: what was loaded stays, unfinished steps are rolled back. {way_on}")
        sys.stdout.flush()

    def stop(number: int) -> None:
        # A thread, and only so long: the terminal may be gone, and a pager that stands still keeps
        # a worker in a write.
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(_PATIENCE)
        os._exit(_STOPPED_BY + number)

    with _on_signal(stop):
        yield


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Within, `kill` and a closed terminal do what Ctrl-C does, so that what was made for a while
    is taken away."""

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    with _on_signal(interrupt):
        yield


@contextmanager
def _on_signal(act: Callable[[int], None]) -> Iterator[None]:
    """Within, `act` is called for those of the three signals that we were not told to ignore
    (nohup,
    `&` in a script)."""

    def handle(number: int, frame: FrameType | None) -> None:
        act(number)

    numbers = [
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    ]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])
