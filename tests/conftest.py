"""For every suite: nothing is remembered from one test, or run of the tests, to the next: what the
check of a spec has found, which run was stopped. And programs that tests start heed signals."""

from __future__ import annotations

import gc
import os
import signal
import sys

os.environ["LOADSHEET_CACHE"] = os.environ["LOADSHEET_STATE"] = ""


def heed_signals_in_children() -> None:
    """Let Ctrl-C and a hangup end the programs that tests start, also where the tests are a
    background job (`nohup make test &`, many CI runners): such a job ignores both, and programs
    inherit what is ignored.

    The tests themselves go on ignoring them, by a handler: a new program does not inherit that.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


heed_signals_in_children()


def pytest_collection_finish() -> None:
    """Of what was imported and collected nothing becomes garbage: to look through all of it again
    and again took 0.2 of the 3.6 s of `test_compiled.py` and `test_order.py`. And garbage is looked
    for rarely, as by the command line: 20.1 instead of 20.4 s of a core for `test_adopt.py`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_sessionfinish() -> None:
    """The process that forks others would end a moment after the tests, and be found running."""
    if forked := sys.modules.get("tests.forked"):
        forked.end()
