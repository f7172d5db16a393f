"""Named points between the steps of the protocol, where a test makes the process die, fail or hang.

`LOADSHEET_FAILPOINT=<point>:<kill|raise|hang>[:<n>]` arms one of them for the n-th time it is
reached (default: the first). An unarmed point costs one lookup in the environment; there is none
inside a loop over rows.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter

from loadsheet.deadline import watch
from loadsheet.errors import Unavailable

VARIABLE = "LOADSHEET_FAILPOINT"
POINTS = tuple(
    """
    step.begun bucket.missing ledger.created
    extract.observed extract.decided extract.snapshot extract.deletes_found repair.compared
    extract.fenced extract.part_stored early.begun early.block_copied
    early.copied
    extract.copied extract.unchanged extract.parts_stored extract.manifest_stored extract.sealed
    load.manifest_read load.locked load.fence_checked load.altered load.part_copied load.filled
    load.gone_removed
    swap.dropped difference.deleted merge.written fill.updated
    load.applied load.recorded load.advanced load.committed restore.placed
    transform.locked transform.built transform.recorded transform.committed
    """.split()
)
"""In the order of the protocol."""
_reached: Counter[str] = Counter()
_counting = threading.Lock()


class Reached(Unavailable):
    """What an armed point raises: a failure after which a retry succeeds."""


def reach(point: str) -> None:
    """Called when the protocol has reached `point`. Does nothing unless that point is armed."""
    armed = os.environ.get(VARIABLE)
    if armed:
        _fire(armed, point)


def _fire(armed: str, point: str) -> None:
    """Kill, fail or hang if `armed` means this point. Raises ValueError for a name or an action
    that does not exist: a test with a typo would pass without its fault."""
    name, action, *nth = armed.split(":")
    if name not in POINTS or action not in ("kill", "raise", "hang"):
        raise ValueError(f"{VARIABLE}={armed}: no such point or action")
    if name != point:
        return
    with _counting:
        _reached[armed] += 1
        wanted = int(nth[0]) if nth else 1
        if _reached[armed] != wanted:
            return
    print(f"failpoint {point}: {action}", file=sys.stderr, flush=True)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        # As a server that does not answer: until the step's time is up.
        time_is_up = threading.Event()
        watch(time_is_up.set)
        time_is_up.wait()
    raise Reached(f"failpoint {point}")
