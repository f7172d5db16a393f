"""Ctrl-C while steps run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from loadsheet.cli.errors import INTERRUPTED, say
from loadsheet.cli.live import Live


@contextmanager
def stopping_at_once(live: Live, way_on: str) -> Iterator[None]:
    """Within, Ctrl-C clears the screen, says what now is (and the `way_on`), and ends the process.

    A KeyboardInterrupt would wait for the worker threads, and those sit in a COPY until it is done. Going away is
    safe: a server rolls back what a lost client has not committed, and the next run takes over by its fence.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        live.__exit__(None, None, None)
        say(f"interrupted: what was loaded stays, unfinished steps are rolled back. {way_on}")
        sys.stdout.flush()
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
