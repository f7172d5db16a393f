"""Named points between the steps of the protocol, where a test makes the process die, fail or hang.

`LOADSHEET_FAILPOINT=<point>:<kill|raise|hang>[:<n>]` arms one of them for the n-th time it is
reached (default: the first). Unarmed, a point costs one look at the environment; none lies inside a
loop over rows.
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
POINTS = (
    *(
        "step.begun",
        "bucket.missing",
        "ledger.created",
        "extract.observed",
        "extract.decided",
        "extract.snapshot",
    ),
    *(
        "extract.fenced",
        "extract.part_stored",
        "extract.copied",
        "extract.unchanged",
        "extract.parts_stored",
    ),
    *(
        "extract.manifest_stored",
        "extract.sealed",
        "load.manifest_read",
        "load.locked",
        "load.fence_checked",
    ),
    *(
        "load.altered",
        "load.part_copied",
        "load.filled",
        "swap.dropped",
        "difference.deleted",
        "merge.updated",
    ),
    *("load.applied", "load.recorded", "load.advanced", "load.committed"),
    *("transform.locked", "transform.built", "transform.recorded", "transform.committed"),
)
_reached: Counter[str] = Counter()
_counting = threading.Lock()


class Reached(Unavailable):
    """What an armed point raises: a failure that a retry mends."""


def reach(point: str) -> None:
    """Say that the protocol stands at `point`. Does nothing unless that point is armed."""
    if armed := os.environ.get(VARIABLE):
        _fire(armed, point)


def _fire(armed: str, point: str) -> None:
    name, action, *nth = armed.split(":")
    if name not in POINTS or action not in ("kill", "raise", "hang"):
        raise ValueError(f"{VARIABLE}={armed}: no such point or action")
    if name != point:
        return
    with _counting:
        _reached[armed] += 1
        if _reached[armed] != int(*nth or "1"):
            return
    print(f"failpoint {point}: {action}", file=sys.stderr, flush=True)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        _hang()
    raise Reached(f"failpoint {point}")


def _hang() -> None:
    """Wait as on a server that says nothing more: until the step's time is up and its connections
    are shut."""
    for_ever = threading.Event()
    watch(for_ever.set)
    for_ever.wait()
