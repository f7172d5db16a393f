"""What Ctrl-C, `kill` and a closed terminal do while steps run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from loadsheet.cli.errors import say
from loadsheet.cli.progress import Live

_PRINTING_SECONDS = 5.0
# What shells add to a signal's number: 130 is Ctrl-C, 143 `kill`, 129 a closed terminal.
_SIGNAL_EXIT = 128


@contextmanager
def exiting_at_once(live: Live, state: str, next_step: str) -> Iterator[None]:
    """Within, such a signal clears the screen, prints `state` (what was done and what was not) and
    `next_step`, and ends the process.

    A KeyboardInterrupt would wait for the worker threads, and those sit in a COPY until it is done.
    To end at once is safe: a server rolls back what a lost client has not committed, and the next
    run takes over by its fence.
    """

    def print_state() -> None:
        live.__exit__(None, None, None)
        say(f"interrupted: {state}. {next_step}")
        sys.stdout.flush()

    def stop(number: int) -> None:
        # In a thread, and with a limit: printing blocks where the terminal is gone, or where a
        # pager does not read on.
        printer = threading.Thread(target=print_state, daemon=True)
        printer.start()
        printer.join(_PRINTING_SECONDS)
        # Not `sys.exit`, which would wait for the worker threads.
        os._exit(_SIGNAL_EXIT + number)

    with _on_signal(stop):
        yield


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Within, `kill` and a closed terminal do what Ctrl-C does, so that temporary databases are
    dropped."""

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    with _on_signal(interrupt):
        yield


@contextmanager
def _on_signal(act: Callable[[int], None]) -> Iterator[None]:
    """Within, `act` is called for the three signals, but not for an interrupt or a hangup that the
    process was started to ignore: `nohup` asks for the one, and a shell's `&` in a script for the
    other. To be told to end is never ignored: else only SIGKILL would be left."""

    def handle(number: int, frame: FrameType | None) -> None:
        act(number)

    before: dict[int, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None:
            continue
        is_ignored = signal.getsignal(number) is signal.SIG_IGN
        if not is_ignored or name == "SIGTERM":
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
