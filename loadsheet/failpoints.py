"""Named points between the steps of the protocol, where a test makes the process die, fail or hang.

`LOADSHEET_FAILPOINT=<point>:<kill|raise|hang>[:<n>]` arms one of them for the n-th time it is reached (default: the
first). Unarmed, a point costs one look at the environment; none lies inside a loop over rows.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

VARIABLE = "LOADSHEET_FAILPOINT"
POINTS = (
    *("extract.observed", "extract.decided", "extract.snapshot", "extract.fenced", "extract.part_stored"),
    *("extract.copied", "extract.parts_stored", "extract.manifest_stored", "extract.sealed"),
    *("load.manifest_read", "load.locked", "load.fence_checked", "load.part_copied", "load.filled", "load.applied"),
    *("load.recorded", "load.advanced", "load.committed", "swap.dropped"),
    *("transform.locked", "transform.built", "transform.recorded", "transform.committed"),
)
_reached: Counter[str] = Counter()
_for_ever = threading.Event()


class Reached(ConnectionError):
    """What an armed point raises: a failure that a retry mends."""


def reach(point: str) -> None:
    """Say that the protocol stands at `point`. Does nothing unless that point is armed."""
    if armed := os.environ.get(VARIABLE):
        _fire(armed, point)


def _fire(armed: str, point: str) -> None:
    assert point in POINTS, point
    name, action, *nth = armed.split(":")
    _reached[armed] += name == point
    if name != point or _reached[armed] != int(*nth or "1"):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise Reached(f"failpoint {point}")
    _for_ever.wait()
